"""`etcd-steward put`: etcdctl's put_command.go."""

import sys
from contextlib import suppress

import click

from etcd_steward.cli.etcdctl.errors import BAD_ARGS, EtcdctlError, told
from etcd_steward.cli.etcdctl.flags import Ctl, as_bytes, etcdctl_options, words_argument
from etcd_steward.cli.etcdctl.govalues import go_bool, go_int
from etcd_steward.cli.etcdctl.guard import guard_options, refuse_registry
from etcd_steward.cli.etcdctl.key_levels import complete_first_key
from etcd_steward.cli.etcdctl.pflag import EtcdctlVerb, flag

_ARGUMENTS = "put command needs 1 argument and input from stdin or 2 arguments"


@click.command(
    "put",
    cls=EtcdctlVerb,
    examples="""
etcd-steward put /app/colour blue
etcd-steward put /app/page < index.html
etcd-steward put /app/offset -- -5
etcd-steward put --lease=694d5765fc71500b /app/leader node-1
""",
)
@words_argument("KEY [VALUE]", shell_complete=complete_first_key)
@flag("--lease", unset="0", metavar="ID", help="Lease to attach to the key, in hexadecimal.")
@flag("--prev-kv", go=go_bool, unset=False, help="Print what was there before.")
@flag("--ignore-value", go=go_bool, unset=False, help="Keep the key's value.")
@flag("--ignore-lease", go=go_bool, unset=False, help="Keep the key's lease.")
@guard_options
@etcdctl_options
def put(  # one for each flag, all passed by name
    ctl: Ctl,
    words: tuple[str, ...],
    lease: str,
    prev_kv: bool,
    ignore_value: bool,
    ignore_lease: bool,
    allow_registry: bool,
    registry_prefix: str,
) -> None:
    """Write a key. Without VALUE it is read from standard input.

    What begins with - and is no flag, stands behind --.
    """
    if not words:
        raise EtcdctlError(_ARGUMENTS, BAD_ARGS)
    if ignore_value and len(words) > 1:
        raise EtcdctlError("put command needs only 1 argument when 'ignore-value' is set", BAD_ARGS)
    value = b"" if ignore_value else _value(words)
    try:
        lease_id = go_int(lease, 16)
    except ValueError as error:
        raise EtcdctlError(f"bad lease ID ({error}), expecting ID in Hex", BAD_ARGS) from None

    from etcd_steward.cli.etcdctl.live import run  # noqa: PLC0415  # grpc: slow
    from etcd_steward.etcd import stubs  # noqa: PLC0415
    from etcd_steward.etcd.calls import PUT  # noqa: PLC0415
    from etcd_steward.etcd.keys import KeyRange  # noqa: PLC0415

    key = as_bytes(words[0])
    refuse_registry(
        [KeyRange.key(key)], allowed=allow_registry, prefix=registry_prefix, what="write"
    )
    printer = ctl.printer()

    async def work() -> None:
        request = stubs.PutRequest(
            key=key,
            value=value,
            lease=lease_id,
            prev_kv=prev_kv,
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
        )
        async with ctl.connect() as client:
            with told():
                answer = await PUT.ask(client, request)
        printer.put(answer)

    run(work())


def _value(words: tuple[str, ...]) -> bytes:
    if len(words) > 1:
        return as_bytes(words[1])
    data = b""
    if sys.stdin is not None:  # as after `<&-`
        with suppress(OSError):
            data = sys.stdin.buffer.read()
    if not data:
        raise EtcdctlError(_ARGUMENTS, BAD_ARGS)
    return data
