"""`etcd-steward watch`: etcdctl's watch_command.go, over watches that outlive a member."""

from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.etcdctl.backup import Backup, backup_options
from etcd_steward.cli.etcdctl.errors import (
    BAD_ARGS,
    BAD_CONNECTION,
    INTERRUPTED,
    EtcdctlError,
    told,
)
from etcd_steward.cli.etcdctl.flags import Ctl, etcdctl_options, words_argument
from etcd_steward.cli.etcdctl.govalues import go_bool
from etcd_steward.cli.etcdctl.key_levels import complete_key
from etcd_steward.cli.etcdctl.pflag import DASH, EtcdctlVerb, flag
from etcd_steward.cli.etcdctl.printers import Printer
from etcd_steward.cli.etcdctl.watch_words import Asked, Flags, Named, asked, watch_flags
from etcd_steward.cli.output import warn

if TYPE_CHECKING:  # grpc is imported where it is needed
    from etcd_steward.etcd import stubs


@click.command(
    "watch",
    cls=EtcdctlVerb,
    examples="""
etcd-steward watch /app/colour
etcd-steward watch --prefix --rev=4711 --prev-kv /registry/pods/shop/
etcd-steward watch --prefix /app/ -- sh -c 'echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY'
etcd-steward watch -i
etcd-steward watch --prefix --rev=4711 /registry/ --from etcd.db
""",
)
@words_argument("[KEY [RANGE_END]] [-- COMMAND...]", shell_complete=complete_key)
@flag("-i", "--interactive", go=go_bool, unset=False, help="Take what to watch from lines.")
@watch_flags
@backup_options
@etcdctl_options
def watch(
    ctl: Ctl,
    words: tuple[str, ...],
    interactive: bool,
    source: Backup | None,
    **flags: object,
) -> None:
    """Print what happens to a key, or to all from KEY up to RANGE_END, until it is interrupted.

    COMMAND is run for each change, with ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY, ETCD_WATCH_VALUE and
    ETCD_WATCH_REVISION in its environment.

    \b
    With --interactive these lines are taken from standard input:
    watch [FLAG...] KEY [RANGE_END] [-- COMMAND...]    begin one more; its flags are its own
    progress                                           say how far everything was told
    cancel [KEY [RANGE_END]]                           end what was begun with these words, or all

    When the member that tells of changes goes away, another one does, and nothing is left out.
    With --from the history that a backup holds is told, from --rev on.
    """  # noqa: D301  # click wants a real backspace: "don't fill the next paragraph"
    from etcd_steward.cli.etcdctl.live import run  # noqa: PLC0415  # grpc: slow

    named = Named.from_environment()
    if interactive:
        from etcd_steward.cli.etcdctl.watch_lines import interact  # noqa: PLC0415

        if source is not None:
            raise EtcdctlError("--from and --interactive can't both be meant", BAD_ARGS)
        run(interact(ctl, named))
        return
    dash = click.get_current_context().meta[DASH]
    said = asked(words, dash, Flags(**flags), named)  # type: ignore[arg-type]
    run(_live(ctl, said) if source is None else _replayed(source, said, ctl.printer()))


async def _live(ctl: Ctl, said: Asked) -> None:
    from etcd_steward.cli.etcdctl.watch_shown import show  # noqa: PLC0415
    from etcd_steward.etcd.watcher import Watcher  # noqa: PLC0415

    async with ctl.connect() as client:
        printer = ctl.printer()
        watcher = Watcher(client, notice=warn)
        watcher.watch(said.watch)
        with told(BAD_CONNECTION):
            async with aclosing(watcher.told()) as every:
                async for one in every:
                    await show(one.answer, printer, said.command)
                    _go_on(one.answer)


async def _replayed(source: Backup, said: Asked, printer: Printer) -> None:
    from etcd_steward.cli.etcdctl.watch_shown import show  # noqa: PLC0415

    if not said.watch.start:
        raise EtcdctlError(
            "nothing comes any more in a backup: say by --rev from where on to tell its history",
            BAD_ARGS,
        )
    async with (
        source.opened(history=True) as backup,
        aclosing(backup.replay(said.watch)) as answers,
    ):
        async for answer in answers:
            await show(answer, printer, said.command)
            _go_on(answer)


def _go_on(answer: "stubs.WatchResponse") -> None:
    if answer.canceled:
        raise EtcdctlError("watch is canceled by the server", INTERRUPTED)
