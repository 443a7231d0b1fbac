"""The program: its verbs, and the one place where an end becomes an exit code."""

import logging
import signal
from collections.abc import Sequence

import click

from etcd_steward import __version__
from etcd_steward.cli.completion import PROGRAM, VARIABLE, completion
from etcd_steward.cli.framework import Invocation, LazyVerbs, Verb
from etcd_steward.cli.output import print_error
from etcd_steward.cli.running import Interrupted
from etcd_steward.errors import StewardError

_VERBS = {
    "run": ("etcd_steward.cli.run:operator", "Run the operator."),
    "check": (
        "etcd_steward.cli.check:check",
        "Look whether a backup would work: what does, what doesn't, what to do.",
    ),
    "status": (
        "etcd_steward.cli.status:status",
        "Show one etcd on one screen, and what to do next.",
    ),
    "snapshot": (
        "etcd_steward.cli.snapshot:snapshot",
        "Take, list, prove and fetch snapshots.",
    ),
    "registry": (
        "etcd_steward.cli.registry:registry",
        "Look into a Kubernetes registry, live or in any backup.",
    ),
    "restore": (
        "etcd_steward.cli.restore:restore",
        "Bring back what was lost.",
    ),
    "hashkv": (
        "etcd_steward.cli.hashkv:hashkv",
        "Hash all keys of a file, a backup or every member, to compare them.",
    ),
    "defrag": (
        "etcd_steward.cli.defrag:defrag",
        "Defragment all members safely, one at a time, the leader last.",
    ),
    "alarm": (
        "etcd_steward.cli.alarm:alarm",
        "List alarms, and make a full etcd take writes again.",
    ),
    "maintenance": (
        "etcd_steward.cli.maintenance:maintenance",
        "Compact history, guarded.",
    ),
    "put": ("etcd_steward.cli.etcdctl.put:put", "etcdctl's put: write a key."),
    "get": ("etcd_steward.cli.etcdctl.get:get", "etcdctl's get: read keys."),
    "del": ("etcd_steward.cli.etcdctl.delete:delete", "etcdctl's del: delete keys."),
    "compact": (
        "etcd_steward.cli.etcdctl.compact:compact",
        "etcdctl's compact: forget the history before a revision.",
    ),
    "compaction": (
        "etcd_steward.cli.etcdctl.compact:compaction",
        "The same, by the name that etcdctl gives it in full.",
    ),
    "watch": ("etcd_steward.cli.etcdctl.watch:watch", "etcdctl's watch: print what happens."),
    "lease": (
        "etcd_steward.cli.etcdctl.lease:lease",
        "etcdctl's lease: grant, revoke, keep-alive, timetolive, list.",
    ),
}

_EXIT_CODES = """\
Exit codes:
  0    done
  1    failed
  2    wrong usage: a flag, argument or file says what can't be meant
  3    refused by a safety check
  4    done, but something needs a look
  130  interrupted by Ctrl-C, and cleaned up (143: by SIGTERM)
"""


@click.group(
    PROGRAM,
    cls=LazyVerbs,
    lazy=_VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXIT_CODES,
    examples="""
etcd-steward check --endpoints https://10.0.0.1:2379 \\
    --cacert ca.crt --cert client.crt --key client.key
etcd-steward snapshot save --endpoints 10.0.0.1:2379 --store file:///var/backups/etcd
etcd-steward snapshot list --store s3://etcd-backups/prod
""",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def etcd_steward() -> None:
    """Back up an etcd that this program does not own, prove the backup, and bring it back.

    Results go to standard output; progress, warnings and errors to standard error. With -o json or
    yaml an error is also printed to standard output, as an object {"error": {...}}.
    """


etcd_steward.add_command(completion)


@etcd_steward.command("version", cls=Verb, examples="etcd-steward version")
def version() -> None:
    """Print the version."""
    click.echo(f"{PROGRAM} {__version__}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    if logging.lastResort is not None:  # used where nobody, such as the operator, set up logging
        logging.lastResort.setFormatter(logging.Formatter("Warning: %(message)s"))
    invocation = Invocation()
    try:
        code = etcd_steward.main(
            None if arguments is None else list(arguments),
            prog_name=PROGRAM,
            complete_var=VARIABLE,
            standalone_mode=False,
            obj=invocation,
        )
    except (StewardError, click.ClickException) as error:
        return _tell(error, invocation)
    except Interrupted as interrupted:
        return interrupted.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted", err=True)
        return 128 + signal.SIGINT
    return code if isinstance(code, int) else 0


def _tell(error: StewardError | click.ClickException, invocation: Invocation) -> int:
    if isinstance(error, StewardError):
        print_error(error, invocation.output)
    else:
        error.show()
    return error.exit_code
