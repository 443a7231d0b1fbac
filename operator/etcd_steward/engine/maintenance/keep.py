"""A snapshot that stays on this host: for a rescue that has no store to put it into.

It holds every Secret of the cluster in the clear, like all in the spool: 0600, and one for each
cluster. The next rescue's takes its place.
"""

import asyncio
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from etcd_steward.deadline import Deadline
from etcd_steward.engine.announce import announced
from etcd_steward.engine.drain import drain
from etcd_steward.engine.members import choose
from etcd_steward.engine.prove import prove
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spool import SPOOLED, Spool
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.run import SpoolSettings


async def keep_snapshot(
    client: EtcdClient, settings: SpoolSettings, run: str, tracker: Tracker, *, timeout: float
) -> Path:
    """Take a snapshot, prove its structure, and leave it in the spool's directory: where.

    `etcd-steward snapshot import` brings it into a store. Raises what a backup raises.
    """
    choice = choose(await client.members(), emergency=False)
    member, report = client.member(choice.status), tracker.report
    async with Spool.open(settings, run, report.warning) as spool:
        await spool.wait_for_room(choice.status.db_size, lambda: None)
        with closing(spool.create(SPOOLED)) as file:
            tracker.step = "Streaming"
            async with announced(client, member.member_id, run, seconds=timeout, report=report):
                revision = await member.revision()
                async with member.snapshot(deadline=Deadline.after(timeout)) as stream:
                    await drain(stream, member.endpoint, spool, file, tracker)
            tracker.step = "Proving"
            await asyncio.to_thread(prove, file, revision)
        kept = f"before-rescue-{choice.status.cluster_id:x}"
        path = settings.directory / f"{kept}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
        earlier = list(settings.directory.glob(f"{kept}-*.db"))
        file.path.rename(path)
    for one in earlier:
        one.unlink(missing_ok=True)
    return path
