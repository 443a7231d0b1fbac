"""What a member tells on its metrics page and nowhere else: whose it is, quota, what is at work."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from etcd_steward.errors import StewardError, Unavailable

_SECONDS: Final = 5.0
_BYTES: Final = 16 << 20
"""A member's page has some hundred kB; whatever is longer is no such page."""
_WORDS: Final = 200
"""Characters of the parser's words that are told on: it repeats a line that may be the page."""


@dataclass(frozen=True, slots=True)
class MemberMetrics:
    """What one page says."""

    member_id: int
    quota_bytes: int | None
    defragmenting: bool
    """Somebody's defragmentation is at work (etcd 3.5 on)."""
    applying_snapshot: bool
    """It takes its whole database over from the leader."""


async def read_metrics(
    endpoints: Sequence[str],
) -> tuple[dict[int, MemberMetrics], list[StewardError]]:
    """All pages at once, by member ID, and why some could not be read."""
    if not endpoints:
        return {}, []
    limit = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=limit) as session:
        told = await asyncio.gather(*(_page(session, endpoint) for endpoint in endpoints))
    pages = [one for one in told if isinstance(one, MemberMetrics)]
    return {page.member_id: page for page in pages}, [
        one for one in told if isinstance(one, StewardError)
    ]


async def _page(session: aiohttp.ClientSession, endpoint: str) -> MemberMetrics | StewardError:
    url = f"{endpoint.rstrip('/')}/metrics"
    try:
        async with session.get(url) as answer:
            answer.raise_for_status()
            page = parse(await _text(answer))
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        why = str(error) or "it does not answer in time"
        return Unavailable(f"{url} tells no metrics: {why}")
    return page or Unavailable(f"{url} is not an etcd member's metrics page")


async def _text(answer: aiohttp.ClientResponse) -> str:
    data = bytearray()
    async for chunk in answer.content.iter_any():
        data += chunk
        if len(data) > _BYTES:
            raise ValueError(f"its page is longer than {_BYTES} bytes")
    return data.decode()


def parse(text: str) -> MemberMetrics | None:
    """The figures on a page; None if it does not say whose it is. Raises `ValueError`."""
    member_id = 0
    figures: dict[str, float] = {}
    for family in _families(text):
        for sample in family.samples:
            if sample.name == "etcd_server_id" and sample.value and "server_id" in sample.labels:
                member_id = int(sample.labels["server_id"], 16)
            elif not sample.labels:
                figures[sample.name] = sample.value
    if not member_id:
        return None
    if not 0 < member_id < 1 << 64:
        raise ValueError("the member ID on its page is none")
    quota = figures.get("etcd_server_quota_backend_bytes", 0)
    if not abs(quota) < 1 << 63:  # so too NaN and infinity, which a page may well hold
        raise ValueError("the quota on its page is no number of bytes")
    return MemberMetrics(
        member_id,
        int(quota) if quota > 0 else None,
        defragmenting=figures.get("etcd_disk_defrag_inflight", 0) > 0,
        applying_snapshot=figures.get("etcd_server_snapshot_apply_in_progress_total", 0) > 0,
    )


def _families(text: str) -> Iterator[Metric]:
    """What the page holds. Odd lines trip up the parser itself: they too raise `ValueError`."""
    try:
        yield from text_string_to_metric_families(text)
    except (ArithmeticError, LookupError, ValueError) as error:
        words = f"{error}"[:_WORDS] or type(error).__name__
        raise ValueError(f"a line of its page can't be read: {words}") from error
