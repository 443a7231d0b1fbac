"""`etcd-steward del`: etcdctl's del_command.go."""

import asyncio

import click

from etcd_steward.cli.etcdctl.errors import BAD_ARGS, EtcdctlError, told
from etcd_steward.cli.etcdctl.flags import Ctl, etcdctl_options, words_argument
from etcd_steward.cli.etcdctl.govalues import go_bool
from etcd_steward.cli.etcdctl.guard import guard_options, refuse_registry
from etcd_steward.cli.etcdctl.key_levels import complete_key
from etcd_steward.cli.etcdctl.pflag import EtcdctlVerb, flag
from etcd_steward.cli.etcdctl.quoting import quoted

_SECONDS = 2
"""For second thoughts about a range."""
_MOST_WORDS = 2


@click.command(
    "del",
    cls=EtcdctlVerb,
    examples="""
etcd-steward del /app/colour
etcd-steward del --prefix --prev-kv /app/
etcd-steward del --range /app/a /app/m
""",
)
@words_argument("KEY [RANGE_END]", shell_complete=complete_key)
@flag("--prefix", go=go_bool, unset=False, help="Delete all keys that begin with KEY.")
@flag("--from-key", go=go_bool, unset=False, help="Delete all keys from KEY on.")
@flag("--prev-kv", go=go_bool, unset=False, help="Print what was deleted.")
@flag("--range", "at_once", go=go_bool, unset=False, help="Delete a range without waiting 2 s.")
@guard_options
@etcdctl_options
def delete(  # one for each flag, all passed by name
    ctl: Ctl,
    words: tuple[str, ...],
    prefix: bool,
    from_key: bool,
    prev_kv: bool,
    at_once: bool,
    allow_registry: bool,
    registry_prefix: str,
) -> None:
    """Delete a key, or all from KEY up to RANGE_END, and print how many there were."""
    from etcd_steward.cli.etcdctl.live import run  # noqa: PLC0415  # grpc: slow
    from etcd_steward.cli.etcdctl.ranges import key_range, refuse_both  # noqa: PLC0415
    from etcd_steward.etcd import stubs  # noqa: PLC0415
    from etcd_steward.etcd.calls import DELETE_RANGE  # noqa: PLC0415

    if not 0 < len(words) <= _MOST_WORDS:
        raise EtcdctlError(
            "del command needs one argument as key and an optional argument as range_end",
            BAD_ARGS,
        )
    refuse_both(prefix=prefix, from_key=from_key)
    wanted = key_range(words, prefix=prefix, from_key=from_key)
    refuse_registry([wanted], allowed=allow_registry, prefix=registry_prefix, what="delete")
    printer = ctl.printer()

    async def work() -> None:
        if len(words) > 1 and not at_once:
            click.echo(
                f"Warning: Keys between {quoted(words[0])} and {quoted(words[1])} will be deleted. "
                "Please interrupt the command within next 2 seconds to cancel. "
                "You can provide `--range` flag to avoid the delay.",
                err=True,
            )
            await asyncio.sleep(_SECONDS)
        request = stubs.DeleteRangeRequest(key=wanted.start, range_end=wanted.end, prev_kv=prev_kv)
        async with ctl.connect() as client:
            with told():
                answer = await DELETE_RANGE.ask(client, request)
        printer.delete(answer)

    run(work())
