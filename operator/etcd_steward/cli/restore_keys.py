"""`etcd-steward restore namespace` and `restore object`: keys of the registry, brought back."""

import sys
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.framework import Verb
from etcd_steward.cli.output import warn
from etcd_steward.cli.progress import reporting
from etcd_steward.cli.registry_output import amount
from etcd_steward.cli.restore_flags import Restoring, restore_options
from etcd_steward.cli.running import agreed, run
from etcd_steward.deadline import Deadline
from etcd_steward.errors import PlanChanged, Refused
from etcd_steward.models.registry import Filter
from etcd_steward.models.run import Journal, Progress

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from collections.abc import Iterator

    from etcd_steward.engine.report import Report
    from etcd_steward.engine.restore.session import Session
    from etcd_steward.models.restore import Plan

_STOPPING = "Stopping: what is written stays. Run it again to go on, or undo it."


@click.command(
    "namespace",
    cls=Verb,
    short_help="Bring back what a namespace held.",
    examples="""
etcd-steward restore namespace shop
etcd-steward restore namespace shop --from s3://etcd-backups/prod --plan
etcd-steward restore namespace shop --from etcd.db --apply --suspended
etcd-steward restore namespace shop --from s3://etcd-backups/prod --via api --to shop-restored
""",
)
@click.argument("namespaces", metavar="NAMESPACE...", nargs=-1, required=True)
@restore_options
def namespace(restoring: Restoring, namespaces: tuple[str, ...], output: str) -> int:
    """Bring back what namespaces held: out of a backup, or out of what etcd itself remembers.

    Without --from, the live etcd's own history is looked into: until the next compaction, five
    minutes at most, what `kubectl delete` took is still there. First a plan is shown: what is
    missing, what is there and differs, what is left out and why. Then you are asked; where there is
    no terminal, nothing is written without --apply. What is there stays as it is, unless --existing
    says otherwise. All of it can be undone: `etcd-steward restore undo`.
    """
    include = Filter(namespaces=namespaces)
    return run(_restore(restoring, include, namespaces[0], output), stopping=_STOPPING)


@click.command(
    "object",
    cls=Verb,
    short_help="Bring back single objects.",
    examples="""
etcd-steward restore object secret/shop/db
etcd-steward restore object deploy/shop/api deploy/shop/web --existing overwrite --diff
etcd-steward restore object clusterrole/viewer --from s3://etcd-backups/prod
""",
)
@click.argument("words", metavar="RESOURCE/NAMESPACE/NAME...", nargs=-1, required=True)
@restore_options
def objects(restoring: Restoring, words: tuple[str, ...], output: str) -> int:
    """Bring back single objects: as `restore namespace`, but no more than what is named.

    Resources may be said as to kubectl: deployments, deploy, deployments.apps. Several objects must
    be of one resource and one namespace. What is cluster-scoped is written RESOURCE/NAME.
    """
    include = _named(words)
    return run(_restore(restoring, include, include.names[0], output), stopping=_STOPPING)


def _named(words: Sequence[str]) -> Filter:
    """A filter that fits these objects, and no others."""
    parts = [word.split("/") for word in words]
    for word, split in zip(words, parts, strict=True):
        if len(split) not in {2, 3} or not all(split):
            raise click.UsageError(
                f"{word!r} names no object: write RESOURCE/NAMESPACE/NAME, such as deploy/shop/api"
            )
    places = {tuple(split[:-1]) for split in parts}
    if len(places) > 1:
        told = ", ".join(sorted("/".join(place) for place in places))
        raise click.UsageError(
            f"these are of several resources or namespaces ({told}): restore them one after the "
            "other, owners first, or the whole namespace"
        )
    resource, *namespaces = places.pop()
    names = tuple(split[-1] for split in parts)
    return Filter(resources=(resource,), namespaces=tuple(namespaces), names=names)


class Relay:
    """A report whose listener comes and goes: no bar may move while a person is asked."""

    def __init__(self) -> None:
        self.target: Report | None = None

    def progress(self, progress: Progress) -> None:
        """Hand it on, if somebody listens."""
        if self.target is not None:
            self.target.progress(progress)

    def warning(self, message: str) -> None:
        """Hand it on, or say it."""
        if self.target is not None:
            self.target.warning(message)
        else:
            warn(message)

    async def journal(self, journal: Journal) -> None:
        """Do nothing: a restore's own files are its journal."""

    def settled(self) -> None:
        """Do nothing."""

    @contextmanager
    def shown(self, *, progress: bool) -> "Iterator[None]":
        """Have it listened to while the body runs."""
        with reporting(progress=progress) as report:
            self.target = report
            try:
                yield
            finally:
                self.target = None


async def _restore(restoring: Restoring, include: Filter, title: str, output: str) -> int:
    from etcd_steward.app import open_restore  # noqa: PLC0415  # see cli/snapshot.py

    request = await restoring.request(include, title)
    relay = Relay()
    async with open_restore(request, relay) as session:
        return await _planned(session, restoring, relay, output)


async def _planned(session: "Session", restoring: Restoring, relay: Relay, output: str) -> int:
    from etcd_steward.cli import restore_plan as show  # noqa: PLC0415
    from etcd_steward.engine.restore.plan import Planned  # noqa: PLC0415

    given = restoring.given
    with relay.shown(progress=given["progress"]):
        async with Deadline.after(given["timeout"]).enforce("the plan"):
            planned = await session.plan()
    plan = planned.plan
    if output == "table":
        show.print_plan(plan, every_key=given["keys"])
        if given["diff"] and isinstance(planned, Planned):
            await show.print_differences(planned)
    if given["plan"] or not plan.writes:
        if output != "table":
            show.emit_outcome(plan, None, session.place.url, output)
        return show.code_of(plan)
    await _agree(plan, apply=given["apply"], approved=given["approve"])
    with relay.shown(progress=given["progress"]):
        async with Deadline.after(given["timeout"]).enforce("the apply"):
            report = await session.apply(planned)
    if output == "table":
        show.print_report(plan, report, session.place.url)
    else:
        show.emit_outcome(plan, report, session.place.url, output)
    return show.code_of(plan, report)


async def _agree(plan: "Plan", *, apply: bool, approved: str | None) -> None:
    """Have somebody agree. Raises `Refused` if nobody does."""
    if approved is not None:
        if approved != plan.digest:
            raise PlanChanged(
                f"the plan is {plan.digest}, and not {approved}, which was approved",
                hint="nothing was written; look at the plan, and approve this one",
            )
        return
    if apply:
        return
    if not sys.stdin.isatty():
        raise Refused(
            "nothing was written: there is no terminal to ask on",
            hint=f"add --apply, or --approve {plan.digest} for exactly this plan",
        )
    if not await agreed(f"\nWrite {amount(plan.writes, 'key')}?"):
        raise Refused("nothing was written")
