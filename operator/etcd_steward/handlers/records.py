"""Which EtcdSnapshots must come, change and go so that they say what lies in the store: pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from etcd_steward.handlers import status as transition
from etcd_steward.handlers.agenda import run_name
from etcd_steward.handlers.entry import Entry
from etcd_steward.handlers.standing import Order, Run
from etcd_steward.handlers.words import timestamp
from etcd_steward.kube import Key
from etcd_steward.kube_client import Object
from etcd_steward.models.kinds import BACKUP_LABEL, EtcdSnapshotStatus


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes the records follow the store."""

    missing: tuple[tuple[str, Entry], ...] = ()
    """Backups without a record, each with a name for one."""
    stale: tuple[tuple[Run, EtcdSnapshotStatus], ...] = ()
    """Records, and what they should say."""
    gone: tuple[Run, ...] = ()
    """Records of backups that are there no more."""


def snapshot_of(backup: Key, name: str) -> Object:
    """A new EtcdSnapshot of an EtcdBackup."""
    return {
        "kind": "EtcdSnapshot",
        "metadata": {
            "name": name,
            "namespace": backup.namespace,
            "labels": {BACKUP_LABEL: backup.name},
        },
        "spec": {"backupName": backup.name},
    }


def folder_of(run: Run) -> str | None:
    """The folder of a backup, as far as its record knows it: the URL's last three parts."""
    if run.found_in is not None:
        return run.found_in
    if not run.complete or run.status.artifact is None:
        return None
    return "/".join(run.status.artifact.url.split("/")[-3:])


def changes(
    order: Order, runs: Sequence[Run], entries: Iterable[Entry], store_url: str, began: datetime
) -> Changes:
    """Compare what was found in the store, from `began` on, with what is recorded.

    A run that is under way is left alone, and so is the record of a backup in another store.
    """
    found = {entry.folder: entry for entry in entries}
    recorded = {folder: run for run in runs if (folder := folder_of(run)) is not None}
    under_way = {run.version.uid for run in runs if not run.terminal}
    names = {run.key.name for run in runs}
    missing: dict[str, Entry] = {}
    for folder, entry in found.items():
        if folder not in recorded and entry.run_uid not in under_way:
            name = _name(order, entry, names | missing.keys())
            missing[name] = entry
    return Changes(
        missing=tuple(missing.items()),
        stale=tuple(_stale(recorded, found, began)),
        gone=tuple(
            run
            for folder, run in recorded.items()
            if folder not in found and _gone(run, store_url, began)
        ),
    )


def _stale(
    recorded: Mapping[str, Run], found: Mapping[str, Entry], now: datetime
) -> Iterable[tuple[Run, EtcdSnapshotStatus]]:
    for folder, run in recorded.items():
        entry = found.get(folder)
        if entry is None:
            continue
        # A record whose status was never written is written whole.
        wanted = (
            transition.followed(run.status, entry, now=now)
            if run.complete
            else transition.recorded(run.status, entry)
        )
        if wanted != run.status:
            yield run, wanted


def _gone(run: Run, store_url: str, began: datetime) -> bool:
    if run.status.artifact is None:
        return True  # a record that was never written, of a backup that is not there
    here = run.status.artifact.url.rpartition("/")[0].startswith(f"{store_url}/")
    return here and run.ended < timestamp(began)


def _name(order: Order, entry: Entry, taken: set[str]) -> str:
    """The name that the run had, or that its tick would have had; with its digits if taken."""
    name = entry.run_name or run_name(order, entry.tick)
    return name if name not in taken else f"{name}-{entry.folder.rpartition('-')[2]}"
