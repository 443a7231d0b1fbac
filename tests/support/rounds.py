"""What tests of rounds do to a real cluster, and wait for."""

from collections.abc import Callable

from etcd_steward.engine.maintenance import lock
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.maintenance_run import MemberTurn
from tests.support.runs import connection
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.bulk import load
from tests.testbed.etcd import EtcdMember


async def followers(etcd: EtcdCluster) -> list[EtcdMember]:
    """Who does not lead now."""
    leader = await etcd.leader()
    return [member for member in etcd.members if member is not leader]


async def well(client: EtcdClient) -> None:
    """Wait until all members answer and follow one leader; the quorum was never lost."""

    async def agreed() -> bool:
        found = await client.members()
        return len({getattr(one, "leader_id", 0) for one in found} - {0}) == 1 and all(
            isinstance(one, MemberStatus) and one.has_leader for one in found
        )

    await wait_until(agreed, "all members follow one leader")


async def revive(client: EtcdClient, member: EtcdMember) -> None:
    """Start a member that was killed, and wait until all is well."""
    await member.kill()
    await member.start()
    await well(client)


def on_turn(step: str, deed: Callable[[MemberTurn], None]) -> Callable[[object], None]:
    """Do something once, when the first member's turn comes to this step."""
    done: list[bool] = []

    def react(event: object) -> None:
        if isinstance(event, MemberTurn) and event.step == step and not done:
            done.append(True)
            deed(event)

    return react


def by_name(etcd: EtcdCluster, name: str) -> EtcdMember:
    """The member of this name."""
    return next(member for member in etcd.members if member.name == name)


async def unlocked(client: EtcdClient) -> bool:
    """Whether nobody holds the maintenance lock."""
    return await client.get(lock.KEY) is None


async def fragment(etcd: EtcdCluster, client: EtcdClient) -> None:
    """Write 20 MB more, and forget them."""
    await load(etcd, 15_000, value_size=1000, namespaces=5, seed=9, root="/garbage")
    await client.delete(b"/garbage/", b"/garbage0")
    for member in etcd.members:
        endpoints = connection(etcd, endpoints=(member.endpoint,))
        async with EtcdClient.connect(endpoints) as one:
            revision = (await one.range(b"/nothing")).header.revision
            await one.put(b"/last", b"")
            await one.compact(revision, physical=True)

    async def free() -> bool:
        found = [one for one in await client.members() if isinstance(one, MemberStatus)]
        await client.put(b"/last", b"")  # pages are free after the next commits
        return all(one.db_size - one.db_size_in_use > 10_000_000 for one in found)

    await wait_until(free, "pages are free")
