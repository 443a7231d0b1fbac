"""`etcd-steward get`: etcdctl's get_command.go.

etcdctl asks once and holds the whole answer. Where keys are wanted in their own order and without
a limit, this asks page by page at one revision, and prints each page as it comes.
"""

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.etcdctl.backup import Backup, BackupReader, backup_options
from etcd_steward.cli.etcdctl.errors import BAD_ARGS, BAD_FEATURE, EtcdctlError, told
from etcd_steward.cli.etcdctl.flags import Ctl, etcdctl_options, words_argument
from etcd_steward.cli.etcdctl.govalues import go_bool, go_int
from etcd_steward.cli.etcdctl.key_levels import complete_key
from etcd_steward.cli.etcdctl.pflag import EtcdctlVerb, flag
from etcd_steward.cli.etcdctl.printers import Printer
from etcd_steward.cli.etcdctl.quoting import quoted

if TYPE_CHECKING:  # grpc and protobuf are imported where they are needed
    from etcd_steward.cli.etcdctl.reader import Reader
    from etcd_steward.etcd import stubs

_ORDERS = {"": 0, "ASCEND": 1, "DESCEND": 2}
_TARGETS = {"": 0, "KEY": 0, "VERSION": 1, "CREATE": 2, "MODIFY": 3, "VALUE": 4}
"""`RangeRequest.SortTarget` by etcdctl's names."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the flags of `get` say."""

    prefix: bool
    from_key: bool
    rev: int
    limit: int
    order: str
    sort_by: str
    keys_only: bool
    count_only: bool
    print_value_only: bool
    consistency: str
    min_create_rev: int
    max_create_rev: int
    min_mod_rev: int
    max_mod_rev: int
    decode: bool

    def request(self, words: tuple[str, ...]) -> "stubs.RangeRequest":
        """What to send, checked in the order in which etcdctl does. Raises `EtcdctlError`."""
        from etcd_steward.cli.etcdctl.ranges import key_range, refuse_both  # noqa: PLC0415
        from etcd_steward.etcd import stubs  # noqa: PLC0415  # slow

        if not words:
            raise EtcdctlError(
                "get command needs one argument as key and an optional argument as range_end",
                BAD_ARGS,
            )
        refuse_both(prefix=self.prefix, from_key=self.from_key)
        if self.keys_only and self.count_only:
            raise EtcdctlError(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
                BAD_ARGS,
            )
        if self.consistency not in {"l", "s"}:
            raise EtcdctlError(f"unknown consistency flag {quoted(self.consistency)}", BAD_FEATURE)
        wanted = key_range(words, prefix=self.prefix, from_key=self.from_key)
        order = _chosen("order", self.order, _ORDERS)
        target = _chosen("target", self.sort_by, _TARGETS)
        if target == 0 and order == 1:
            order = 0  # as etcd has them anyway: to sort them, it would read all
        self._check_bounds("Create", self.min_create_rev, self.max_create_rev)
        self._check_bounds("Mod", self.min_mod_rev, self.max_mod_rev)
        return stubs.RangeRequest(
            key=wanted.start,
            range_end=wanted.end,
            limit=self.limit,
            revision=max(0, self.rev),
            sort_order=stubs.RangeRequest.SortOrder.Name(order),
            sort_target=stubs.RangeRequest.SortTarget.Name(target),
            serializable=self.consistency == "s",
            keys_only=self.keys_only,
            count_only=self.count_only,
            min_create_revision=max(0, self.min_create_rev),
            max_create_revision=max(0, self.max_create_rev),
            min_mod_revision=max(0, self.min_mod_rev),
            max_mod_revision=max(0, self.max_mod_rev),
        )

    def check_format(self, write_out: str) -> None:
        """Refuse what does not go with `-w`. Raises `EtcdctlError`."""
        if self.count_only and write_out != "fields":
            raise EtcdctlError("--count-only is only for `--write-out=fields`", BAD_ARGS)
        if self.print_value_only and write_out != "simple":
            raise EtcdctlError("print-value-only is only for `--write-out=simple`", BAD_ARGS)
        if self.decode and write_out != "simple":
            raise EtcdctlError("decode is only for `--write-out=simple`", BAD_ARGS)
        if self.decode and self.keys_only:
            raise EtcdctlError(
                "`--decode` needs the values that `--keys-only` leaves out", BAD_ARGS
            )

    @staticmethod
    def _check_bounds(what: str, least: int, most: int) -> None:
        if 0 < most < least:
            raise EtcdctlError(f"getMin{what}Rev(={least}) > getMax{what}Rev(={most})", BAD_FEATURE)


def _chosen(what: str, said: str, known: Mapping[str, int]) -> int:
    found = known.get(said.upper())
    if found is None:
        raise EtcdctlError(f"bad sort {what} {said}", BAD_FEATURE)
    return found


@click.command(
    "get",
    cls=EtcdctlVerb,
    examples="""
etcd-steward get /app/colour
etcd-steward get --prefix --keys-only /registry/pods/
etcd-steward get --prefix /app/ --rev=4711 -w json
etcd-steward get --decode /registry/deployments/shop/api
etcd-steward get --prefix /registry/secrets/shop/ --from s3://etcd-backups/prod
""",
)
@words_argument("KEY [RANGE_END]", shell_complete=complete_key)
@flag("--prefix", go=go_bool, unset=False, help="All keys that begin with KEY.")
@flag("--from-key", go=go_bool, unset=False, help="All keys from KEY on.")
@flag("--rev", go=go_int, unset=0, metavar="REVISION", help="As of this revision.")
@flag("--limit", go=go_int, unset=0, metavar="N", help="At most so many keys.")
@flag("--order", metavar="ORDER", help="ASCEND or DESCEND.  [default: ASCEND]")
@flag("--sort-by", metavar="TARGET", help="CREATE, KEY, MODIFY, VALUE or VERSION.")
@flag("--keys-only", go=go_bool, unset=False, help="Print no values.")
@flag("--count-only", go=go_bool, unset=False, help="Print their number; for -w fields.")
@flag("--print-value-only", go=go_bool, unset=False, help="Print no keys; for -w simple.")
@flag("--consistency", unset="l", metavar="l|s", help="Linearizable or serializable.  [default: l]")
@flag("--min-create-rev", go=go_int, unset=0, metavar="REVISION", help="Created from here on.")
@flag("--max-create-rev", go=go_int, unset=0, metavar="REVISION", help="Created up to here.")
@flag("--min-mod-rev", go=go_int, unset=0, metavar="REVISION", help="Changed from here on.")
@flag("--max-mod-rev", go=go_int, unset=0, metavar="REVISION", help="Changed up to here.")
@flag("--stream", go=go_bool, unset=False, hidden=True, expose_value=False)
@flag("--decode", go=go_bool, unset=False, help="Print Kubernetes' values as YAML.")
@backup_options
@etcdctl_options
def get(ctl: Ctl, words: tuple[str, ...], source: Backup | None, **flags: object) -> int:
    """Print a key and its value, or all from KEY up to RANGE_END.

    With --decode each key stands in a comment above its object. With --from a backup answers, as it
    was at its own revision or, if it knows, at --rev.
    """
    from etcd_steward.cli.etcdctl.live import LiveReader, run  # noqa: PLC0415  # grpc: slow

    asked = Asked(**flags)  # type: ignore[arg-type]  # of the types that the flags above have
    request = asked.request(words)
    ctl.refuse_unknown_format()
    asked.check_format(ctl.write_out)
    printer = get_printer(asked, ctl)

    async def work() -> None:
        if source is not None:
            async with source.opened(revision=request.revision) as backup:
                await show(BackupReader(backup), request, printer)
            return
        async with ctl.connect() as client:
            with told():
                await show(LiveReader(client), request, printer)

    run(work())
    return getattr(printer, "exit_code", 0)


def get_printer(asked: Asked, ctl: Ctl) -> Printer:
    """How `get` prints. Raises `EtcdctlError`."""
    from etcd_steward.cli.etcdctl.printer_simple import SimplePrinter  # noqa: PLC0415

    if asked.decode:
        from etcd_steward.cli.etcdctl.printer_decoded import DecodedPrinter  # noqa: PLC0415

        return DecodedPrinter(value_only=asked.print_value_only)
    printer = ctl.printer()
    if isinstance(printer, SimplePrinter):
        printer.value_only = asked.print_value_only
    return printer


async def show(reader: "Reader", request: "stubs.RangeRequest", printer: Printer) -> None:
    """Print the answer; a long one as it comes. Raises `StewardError`."""
    from etcd_steward.cli.etcdctl.output import flush  # noqa: PLC0415

    if not _in_parts(request):
        answer = await reader.range(request)
        printer.get_head(answer.header)
        printer.get_keys(answer.kvs)
        printer.get_tail(more=answer.more, count=answer.count)
        return
    count = None
    async with aclosing(reader.parts(request)) as parts:
        async for part in parts:
            if count is None:
                printer.get_head(part.header)
            printer.get_keys(part.kvs)
            flush()
            count = part.count
    printer.get_tail(more=False, count=count or 0)


def _in_parts(request: "stubs.RangeRequest") -> bool:
    """Whether keys are wanted in their own order, all of them, and maybe many."""
    bounds = (
        request.min_create_revision,
        request.max_create_revision,
        request.min_mod_revision,
        request.max_mod_revision,
    )
    plain = not (request.sort_order or request.sort_target or request.limit or any(bounds))
    return plain and bool(request.key and request.range_end) and not request.count_only
