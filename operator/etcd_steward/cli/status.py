"""`etcd-steward status`: one screen about one etcd, once or again and again."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.running import run
from etcd_steward.cli.values import DURATION, SIZE, human_age
from etcd_steward.config import EtcdFlags
from etcd_steward.units import size

if TYPE_CHECKING:  # grpc: slow
    from etcd_steward.engine.findings import Finding
    from etcd_steward.models.observation import Observation, ObservedMember

_HEADER = (
    "MEMBER", "ROLE", "VERSION", "LAG", "DB-SIZE", "IN-USE", "FRAGMENTED", "QUOTA-USED",
)  # fmt: skip
_COLOURS = {"warning": "yellow", "failure": "red"}
_CLEAR = "\x1b[H\x1b[J"
"""Cursor to the upper left, and nothing below it: a screen that does not flicker."""


@click.command(
    "status",
    cls=Verb,
    examples="""
etcd-steward status --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 \\
    --cacert ca.crt --cert client.crt --key client.key
etcd-steward status --watch
etcd-steward status --quota 8Gi -o json
""",
)
@etcd_options()
@click.option(
    "--metrics-endpoints",
    "metrics",
    cls=Option,
    metavar="URLS",
    help="Members' metrics addresses (kubeadm: http://127.0.0.1:2381, on each host), comma "
    "separated: before etcd 3.6.6 the quota is told there and nowhere else.",
)
@click.option(
    "--quota",
    cls=Option,
    type=SIZE,
    metavar="SIZE",
    help="The members' quota, such as 8Gi, where neither they nor their metrics tell it.",
)
@registry_prefix_option()
@click.option("--watch", "watching", cls=Option, is_flag=True, help="Look again until Ctrl-C.")
@click.option(
    "--interval",
    cls=Option,
    type=DURATION,
    default=5.0,
    metavar="DURATION",
    help="How often to look with --watch.  [default: 5s]",
)
@output_option
def status(
    etcd: EtcdFlags,
    metrics: str | None,
    quota: int | None,
    registry_prefix: str,
    watching: bool,
    interval: float,
    output: str,
) -> int:
    """Show members, sizes, quota, alarms, revisions and leases, and what to do next.

    Nothing is written or proposed to raft, and no value is read but the kube-system Namespace's,
    for its uid. With -o json or yaml and --watch one document is printed after each look. Exit code
    4: something needs a look; 1: no member answers.
    """
    endpoints = tuple(one.strip() for one in (metrics or "").split(",") if one.strip())

    async def work() -> "Observation | None":
        seen = None
        async for seen in _looks(etcd, endpoints, quota, registry_prefix, interval):
            if watching and output == "table":
                click.echo(_CLEAR, nl=False, color=None)
            _show(seen, output)
            if not watching:
                break
        return seen

    seen = run(work(), stopping="Stopping.")
    if seen is None or not seen.reachable:
        return 1
    return 4 if _advice(seen) else 0


async def _looks(
    etcd: EtcdFlags,
    metrics: tuple[str, ...],
    quota: int | None,
    registry_prefix: str,
    interval: float,
) -> "AsyncIterator[Observation]":
    """One observation after the other, for ever."""
    from etcd_steward.engine.observe.identity import identify  # noqa: PLC0415  # grpc: slow
    from etcd_steward.engine.observe.moves import Moves  # noqa: PLC0415
    from etcd_steward.engine.observe.poll import Poller  # noqa: PLC0415
    from etcd_steward.etcd.client import EtcdClient  # noqa: PLC0415
    from etcd_steward.models.observation import (  # noqa: PLC0415
        ObservationPace,
        WatchedCluster,
    )

    wanted = WatchedCluster(
        name="etcd",
        etcd=etcd.connection(),
        metrics_endpoints=metrics,
        quota_bytes=quota,
        registry_prefix=registry_prefix,
    )
    moves = Moves()
    async with EtcdClient.connect(wanted.etcd) as client:
        poller = Poller(wanted, client, ObservationPace())
        poller.identity = await identify(wanted, client)
        while True:
            yield moves.note(await poller.look())
            await asyncio.sleep(interval)


def _show(seen: "Observation", output: str) -> None:
    if output == "table":
        click.echo("\n".join(screen(seen)))
    else:
        emit(_view(seen), output)


def _advice(seen: "Observation") -> "list[Finding]":
    from etcd_steward.engine.observe.advice import advice  # noqa: PLC0415  # loaded by now

    return advice(seen)


def _view(seen: "Observation") -> dict[str, Any]:
    view = seen.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"event", "cluster"}
    )
    found = _advice(seen)
    view["advice"] = [
        {"verdict": one.verdict.value, "message": one.message, "hint": one.hint} for one in found
    ]
    return view


def screen(seen: "Observation") -> list[str]:
    """What a person sees of one look."""
    lines = [*_summary(seen), ""]
    if seen.members:
        lines += _table([_HEADER, *(_row(member) for member in seen.members)])
        lines.append("")
    found = _advice(seen)
    if not found:
        return [*lines, click.style("All is well", fg="green")]
    for one in found:
        verdict = one.verdict.value
        lines.append(f"{click.style(f'{verdict:<7}', fg=_COLOURS[verdict])}  {one.message}")
        if one.hint:
            lines.append(f"{'':<7}  -> {one.hint}")
    return lines


def _summary(seen: "Observation") -> list[str]:
    if not seen.reachable:
        return [click.style("etcd does not answer", fg="red")]
    alarms = ", ".join(f"{one.kind} ({one.member or 'nobody'})" for one in seen.alarms) or "none"
    quota = _percent(seen.quota_used) or "unknown"
    return [
        f"etcd {seen.version}, cluster {seen.cluster_id}, leader {seen.leader or 'NONE'}",
        f"{len(seen.members)} members, quota used {quota}, alarms: {alarms}",
        _revisions(seen),
        _leases(seen),
    ]


def _revisions(seen: "Observation") -> str:
    line = f"revision {_count(seen.revision)}, "
    if seen.compact_revision is None:
        return f"{line}compacted: unknown"
    if seen.compact_revision == 0:
        return f"{line}never compacted"
    line += f"compacted up to {_count(seen.compact_revision)}"
    since = seen.compact_revision_since
    if since is None or since == seen.at:
        return line
    return f"{line}, at least {human_age((seen.at - since).total_seconds())} ago"


def _leases(seen: "Observation") -> str:
    sample = seen.lease_sample
    if seen.leases is None or sample is None or not sample.leases:
        return f"leases {_count(seen.leases)}"
    of = "" if sample.leases == seen.leases else f" (of {sample.leases} that were looked at)"
    mean = sample.keys / sample.leases
    return f"leases {_count(seen.leases)}, {mean:.1f} keys each, {sample.most} at most{of}"


def _row(member: "ObservedMember") -> tuple[str, ...]:
    if not member.up:
        role = "unknown" if member.up is None else "DOWN"
        return member.name, role, *[""] * (len(_HEADER) - 2)
    role = "leader" if member.leader else "learner" if member.learner else "follower"
    quota = _percent(member.quota_used)
    return (
        member.name,
        role,
        member.version,
        _count(member.lag),
        size(member.db_size or 0),
        size(member.db_in_use or 0),
        _percent(member.fragmentation),
        f"{quota} of {size(member.quota)}" if member.quota else "unknown",
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [click.style(lines[0], bold=True), *lines[1:]]


def _percent(part: float | None) -> str:
    return "" if part is None else f"{part * 100:.0f} %"


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
