"""`etcd-steward compact`: etcdctl's compaction_command.go.

It does what it is told, at once. The guarded way is `etcd-steward maintenance compact`.
"""

import click

from etcd_steward.cli.etcdctl.errors import BAD_ARGS, EtcdctlError, told
from etcd_steward.cli.etcdctl.flags import Ctl, etcdctl_options, words_argument
from etcd_steward.cli.etcdctl.govalues import go_bool, go_int
from etcd_steward.cli.etcdctl.output import write
from etcd_steward.cli.etcdctl.pflag import EtcdctlVerb, flag


@click.command(
    "compact",
    cls=EtcdctlVerb,
    examples="""
etcd-steward compact 4711
etcd-steward compact --physical 4711
""",
)
@words_argument("REVISION")
@flag("--physical", go=go_bool, unset=False, help="Wait until one member has removed it all.")
@etcdctl_options
def compact(ctl: Ctl, words: tuple[str, ...], physical: bool) -> None:
    """Forget the history before REVISION, on all members and for good.

    Watches and lists of the API servers that are older end with an error: see
    `etcd-steward maintenance compact`, which looks before.
    """
    if len(words) != 1:
        raise EtcdctlError("compaction command needs 1 argument", BAD_ARGS)
    try:
        revision = go_int(words[0], 10)
    except ValueError as error:
        raise EtcdctlError(str(error)) from None

    from etcd_steward.cli.etcdctl.live import run  # noqa: PLC0415  # grpc: slow
    from etcd_steward.etcd import stubs  # noqa: PLC0415
    from etcd_steward.etcd.calls import COMPACT  # noqa: PLC0415

    ctl.refuse_unknown_format()

    async def work() -> None:
        request = stubs.CompactionRequest(revision=revision, physical=physical)
        async with ctl.connect() as client:
            with told():
                await COMPACT.ask(client, request)
        write(b"compacted revision %d\n" % revision)

    run(work())


compaction = EtcdctlVerb(
    "compaction",
    callback=compact.callback,
    params=compact.params,
    help=compact.help,
    examples="etcd-steward compaction 4711",
)
