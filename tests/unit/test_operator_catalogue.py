"""Which store is looked through next."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from etcd_steward.config import OperatorConfig
from etcd_steward.handlers import words
from etcd_steward.handlers.catalogue import Catalogue
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.standing import Looked, Order
from etcd_steward.kube import Key, Kube, Version
from etcd_steward.metrics import BackupMetrics, Board
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.kinds import EtcdBackupSpec, EtcdBackupStatus
from etcd_steward.models.manifest import BackupRef
from etcd_steward.models.places import StoreSpec
from etcd_steward.models.run import Catalogued, CatalogueRequest, SpoolSettings

KEY = Key("ns", "nightly")
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CONFIG = OperatorConfig(
    namespace="ns",
    etcd=None,
    etcd_namespaces=("ns",),
    spool=SpoolSettings(directory=Path("/nowhere")),
)


@pytest.fixture
def catalogue() -> Catalogue:
    """A loop that has looked nowhere yet; it asks no API server here."""
    return Catalogue(Context(CONFIG, cast("Kube", None), BackupMetrics(Board(CollectorRegistry()))))


def follow(
    catalogue: Catalogue, *, looked: datetime | None = None, verified: datetime | None = None
) -> None:
    """Show it an order."""
    status = EtcdBackupStatus(
        looked_time=words.timestamp(looked) if looked else None,
        last_verified_time=words.timestamp(verified) if verified else None,
    )
    order = Order(
        key=KEY,
        version=Version("uid", 1),
        generation=1,
        created=NOW,
        deleting=False,
        status=status,
        spec=EtcdBackupSpec(store=StoreSpec()),
    )
    catalogue.context.inventory.see_order(order, gone=False)


def test_a_store_is_looked_through_when_it_never_was_or_not_for_long(catalogue: Catalogue) -> None:
    follow(catalogue)
    assert catalogue._next(NOW) == KEY
    follow(catalogue, looked=NOW - 59 * MINUTE)
    assert catalogue._next(NOW) is None
    follow(catalogue, looked=NOW - 61 * MINUTE)
    assert catalogue._next(NOW) == KEY


def test_a_look_that_a_dead_operator_owed_is_made_soon(catalogue: Catalogue) -> None:
    follow(catalogue, looked=NOW - 10 * MINUTE, verified=NOW - 11 * MINUTE)
    assert catalogue._next(NOW) is None
    follow(catalogue, looked=NOW - 10 * MINUTE, verified=NOW - 9 * MINUTE)
    assert catalogue._next(NOW) == KEY


def test_a_look_that_fails_is_not_made_again_at_once(catalogue: Catalogue) -> None:
    follow(catalogue, looked=NOW - 10 * MINUTE, verified=NOW - 9 * MINUTE)
    catalogue.context.looked[KEY] = Looked(NOW - MINUTE, failure="no answer")
    assert catalogue._next(NOW) is None
    assert catalogue._next(NOW + 60 * MINUTE) == KEY


@pytest.mark.parametrize("anew", [False, True])
async def test_what_a_look_found_of_a_deleted_order_is_dropped(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, *, anew: bool
) -> None:
    """One of that name that was made meanwhile may name another store; nothing is written."""
    follow(catalogue)
    inventory = catalogue.context.inventory
    order = inventory.orders[KEY]

    async def requested(*_: object, **_more: object) -> CatalogueRequest:
        store = LocalSettings(path=Path("/nowhere"))
        return CatalogueRequest(store=store, backup=BackupRef(namespace="ns", name="nightly"))

    async def found(*_: object) -> Catalogued:
        inventory.see_order(order, gone=True)
        if anew:
            inventory.see_order(replace(order, version=Version("another", 2)), gone=False)
        return Catalogued(
            cluster="c", cluster_id="1", kept=1, pruned=(), frozen="no etcd", unreadable=()
        )

    monkeypatch.setattr(Catalogue, "_request", requested)
    monkeypatch.setattr(Catalogue, "_child", found)
    looked = await catalogue._look_through(order, prune=False)
    assert looked.failure is not None
    assert "deleted" in looked.failure
