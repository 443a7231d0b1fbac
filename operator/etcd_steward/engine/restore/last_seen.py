"""In which backup a namespace was seen last: where to look for one that a source has not."""

from typing import Final

from etcd_steward.engine.manifests import Backup, contents, read_backups
from etcd_steward.engine.parquet_source import ParquetSource
from etcd_steward.engine.sidecar import open_registry
from etcd_steward.errors import IntegrityError, NoSuchNamespace, NoSuchStore, NotFound
from etcd_steward.models.connection import StoreSettings
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import Store
from etcd_steward.registry.paths import root_of
from etcd_steward.store import open_store

_LOOKED_INTO: Final = 20
"""Backups, the newest first, a few requests each."""


async def told_where(
    error: NoSuchNamespace, settings: StoreSettings, prefix: str
) -> NoSuchNamespace:
    """The same error, with the backups that have what is missing, if there are any.

    Raises what the store raises.
    """
    try:
        async with open_store(settings) as store:
            found, looked = await _search(store, set(error.names), prefix)
    except NoSuchStore:
        return error
    if not looked:
        return error
    told = [f"{name} was last seen in {url}" for name, url in sorted(found.items())]
    lost = [name for name in error.names if name not in found]
    told += [f"{', '.join(lost)} is in none of the newest {looked} backups"] if lost else []
    better = NoSuchNamespace(error.message, hint="; ".join([error.hint, *told]))
    better.names = error.names
    return better


async def _search(store: Store, names: set[str], prefix: str) -> tuple[dict[str, str], int]:
    """The newest backups of these namespaces, and into how many was looked."""
    keys = {root_of(prefix) + f"namespaces/{name}".encode(): name for name in names}
    runs = (await contents(store))[-_LOOKED_INTO:]
    found: dict[str, str] = {}
    looked = 0
    for backup in reversed(await read_backups(store, runs)):
        if not isinstance(backup, Backup):
            continue
        left = [key for key in keys if keys[key] not in found]
        there = await _there(store, backup.manifest, left)
        if there is None:
            continue
        looked += 1
        url = f"{store.url}/{backup.manifest.folder}"
        found |= {keys[key]: url for key in there}
        if len(found) == len(keys):
            break
    return found, looked


async def _there(store: Store, manifest: Manifest, keys: list[bytes]) -> list[bytes] | None:
    """Which of these keys a backup has; None where that can't be told without all of it."""
    try:
        source = ParquetSource(await open_registry(store, manifest), manifest.folder)
        return list(await source.fetch(keys))
    except (NotFound, IntegrityError):
        return None
