"""What a restored member looks like, and what is to do next: for people, and for programs."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.output import emit, print_fields
from etcd_steward.cli.values import human_age

if TYPE_CHECKING:  # imported where it is needed: `--help` need not wait for the engine
    from etcd_steward.engine.checklist import Step
    from etcd_steward.engine.restore_cluster import MemberRequest, Restored


def tell(request: "MemberRequest", done: "Restored", flags: Sequence[str], output: str) -> None:
    """Print what was done and what is to do next; `flags` reach the store on the other hosts."""
    from etcd_steward.engine.checklist import NOT_IN_A_SNAPSHOT, steps  # noqa: PLC0415

    others = {one.name: _command(request, done, one.name, flags) for one in request.cluster.others}
    todo = steps(others, str(request.data_dir), done.alarms)
    if output != "table":
        view = _view(request, done)
        view["others"] = others
        view["next"] = [asdict(step) for step in todo]
        view["notInSnapshot"] = list(NOT_IN_A_SNAPSHOT)
        emit(view, output)
        return
    print_fields(_fields(request, done))
    _print_steps(todo)
    click.echo("\nWhat no snapshot of etcd holds; bring it back by other means:")
    for thing in NOT_IN_A_SNAPSHOT:
        click.echo(f"  - {thing}")


def _fields(request: "MemberRequest", done: "Restored") -> list[tuple[str, str]]:
    taken = ""
    if done.manifest is not None:
        tick = done.manifest.tick
        age = human_age((datetime.now(UTC) - tick).total_seconds())
        taken = f"{tick:%Y-%m-%d %H:%M:%S}Z ({age} ago)"
    ended = f" (the snapshot ends at {done.snapshot_revision})" if done.snapshot_revision else ""
    return [
        ("Restored", f"{request.cluster.name}, into {request.data_dir}"),
        ("Snapshot", done.source),
        ("Taken", taken),
        ("Proof", "Structure, before and after" if done.proven else "none: restored unproven"),
        ("Revision", "" if done.revision is None else f"{done.revision}{ended}"),
        ("Keys", "" if done.keys is None else f"{done.keys:,}"),
        ("Token", done.token),
    ]


def _print_steps(todo: "Sequence[Step]") -> None:
    click.echo("\nWhat is to do next:")
    for number, step in enumerate(todo, 1):
        click.echo(f"{number:2}. {step.what}" + (":" if step.commands else "."))
        for command in step.commands:
            click.echo(f"      {command}")


def _command(request: "MemberRequest", done: "Restored", name: str, flags: Sequence[str]) -> str:
    """The command that restores another member just as this one was."""
    words = [
        *("etcd-steward", "restore", "cluster", done.source),
        f"--name={name}",
        f"--initial-cluster={request.cluster.text}",
        f"--initial-cluster-token={done.token}",
        f"--data-dir={request.data_dir}",
    ]
    if request.wal_dir is not None:
        words.append(f"--wal-dir={request.wal_dir}")
    if request.bump is None:
        words.append("--no-mark-compacted")
    else:
        words.append(f"--bump-revision={request.bump}")
    return shlex.join([*words, *flags])


def _view(request: "MemberRequest", done: "Restored") -> dict[str, Any]:
    return {
        "snapshot": done.source,
        "sha256": done.sha256,
        "proven": done.proven,
        "name": request.cluster.name,
        "initialCluster": request.cluster.text,
        "initialClusterToken": done.token,
        "dataDir": str(request.data_dir),
        "walDir": None if request.wal_dir is None else str(request.wal_dir),
        "bumpRevision": request.bump,
        "snapshotRevision": done.snapshot_revision,
        "revision": done.revision,
        "keys": done.keys,
        "alarms": list(done.alarms),
    }
