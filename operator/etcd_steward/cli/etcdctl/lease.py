"""`etcd-steward lease`: etcdctl's lease_command.go."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.etcdctl.errors import BAD_ARGS, BAD_CONNECTION, EtcdctlError, told
from etcd_steward.cli.etcdctl.flags import Ctl, etcdctl_options, words_argument
from etcd_steward.cli.etcdctl.govalues import go_bool, go_int
from etcd_steward.cli.etcdctl.guard import guard_options, refuse_registry
from etcd_steward.cli.etcdctl.pflag import EtcdctlVerb, flag
from etcd_steward.cli.framework import Verbs
from etcd_steward.errors import Unauthorized

if TYPE_CHECKING:  # grpc is imported where it is needed
    from etcd_steward.etcd.client import EtcdClient

_DENIED = "etcdserver: permission denied"
_NOT_FOUND = "etcdserver: requested lease not found"


@click.group(
    "lease",
    cls=Verbs,
    examples="""
etcd-steward lease grant 60
etcd-steward lease timetolive 694d5765fc71500b --keys
etcd-steward lease keep-alive 694d5765fc71500b
""",
)
def lease() -> None:
    """Keys that go by themselves when nobody renews their lease."""


@lease.command("grant", cls=EtcdctlVerb, examples="etcd-steward lease grant 60")
@words_argument("TTL")
@etcdctl_options
def grant(ctl: Ctl, words: tuple[str, ...]) -> None:
    """Grant a lease of TTL seconds."""
    if len(words) != 1:
        raise EtcdctlError("lease grant command needs TTL argument", BAD_ARGS)
    try:
        ttl = go_int(words[0], 10)
    except ValueError as error:
        raise EtcdctlError(f"bad TTL ({error})", BAD_ARGS) from None

    from etcd_steward.cli.etcdctl.live import run  # noqa: PLC0415  # grpc: slow
    from etcd_steward.etcd import stubs  # noqa: PLC0415
    from etcd_steward.etcd.calls import LEASE_GRANT  # noqa: PLC0415

    printer = ctl.printer()

    async def work() -> None:
        async with ctl.connect() as client:
            with told(form="failed to grant lease ({})"):
                answer = await LEASE_GRANT.ask(client, stubs.LeaseGrantRequest(TTL=ttl))
        printer.grant(answer)

    run(work())


@lease.command("revoke", cls=EtcdctlVerb, examples="etcd-steward lease revoke 694d5765fc71500b")
@words_argument("LEASE")
@guard_options
@etcdctl_options
def revoke(ctl: Ctl, words: tuple[str, ...], allow_registry: bool, registry_prefix: str) -> None:
    """End a lease, and delete its keys."""
    if len(words) != 1:
        raise EtcdctlError("lease revoke command needs 1 argument", BAD_ARGS)
    lease_id = _lease(words[0])

    from etcd_steward.cli.etcdctl.live import run  # noqa: PLC0415  # grpc: slow
    from etcd_steward.etcd import stubs  # noqa: PLC0415
    from etcd_steward.etcd.calls import LEASE_REVOKE  # noqa: PLC0415
    from etcd_steward.etcd.keys import KeyRange  # noqa: PLC0415

    printer = ctl.printer()
    if ctl.write_out == "protobuf":  # etcdctl has no form for it, and says so when it is too late
        printer.revoke(lease_id, stubs.LeaseRevokeResponse())

    async def work() -> None:
        async with ctl.connect() as client:
            with told(form="failed to revoke lease ({})"):
                if not allow_registry:
                    keys = map(KeyRange.key, await _held(client, lease_id))
                    refuse_registry(keys, allowed=False, prefix=registry_prefix, what="delete")
                answer = await LEASE_REVOKE.ask(client, stubs.LeaseRevokeRequest(ID=lease_id))
        printer.revoke(lease_id, answer)

    run(work())


async def _held(client: "EtcdClient", lease_id: int) -> Sequence[bytes]:
    """The keys of a lease. Raises `EtcdctlError` for whoever may not read them all."""
    from etcd_steward.etcd import stubs  # noqa: PLC0415  # grpc: slow
    from etcd_steward.etcd.calls import LEASE_TIME_TO_LIVE  # noqa: PLC0415
    from etcd_steward.etcd.errors import words_of  # noqa: PLC0415

    try:
        request = stubs.LeaseTimeToLiveRequest(ID=lease_id, keys=True)
        return (await LEASE_TIME_TO_LIVE.ask(client, request)).keys
    except Unauthorized as error:
        if words_of(error) != _DENIED:
            raise
        raise EtcdctlError(
            f"it can't be seen whether the lease holds keys of the API server ({_DENIED})",
            hint="revoking it may be allowed all the same: say --allow-registry, and nobody looks",
        ) from error


@lease.command(
    "timetolive", cls=EtcdctlVerb, examples="etcd-steward lease timetolive 694d5765fc71500b --keys"
)
@words_argument("LEASE")
@flag("--keys", go=go_bool, unset=False, help="Print its keys as well.")
@etcdctl_options
def timetolive(ctl: Ctl, words: tuple[str, ...], keys: bool) -> None:
    """Print how long a lease lives on."""
    if len(words) != 1:
        raise EtcdctlError("lease timetolive command needs lease ID as argument", BAD_ARGS)

    from etcd_steward.cli.etcdctl.live import run  # noqa: PLC0415  # grpc: slow
    from etcd_steward.etcd import stubs  # noqa: PLC0415
    from etcd_steward.etcd.calls import LEASE_TIME_TO_LIVE  # noqa: PLC0415

    printer = ctl.printer()
    request = stubs.LeaseTimeToLiveRequest(ID=_lease(words[0]), keys=keys)

    async def work() -> None:
        async with ctl.connect() as client:
            with told(BAD_CONNECTION):
                answer = await LEASE_TIME_TO_LIVE.ask(client, request)
        printer.time_to_live(answer, keys=keys)

    run(work())


@lease.command("list", cls=EtcdctlVerb, examples="etcd-steward lease list -w json")
@words_argument("", expose_value=False)
@etcdctl_options
def list_(ctl: Ctl) -> None:
    """List all leases."""
    from etcd_steward.cli.etcdctl.live import run  # noqa: PLC0415  # grpc: slow
    from etcd_steward.etcd import stubs  # noqa: PLC0415
    from etcd_steward.etcd.calls import LEASES  # noqa: PLC0415

    printer = ctl.printer()

    async def work() -> None:
        async with ctl.connect() as client:
            with told(BAD_CONNECTION):
                answer = await LEASES.ask(client, stubs.LeaseLeasesRequest())
        printer.leases(answer)

    run(work())


@lease.command(
    "keep-alive",
    cls=EtcdctlVerb,
    examples="""
etcd-steward lease keep-alive 694d5765fc71500b
etcd-steward lease keep-alive --once 694d5765fc71500b
""",
)
@words_argument("LEASE")
@flag("--once", go=go_bool, unset=False, help="Renew it now, and leave.")
@etcdctl_options
def keep_alive(ctl: Ctl, words: tuple[str, ...], once: bool) -> None:
    """Renew a lease again and again, until it ends or this is interrupted."""
    if len(words) != 1:
        raise EtcdctlError("lease keep-alive command needs lease ID as argument", BAD_ARGS)

    from etcd_steward.cli.etcdctl.live import run  # noqa: PLC0415  # grpc: slow
    from etcd_steward.etcd import calls  # noqa: PLC0415

    lease_id = _lease(words[0])
    printer = ctl.printer()

    async def work() -> None:
        from etcd_steward.cli.etcdctl.output import flush, write  # noqa: PLC0415

        async with ctl.connect() as client:
            with told(BAD_CONNECTION):
                if once:
                    answer = await calls.renew(client, lease_id)
                    if answer.TTL <= 0:
                        raise EtcdctlError(_NOT_FOUND, BAD_CONNECTION)
                    printer.keep_alive(answer)
                    return
                renewals = calls.keep_alive(client, lease_id, patience=ctl.patience)
                async with aclosing(renewals):
                    async for answer in renewals:
                        printer.keep_alive(answer)
                        flush()
        if ctl.write_out == "simple":
            write(b"lease %016x expired or revoked.\n" % lease_id)

    run(work())


def _lease(text: str) -> int:
    try:
        return go_int(text, 16)
    except ValueError as error:
        raise EtcdctlError(f"bad lease ID arg ({error}), expecting ID in Hex", BAD_ARGS) from None
