"""What clients notice of a defragmentation round, and how long it takes.

    python -m benchmarks.maintenance [--keys 300000] [--moves 20]

Three members with mutual TLS, and their disks flushed, hold keys of 1 kB, of which two thirds are
then deleted and compacted. While others write as fast as they can, linearizable reads and writes
are sent through every member every 10 ms, and a round defragments all three. Probes through the
member at work wait for it; of all others it is told how long they took, and which had to be asked
twice.

Then leadership is moved `--moves` times, so that what one move costs is known better than by one.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from etcd_steward.errors import TransientError
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.maintenance import RoundReport
from tests.support.maintenance import Held, options, round_request
from tests.support.probing import Probe, Seen, probing
from tests.support.runs import connection
from tests.testbed import EtcdCluster
from tests.testbed.bulk import RESOURCES, load

WRITERS = 4


async def fragment(etcd: EtcdCluster, client: EtcdClient, keys: int) -> None:
    """Fill it, and forget two thirds."""
    await load(etcd, keys // 3, value_size=1000, namespaces=100, seed=1)
    await load(etcd, keys - keys // 3, value_size=1000, namespaces=100, seed=2, root="/garbage")
    for path, _, _ in RESOURCES:  # all at once would take longer than etcd waits
        part = KeyRange.prefix(f"/garbage/{path}/".encode())
        await client.delete(part.start, part.end)
    await client.compact(await etcd.revision())
    free = 0.0
    while free < 0.5:  # pages become free with later commits, in every member's own time
        await client.put(b"/last", b"")
        await asyncio.sleep(0.2)
        found = [one for one in await client.members() if isinstance(one, MemberStatus)]
        free = min(1 - one.db_size_in_use / one.db_size for one in found)


async def write(client: EtcdClient, worker: int) -> None:
    """Write until cancelled, whatever happens."""
    for number in range(1 << 30):
        try:
            await client.put(b"/load/%d/%d" % (worker, number % 1000), b"x" * 1000)
        except TransientError:
            await asyncio.sleep(0.1)


async def held(etcd: EtcdCluster, client: EtcdClient) -> tuple[RoundReport, Seen, list[Probe]]:
    """One round under load and probes."""
    seen = Seen()
    request = round_request(etcd, options=options(settle_seconds=5.0))
    async with probing(etcd) as prober, asyncio.TaskGroup() as group:
        writing = [group.create_task(write(client, number)) for number in range(WRITERS)]
        await asyncio.sleep(3)
        report = await Held(etcd, request, deed=seen.note).hold()
        for task in writing:
            task.cancel()
    return report, seen, prober.probes


async def moved(etcd: EtcdCluster, client: EtcdClient, moves: int) -> list[Probe]:
    """Move leadership again and again, under probes alone."""
    ids = [member.id for member in etcd.members]
    async with probing(etcd) as prober:
        for _ in range(moves):
            found = [one for one in await client.members() if isinstance(one, MemberStatus)]
            leader = next(one for one in found if one.is_leader)
            target = ids[(ids.index(leader.member_id) + 1) % len(ids)]
            await client.member(leader).move_leader(target)
            await asyncio.sleep(1)
    return prober.probes


def tell(what: str, probes: Sequence[Probe]) -> None:
    """Print what became of some probes."""
    answered = sorted(one.seconds * 1000 for one in probes if not one.first)
    twice = [one for one in probes if one.first]
    silent = [one for one in twice if one.seconds > 1]
    failed = sum(bool(one.error) for one in probes)
    if not answered:
        return
    print(
        f"| {what} | {len(probes):,} | {statistics.median(answered):.1f} "
        f"| {answered[int(0.99 * len(answered))]:.0f} | {answered[-1]:.0f} "
        f"| {len(twice) - len(silent)} | {len(silent)} | {failed} |"
    )


async def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=300_000)
    parser.add_argument("--moves", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        quota = {"quota-backend-bytes": str(8 << 30)}
        async with (
            EtcdCluster(Path(scratch), members=3, mtls=True, fsync=True, flags=quota) as etcd,
            EtcdClient.connect(connection(etcd)) as client,
        ):
            await fragment(etcd, client, given.keys)
            report, seen, probes = await held(etcd, client)
            between = await moved(etcd, client, given.moves)
    print(report.outcome, report.reason)
    print("\n| member | MB before | MB after | s |\n|---|---|---|---|")
    for one in report.members:
        before, after = one.before_bytes / 1e6, one.after_bytes / 1e6
        print(f"| {one.name} | {before:.0f} | {after:.0f} | {one.seconds:.1f} |")
    move = report.leader_move
    print(f"\nleadership moved within {move.seconds * 1000 if move else 0:.0f} ms\n")
    print("| probes | n | ms p50 | p99 | max | asked twice | after 7 s | failed |")
    print("|---|---|---|---|---|---|---|---|")
    elsewhere = seen.elsewhere(probes)
    inside = set(map(id, elsewhere))
    tell("through members not at work", elsewhere)
    tell("through the member at work", [one for one in probes if id(one) not in inside])
    tell(f"during {given.moves} moves of leadership", between)


if __name__ == "__main__":
    asyncio.run(main())
