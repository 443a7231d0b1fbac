"""The flags of `restore namespace` and `restore object`: from where, what, and how."""

# ruff: noqa: ANN401  # what click hands on has no narrower type

import functools
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option
from etcd_steward.cli.output import output_option
from etcd_steward.cli.progress import progress_option
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.registry_source import LIVE, RECORD, url_of_record, where_from
from etcd_steward.cli.running import timeout_option
from etcd_steward.cli.snapshot_find import filters, split_url
from etcd_steward.cli.store_flags import spool_options, store_options
from etcd_steward.cli.values import DURATION
from etcd_steward.config import EtcdFlags
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import RestoreOptions
from etcd_steward.models.restore_run import From, FromBackup, FromFile, FromHistory, RestoreRequest

_SECOND_LOOK = 200.0
"""Seconds: the API server's repair loops come every three minutes."""
_FROM = "From where"
_WHICH = "Which"
_HOW = "How"
_WHEN = "When"


@dataclass(frozen=True, slots=True)
class Restoring:
    """What the flags say."""

    given: dict[str, Any]

    @property
    def source(self) -> str:
        """--from; the live etcd where it is left out."""
        return where_from(self.given["from_"]) or LIVE

    def check(self) -> None:
        """Raise `UsageError` for flags that contradict each other."""
        at, ago, deletion = (self.given[name] for name in ("at", "ago", "before_deletion"))
        if sum((at is not None, ago is not None, deletion)) > 1:
            raise click.UsageError("--at, --ago and --before-deletion all say when: give one")
        if self.source != LIVE and (at is not None or ago is not None or deletion):
            raise click.UsageError(
                "--at, --ago and --before-deletion look into the live etcd's history: leave out "
                "--from, or look for an older backup by `etcd-steward snapshot list`"
            )
        if self.given["plan"] and (self.given["apply"] or self.given["approve"]):
            raise click.UsageError("--plan writes nothing: leave out --apply and --approve")
        if self.given["to"] and self.given["via"] != "API":
            raise click.UsageError("--to takes --via api: raw keys stay where they were")

    async def request(self, include: Filter, title: str) -> RestoreRequest:
        """The restore that is meant, of what `include` names; `title` is a word for it."""
        given = self.given
        etcd: EtcdFlags = given["etcd"]
        return RestoreRequest(
            name=f"_cli.{title}",
            uid=str(uuid.UUID(bytes=secrets.token_bytes(16), version=4)),
            etcd=etcd.connection(),
            source=await self._source(),
            store=self._keep_in(),
            api=given["api"],
            kubeconfig=given["kubeconfig"],
            spool=given["spool"],
            options=self._options(include),
            registry_prefix=self.prefix,
            apply=True,
            approved=None,
            time_to_live=timedelta(hours=1),
            unthrottled=given["unthrottled"],
            second_look=_SECOND_LOOK if given["second_look"] else None,
            timeout=given["timeout"],
        )

    @property
    def prefix(self) -> str:
        """The API server's --etcd-prefix."""
        return str(self.given["registry_prefix"])

    def _keep_in(self) -> Any:
        url, store = self.given["keep_in"], self.given["store"]
        return store.settings(url) if url else None

    def _options(self, include: Filter) -> RestoreOptions:
        given = self.given
        exclude = Filter(resources=given["exclude"]) if given["exclude"] else None
        return RestoreOptions(
            include=include,
            exclude=exclude,
            include_cluster_scoped="Related" if given["related"] else "None",
            workloads="Suspended" if given["suspended"] else "AsBackedUp",
            via=given["via"],
            existing_objects=given["existing"],
            namespace_mapping=_mapping(given["to"], include.namespaces),
            other_cluster=given["other_cluster"],
        )

    async def _source(self) -> From:
        source, store = self.source, self.given["store"]
        if source == LIVE:
            return self._history()
        if "://" not in source and not source.startswith(RECORD):
            return FromFile(path=Path.cwd() / source)
        if source.startswith(RECORD):
            source = await url_of_record(source.removeprefix(RECORD))
        url, folder = split_url(source)
        return FromBackup(
            store=store.settings(url),
            folder=None if folder is None else str(folder),
            cluster=self.given["cluster"],
            backup=self.given["backup"],
        )

    def _history(self) -> FromHistory:
        at, ago = self.given["at"], self.given["ago"]
        moment = None if ago is None else datetime.now(UTC) - timedelta(seconds=ago)
        deletion = at is None and ago is None
        return FromHistory(before_deletion=deletion, moment=moment, revision=at)


def _mapping(words: tuple[str, ...], namespaces: tuple[str, ...]) -> dict[str, str]:
    """`--to NEW` for one namespace, `--to OLD=NEW` for each of several."""
    mapping = {}
    for word in words:
        old, equals, new = word.partition("=")
        if not equals:
            if len(namespaces) != 1:
                raise click.UsageError("of several namespaces, say which: --to OLD=NEW")
            old, new = namespaces[0], word
        mapping[old] = new
    return mapping


def restore_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb all of these flags; it receives `restoring: Restoring` and `output`."""

    @functools.wraps(function)
    def wrapper(**kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in _PARAMETERS}
        restoring = Restoring(given)
        restoring.check()
        return function(restoring=restoring, **kwargs)

    wrapped: Callable[..., Any] = timeout_option(progress_option(output_option(wrapper)))
    wrapped = etcd_options()(store_options()(spool_options(filters(wrapped))))
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


_PARAMETERS = (
    *("from_", "at", "ago", "before_deletion", "registry_prefix", "cluster", "backup"),
    *("exclude", "related", "via", "to", "existing", "suspended", "other_cluster"),
    *("kubeconfig", "api", "keep_in", "unthrottled", "plan", "apply", "approve", "diff", "keys"),
    *("second_look", "etcd", "store", "spool", "progress", "timeout"),
)


def _choice(*words: str) -> Any:
    return click.Choice(words, case_sensitive=False)


kubeconfig_option = click.option(
    "--kubeconfig",
    cls=Option,
    section=_HOW,
    envvar="KUBECONFIG",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="How to reach the API server.  [default: as kubectl finds it; env: KUBECONFIG]",
)
prefix_option = registry_prefix_option(_FROM)
keep_in_option = click.option(
    "--keep-in",
    cls=Option,
    section=_HOW,
    metavar="URL",
    help="Store for plan, undo file and result.  [default: the backup's; else the spool's "
    "directory]",
)
_OPTIONS = (
    click.option(
        "--from",
        "from_",
        cls=Option,
        section=_FROM,
        metavar="SNAPSHOT",
        help="A snapshot's URL, a store's (its newest verified one), etcdsnapshot/NAME, or a file: "
        ".db, .db.zst, .db.gz, .parquet.  [default: live, etcd's own history]",
    ),
    click.option(
        "--before-deletion",
        cls=Option,
        section=_FROM,
        is_flag=True,
        help="As it was before it was marked for deletion.  [default for the live etcd]",
    ),
    click.option(
        "--ago",
        cls=Option,
        section=_FROM,
        type=DURATION,
        metavar="DURATION",
        help="As the live etcd was so long ago, such as 3m.",
    ),
    click.option(
        "--at",
        cls=Option,
        section=_FROM,
        type=click.IntRange(min=1),
        metavar="REVISION",
        help="As the live etcd was at this revision.",
    ),
    prefix_option,
    click.option(
        "--other-cluster",
        cls=Option,
        section=_FROM,
        is_flag=True,
        help="Yes, this is a backup of another cluster.",
    ),
    click.option(
        "--exclude",
        cls=Option,
        section=_WHICH,
        multiple=True,
        metavar="RESOURCE",
        help="Leave these out, such as secrets; may be given more than once.",
    ),
    click.option(
        "--related/--no-related",
        cls=Option,
        section=_WHICH,
        default=True,
        help="Also the Namespace itself, and the volumes of its claims.  [default: --related]",
    ),
    click.option(
        "--via",
        cls=Option,
        section=_HOW,
        type=_choice("Registry", "API"),
        default="Registry",
        help="Raw keys, with their uids, or new objects through the API server.  "
        "[default: Registry]",
    ),
    click.option(
        "--to",
        cls=Option,
        section=_HOW,
        multiple=True,
        metavar="[OLD=]NEW",
        help="With --via api: into another namespace.",
    ),
    click.option(
        "--existing",
        cls=Option,
        section=_HOW,
        type=_choice("Skip", "Overwrite", "Fail"),
        default="Skip",
        help="What becomes of objects that are there and differ.  [default: Skip]",
    ),
    click.option(
        "--suspended",
        cls=Option,
        section=_HOW,
        is_flag=True,
        help="CronJobs and Jobs come back suspended, and replicas are 0.",
    ),
    kubeconfig_option,
    click.option(
        "--api/--no-api",
        cls=Option,
        section=_HOW,
        default=True,
        help="Ask the API server what it can read, and read back through it.  [default: --api]",
    ),
    keep_in_option,
    click.option(
        "--unthrottled",
        cls=Option,
        section=_HOW,
        is_flag=True,
        help="Write as fast as etcd can, whatever its other clients feel.",
    ),
    click.option(
        "--second-look/--no-second-look",
        cls=Option,
        section=_HOW,
        default=True,
        help="Look again after the repair loops, three minutes later.  [default: --second-look]",
    ),
    click.option(
        "--plan", cls=Option, section=_WHEN, is_flag=True, help="Only show what would be done."
    ),
    click.option("--apply", cls=Option, section=_WHEN, is_flag=True, help="Do it without asking."),
    click.option(
        "--approve",
        cls=Option,
        section=_WHEN,
        metavar="DIGEST",
        help="Do it without asking if the plan has this digest.",
    ),
    click.option(
        "--diff",
        cls=Option,
        section=_WHEN,
        is_flag=True,
        help="Show what differs in the objects that are there, field by field.",
    ),
    click.option(
        "--keys", cls=Option, section=_WHEN, is_flag=True, help="Show every key of the plan."
    ),
)
