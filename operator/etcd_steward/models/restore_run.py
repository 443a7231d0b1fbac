"""What a restore's child process is asked to do, and what it answers."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from etcd_steward.models.base import Model
from etcd_steward.models.connection import EtcdConnection, StoreSettings
from etcd_steward.models.restore import PlanItem, RestoreOptions, SourceRef
from etcd_steward.models.run import SpoolSettings


class FromBackup(Model):
    """A stored backup."""

    kind: Literal["backup"] = "backup"
    store: StoreSettings
    folder: str | None = None
    """Its own; None: the newest verified one of those below."""
    cluster: str | None = None
    """Only this cluster's: its folder in the store, or its ID."""
    backup: str | None = None
    """Only this backup's: `namespace.name`, or the name alone."""


class FromFile(Model):
    """A file on this host: a snapshot, wrapped or not, or a registry.parquet."""

    kind: Literal["file"] = "file"
    path: Path


class FromHistory(Model):
    """What the etcd that is restored into still remembers: one of these."""

    kind: Literal["live"] = "live"
    before_deletion: bool = False
    """As it was before what is meant was marked for deletion."""
    moment: datetime | None = None
    revision: int | None = None


class FromUndo(Model):
    """What was there before another restore."""

    kind: Literal["undo"] = "undo"
    folder: str
    """That restore's own: `<cluster>/_restores/<name>-<uid>`."""
    store: StoreSettings | None = None
    """Where it lies; None: on this host."""


From = Annotated[FromBackup | FromFile | FromHistory | FromUndo, Field(discriminator="kind")]


class RestoreRequest(Model):
    """Make a plan, and perhaps apply it."""

    job: Literal["restore"] = "restore"
    name: str
    """`<namespace>.<name>` of an EtcdRestore, or the command line's own; with `uid` it names the
    folder below `_restores/` that it writes into."""
    uid: str
    etcd: EtcdConnection
    """Which etcd is restored into."""
    source: From
    store: StoreSettings | None = None
    """Where plan, claim, undo file and result go; None: where the backup lies, and if it is no
    stored one, on this host."""
    api: bool = True
    """Whether the API server may be asked, and written through."""
    kubeconfig: Path | None = None
    """How to reach the API server; None: the Pod's own way, or as kubectl finds it."""
    spool: SpoolSettings
    options: RestoreOptions = RestoreOptions()
    registry_prefix: str = "/registry"
    apply: bool = False
    """Write; else only plan."""
    approved: str | None = None
    """Digest of the plan to apply; None: whatever the plan turns out to be."""
    time_to_live: timedelta = timedelta(hours=24)
    """How long the plan can be approved."""
    keep_for: timedelta = timedelta(days=30)
    """How long this restore's files are kept."""
    unthrottled: bool = False
    second_look: float | None = 200.0
    """Seconds after the last write until it is looked at again: the API server's repair loops come
    every three minutes. None: it is not."""
    timeout: float = 3600.0
    """Seconds for all but the second look."""


class PlanMade(Model):
    """A plan was made; nothing was written but the plan."""

    event: Literal["planned"] = "planned"
    applying: bool = False
    """It is applied now; else this is all that was asked for."""
    digest: str
    url: str
    """Where it lies."""
    source: SourceRef
    made_at: datetime
    expires_at: datetime
    writes: int
    counts: dict[str, int]
    reasons: dict[str, int]
    """Of what is excluded or blocked: how many keys for which reason."""
    items: tuple[PlanItem, ...]
    """The first of them."""
    warnings: tuple[str, ...]


class RestoreEnded(Model):
    """A plan was applied, now or before."""

    event: Literal["restored"] = "restored"
    digest: str
    """Of the plan."""
    url: str
    """Where `result.json` lies."""
    undo: str
    """Where what was there before lies."""
    started_at: datetime
    finished_at: datetime
    before: bool = False
    """It had been applied already: nothing was done now."""
    counts: dict[str, int]
    read_back: int
    second_look: datetime | None
    taken_since: tuple[str, ...]
    failures: tuple[str, ...]
    """The first of them."""
    warnings: tuple[str, ...]
