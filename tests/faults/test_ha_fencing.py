"""Two operators that both believe a run to be theirs: only the last to have begun it is heard."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from etcd_steward.handlers import status as transition
from etcd_steward.handlers.read import read_status
from etcd_steward.handlers.writer import Gone, StatusWriter
from etcd_steward.kube import SNAPSHOTS, Key, Kube, version_of
from etcd_steward.models.kinds import EtcdSnapshotStatus
from etcd_steward.models.run import Progress
from tests.support.users import User, run
from tests.testbed import ControlPlane
from tests.testbed.steward import NAMESPACE, install

NOW = datetime(2026, 11, 22, 2, 17, tzinfo=UTC)
STREAMING = Progress(step="Streaming", raw_bytes=1, total_bytes=2)


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[Kube]:
    """An API server that serves our kinds, and no operator."""
    await install(control_plane)
    client = await Kube.connect(control_plane.kubeconfig)
    yield client
    await client.aclose()
    await control_plane.kubectl("delete", "esnap", "--all", f"--namespace={NAMESPACE}")


@pytest.fixture
async def key(kube: Kube, control_plane: ControlPlane) -> Key:  # noqa: ARG001, the kind must be there
    """An EtcdSnapshot that nobody drives."""
    await User(control_plane).apply(run("fenced", "nothing"))
    return Key(NAMESPACE, "fenced")


async def writer_of(kube: Kube, key: Key) -> StatusWriter[EtcdSnapshotStatus]:
    """What an operator has that has just seen the run."""
    found = await kube.get(SNAPSHOTS, key)
    return StatusWriter(kube, key, version_of(found), read_status(EtcdSnapshotStatus, found).status)


async def shown(kube: Kube, key: Key) -> EtcdSnapshotStatus:
    """The status as everybody sees it."""
    return read_status(EtcdSnapshotStatus, await kube.get(SNAPSHOTS, key)).status


async def begin(writer: StatusWriter[EtcdSnapshotStatus], starts: int) -> None:
    """Begin an attempt."""
    writer.status = transition.started(writer.status, attempt=1, starts=starts, now=NOW)
    assert await writer.write(asyncio.Event())


async def test_an_operator_whose_run_was_begun_by_another_is_not_heard(
    kube: Kube, key: Key
) -> None:
    old = await writer_of(kube, key)
    await begin(old, 1)
    new = await writer_of(kube, key)
    await begin(new, 2)
    theirs = await shown(kube, key)
    old.status = transition.progressed(old.status, STREAMING, now=datetime.now(UTC))
    with pytest.raises(Gone):
        await old.try_write()
    assert await shown(kube, key) == theirs
    # For good: whatever it still wants to say, with nobody writing meanwhile.
    old.status = transition.waiting(old.status, "Stopped with the operator")
    with pytest.raises(Gone):
        await old.write(asyncio.Event())
    assert await shown(kube, key) == theirs
    new.status = transition.progressed(new.status, STREAMING, now=NOW)
    await new.try_write()
    assert (await shown(kube, key)).starts == 2


async def test_two_that_begin_at_once_do_not_both_believe_it(kube: Kube, key: Key) -> None:
    old, new = await writer_of(kube, key), await writer_of(kube, key)
    await begin(new, 1)
    theirs = await shown(kube, key)
    old.status = transition.started(old.status, attempt=1, starts=1, now=datetime.now(UTC))
    with pytest.raises(Gone):
        await old.try_write()
    assert await shown(kube, key) == theirs


async def test_what_changes_beside_the_status_stops_nobody(
    kube: Kube, key: Key, control_plane: ControlPlane
) -> None:
    writer = await writer_of(kube, key)
    await begin(writer, 1)
    await control_plane.kubectl("label", "esnap", key.name, f"--namespace={NAMESPACE}", "a=b")
    await begin(writer, 2)
    assert (await shown(kube, key)).starts == 2
    writer.status = transition.progressed(writer.status, STREAMING, now=NOW)
    await writer.try_write()


async def test_a_run_that_was_read_again_may_be_begun_again(kube: Kube, key: Key) -> None:
    old = await writer_of(kube, key)
    await begin(old, 1)
    await begin(await writer_of(kube, key), 2)
    await old.read_again()
    await begin(old, 3)
    assert (await shown(kube, key)).starts == 3
