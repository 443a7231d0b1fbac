"""`etcd-steward restore undo`: what a restore has written, taken back."""

import secrets
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option
from etcd_steward.cli.progress import progress_option
from etcd_steward.cli.restore_flags import kubeconfig_option, prefix_option
from etcd_steward.cli.restore_keys import Relay
from etcd_steward.cli.running import run
from etcd_steward.cli.store_flags import StoreFlags, spool_options, store_options
from etcd_steward.config import EtcdFlags
from etcd_steward.errors import InvalidInput, Refused
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import RestoreOptions
from etcd_steward.models.restore_run import FromUndo, RestoreRequest
from etcd_steward.models.run import SpoolSettings

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.models.restore_place import UndoReport

_PARTS = 3
_STOPPING = "Stopping: what is taken back stays so. Run it again to go on."


@click.command(
    "undo",
    cls=Verb,
    short_help="Take back what a restore has written.",
    examples="""
etcd-steward restore undo s3://etcd-backups/prod/1f0c9a3e/_restores/_cli.shop-5f0e…
etcd-steward restore undo file:///tmp/etcd-steward-0/restores/1f0c9a3e/_restores/_cli.shop-5f0e… \\
    --volumes data-db-0 --apply
""",
)
@click.argument("place", metavar="URL")
@click.option(
    "--volumes",
    cls=Option,
    multiple=True,
    metavar="NAME",
    help="Also delete this PersistentVolumeClaim or PersistentVolume that the restore created; "
    "with it its disk may go.",
)
@click.option("--apply", cls=Option, is_flag=True, help="Do it without asking.")
@etcd_options()
@store_options()
@spool_options
@kubeconfig_option
@prefix_option
@output_option
@progress_option
def undo(**given: Any) -> int:  # noqa: ANN401  # one for each flag
    """Take back what a restore has written: URL is what it printed at its end.

    What it created is deleted through the API server, if it is still the same object; what it
    overwrote is put back, if nobody has changed it since. Claims and volumes stay, unless they are
    named. A restore that was killed half-way is undone as well.
    """
    url = str(given["place"]).rstrip("/")
    if not given["apply"]:
        if not sys.stdin.isatty():
            raise Refused("nothing was undone: there is no terminal to ask on", hint="add --apply")
        if not click.confirm(f"Take back what {url} has written?", err=True):
            raise Refused("nothing was undone")
    request = _request(url, given)
    return run(_undo(request, given["output"], progress=given["progress"]), stopping=_STOPPING)


def _request(url: str, given: dict[str, Any]) -> RestoreRequest:
    etcd: EtcdFlags = given["etcd"]
    store: StoreFlags = given["store"]
    spool: SpoolSettings = given["spool"]
    base, *folder = url.rsplit("/", _PARTS)
    if len(folder) < _PARTS or folder[1] != "_restores":
        raise InvalidInput(
            f"{url!r} is no restore's folder",
            hint="a restore prints it at its end: …/_restores/NAME-UID",
        )
    kubeconfig: Path | None = given["kubeconfig"]
    return RestoreRequest(
        name="_cli.undo",
        uid=str(uuid.UUID(bytes=secrets.token_bytes(16), version=4)),
        etcd=etcd.connection(),
        source=FromUndo(folder="/".join(folder), store=store.settings(base)),
        kubeconfig=kubeconfig,
        spool=spool,
        options=RestoreOptions(include=Filter(names=given["volumes"])),
        registry_prefix=str(given["registry_prefix"]),
        apply=True,
    )


async def _undo(request: RestoreRequest, output: str, *, progress: bool) -> int:
    from etcd_steward.app import open_restore  # noqa: PLC0415  # see cli/snapshot.py
    from etcd_steward.cli import restore_plan as show  # noqa: PLC0415

    relay = Relay()
    async with open_restore(request, relay) as session:
        with relay.shown(progress=progress):
            report: UndoReport = await session.undo()
    if output == "table":
        show.print_undo(report)
    else:
        emit(report.model_dump(mode="json", by_alias=True), output)
    return show.undo_code_of(report)
