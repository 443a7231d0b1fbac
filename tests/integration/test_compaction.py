"""Compaction of real etcds: guarded, by what was seen, and never what is still read."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from etcd_steward.app import open_etcd
from etcd_steward.engine.announce import needed, needing
from etcd_steward.engine.maintenance import token
from etcd_steward.engine.maintenance.compaction import compact
from etcd_steward.errors import Compacted, InvalidInput
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.maintenance import CompactionOptions, MaintenanceOptions
from etcd_steward.models.maintenance_run import Sighting
from tests.support.cli import steward
from tests.support.maintenance import compaction_request, retain
from tests.support.runs import Heard, connection
from tests.testbed import EtcdCluster


async def write(client: EtcdClient, count: int) -> int:
    """So many revisions of one key; the last."""
    for number in range(count):
        answer = await client.put(b"/busy", b"%d" % number)
    return answer.header.revision


async def renew(client: EtcdClient, ago: int) -> int:
    """Renew a Lease as it was so many seconds ago; the revision."""
    at = datetime.now(UTC) - timedelta(seconds=ago)
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "clock", "namespace": "kube-system"},
        "spec": {"renewTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")},
    }
    answer = await client.put(b"/registry/leases/kube-system/clock", json.dumps(lease).encode())
    return answer.header.revision


async def readable(client: EtcdClient, revision: int) -> bool:
    try:
        await client.get(b"/busy", revision=revision)
    except Compacted:
        return False
    return True


async def test_so_many_revisions_stay(tmp_path: Path) -> None:
    """And never the newest alone; what a rescue needs is put beside."""
    async with EtcdCluster(tmp_path) as etcd, open_etcd(connection(etcd)) as client:
        last = await write(client, 50)
        keep = retain(retain_revisions=20)
        report = await compact(client, compaction_request(etcd, options=keep))
        now = report.revision
        assert report.outcome == "Compacted"
        assert report.compact_revision == now - 20 == await client.compact_revision()
        assert len(await token.standing(client)) == token.TOKENS
        assert await readable(client, now - 20)
        assert not await readable(client, now - 21)
        again = await compact(client, compaction_request(etcd, options=keep))
        assert again.outcome == "NotNeeded"
        assert "already" in again.reason
        planned = compaction_request(etcd, options=retain(retain_revisions=5), mode="Plan")
        told = await compact(client, planned)
        assert (told.mode, told.outcome, told.compact_revision) == ("Plan", "Compacted", now - 5)
        assert await client.compact_revision() == now - 20
        with pytest.raises(InvalidInput, match="in the future"):
            await compact(client, compaction_request(etcd, compact_to=now + 1))
        with pytest.raises(InvalidInput, match="newest there is"):
            await compact(client, compaction_request(etcd, compact_to=now))
        for gone in (now - 20, 1):
            assert (
                await compact(client, compaction_request(etcd, compact_to=gone))
            ).outcome == "NotNeeded"
        done = await compact(client, compaction_request(etcd, compact_to=last - 1))
        assert (done.outcome, done.compacted_from) == ("Compacted", now - 20)
        assert await client.compact_revision() == last - 1


async def test_a_running_export_is_not_overtaken(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path) as etcd, open_etcd(connection(etcd)) as client:
        old = await write(client, 30)
        await write(client, 30)
        asked = compaction_request(etcd, options=retain(retain_revisions=10))
        async with needing(client, old, "0a1b2c3d", seconds=60, report=Heard()):
            assert await needed(client) == {"0a1b2c3d": old}
            report = await compact(client, asked)
            assert report.compact_revision == old
            assert "export 0a1b2c3d still reads" in report.reason
            assert await readable(client, old)
            assert (await compact(client, asked)).outcome == "NotNeeded"
        assert await needed(client) == {}
        report = await compact(client, asked)
        assert report.compact_revision == report.revision - 10


async def test_by_command(tmp_path: Path) -> None:
    """Errors, exit codes and what is printed; without a registry no clock tells of times."""
    async with EtcdCluster(tmp_path) as etcd, open_etcd(connection(etcd)) as client:
        last = await write(client, 30)

        async def said(*words: str, code: int = 0) -> str:
            done = await steward("maintenance", "compact", *etcd.connection_flags(), *words)
            assert done.code == code, done.err
            return done.out + done.err

        assert "Would compact: history" in await said("--retain-revisions=10", "--plan")
        assert await client.compact_revision() == 0
        out = await said(f"--revision={last - 5}")
        assert f"Compacted: history begins at revision {last - 5} now" in out
        assert "Nothing to do" in await said(f"--revision={last - 5}")
        assert "is in the future" in await said(f"--revision={last + 1000}", code=2)
        assert "what time it was" in await said("--retain-duration=1m", code=1)
        assert "say what stays" in await said(code=2)

        renewed = [await renew(client, ago) for ago in range(400, 0, -10)]
        assert "already" in await said("--retain-duration=1h")
        await said("--retain-duration=2m")
        assert await client.compact_revision() in renewed[26:29]
        await said("--retain-duration=1m", "--retain-revisions=1000")
        assert await client.compact_revision() in renewed[26:29]
        assert "leave out --retain" in await said("--revision=5", "--retain-revisions=7", code=2)


async def test_only_a_stalled_compaction_is_done(tmp_path: Path) -> None:
    """By what was seen at known times: the API server compacts, until it has stopped."""
    async with EtcdCluster(tmp_path) as etcd, open_etcd(connection(etcd)) as client:
        await write(client, 40)
        await client.compact(10)
        first = (await client.range(b"a")).header.revision
        start = datetime(2026, 11, 22, 2, 17, tzinfo=UTC)
        options = MaintenanceOptions(compaction=CompactionOptions())

        def seen(minutes: int, compacted: int = 10) -> tuple[Sighting, ...]:
            return tuple(
                Sighting(
                    time=start + timedelta(minutes=n),
                    revision=first - 20 + n // 3,
                    compact_revision=compacted,
                )
                for n in range(minutes)
            )

        for sightings in ((), seen(20), seen(60, compacted=9)):
            asked = compaction_request(etcd, options=options, sightings=sightings)
            assert (await compact(client, asked)).outcome == "NotNeeded"
        jumped = (*seen(15), *(one.model_copy(update={"time": one.time + timedelta(days=1)})
                               for one in seen(20)[15:]))  # fmt: skip
        asked = compaction_request(etcd, options=options, sightings=jumped)
        assert (await compact(client, asked)).outcome == "NotNeeded"
        asked = compaction_request(etcd, options=options, sightings=seen(60))
        report = await compact(client, asked)
        assert report.outcome == "Compacted"
        assert "nobody has compacted this etcd" in report.reason
        assert report.compact_revision == first - 20 + (59 - 10) // 3
