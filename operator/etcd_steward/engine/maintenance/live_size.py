"""How much lives in an etcd, and whose it is: what no compaction and no defragmentation frees."""

from contextlib import aclosing
from typing import Final

from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.sources import Wanted
from etcd_steward.engine.top import By, Per, Tallies
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.units import size

_NAMED: Final = 3


async def weigh(client: EtcdClient, prefix: str) -> Tallies:
    """Read every live key once, and add up keys and values by resource."""
    source = await LiveSource.open(client, prefix)
    tallies = Tallies(Per.RESOURCE, prefix)
    async with aclosing(source.sizes(Wanted(prefix=prefix))) as batches:
        await tallies.add_sizes(batches)
    return tallies


def biggest(tallies: Tallies) -> str:
    """The resources that take most, for people."""
    return ", ".join(
        f"{owner} {size(tally.size)} in {tally.count} {'key' if tally.count == 1 else 'keys'}"
        for owner, tally in tallies.largest(By.BYTES, _NAMED)
    )
