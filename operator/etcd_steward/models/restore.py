"""A restore of registry keys: what is asked for, the plan, and how it went.

A plan holds keys, verdicts and digests, never values: it lies in the store, and its first entries
in a status. Its digest says what would be written over what, and nothing else, so that two plans of
the same source over the same cluster have the same one.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from etcd_steward.models.base import Hex64, Model
from etcd_steward.models.registry import Filter

Verdict = Literal["create", "identical", "differs", "conflict", "excluded", "blocked"]
"""Of one key: it is not there | the same is there | the same object is there and differs | another
object (by its uid) is there | left out by a rule | it would do harm, or could not be read."""
Via = Literal["Registry", "API"]
ExistingObjects = Literal["Skip", "Overwrite", "Fail"]
ClusterScoped = Literal["None", "Related"]
Workloads = Literal["AsBackedUp", "Suspended"]


class RestoreOptions(Model):
    """Which keys, and how they come back."""

    include: Filter = Filter()
    exclude: Filter | None = None
    include_cluster_scoped: ClusterScoped = "Related"
    """`Related`: the Namespaces themselves, and the PersistentVolumes that their claims are bound
    to; `None`: only what `include` names."""
    workloads: Workloads = "AsBackedUp"
    """`Suspended`: CronJobs and Jobs suspended, replicas 0."""
    via: Via = "Registry"
    existing_objects: ExistingObjects = "Skip"
    namespace_mapping: Mapping[str, str] = Field(default_factory=dict)
    """Into which namespace each one goes; through the API only."""
    other_cluster: bool = False
    """A backup of another cluster is what is meant."""


class SourceRef(Model):
    """Where the keys come from, as it was found."""

    name: str
    """A backup's URL, a file's path, or `the live etcd`."""
    revision: int
    """Of etcd, that the source is read at."""
    live: bool = False
    """The history of the very etcd that is restored into."""
    cluster_id: Hex64 | None = Field(default=None, alias="clusterID")
    kube_system_uid: str | None = Field(default=None, alias="kubeSystemUID")
    finished_at: datetime | None = None
    """When the backup was taken."""


class PlanItem(Model):
    """One key of the source, and what becomes of it."""

    key: str
    resource: str
    """As kubectl names it: `deployments.apps`; empty where the key is no API object's."""
    namespace: str | None = None
    name: str = ""
    verdict: Verdict
    reason: str = ""
    """A word for machines: why it is excluded or blocked."""
    message: str = ""
    """The same for people, and what to do about it."""
    notes: tuple[str, ...] = ()
    """What to know before it is approved: what is changed on its way, what it starts."""
    write: bool = False
    """Whether an apply writes it."""
    group: int = 0
    """Keys of one ownership group are written in one transaction; groups in ascending order."""
    sha256: str = ""
    """Of the value that would be written; empty where none would."""
    size: int = 0
    """Its bytes."""
    uid: str | None = None
    """Of the object in the source."""
    live_uid: str | None = Field(default=None, alias="liveUID")
    live_revision: int = 0
    """ModRevision of what is there now; 0: nothing."""


class Plan(Model):
    """What a restore would do, key by key."""

    version: Literal[1] = 1
    made_at: datetime
    expires_at: datetime
    """After this it is applied no more: make a new one."""
    source: SourceRef
    target_cluster: Hex64
    """ID of the etcd that it was compared with."""
    target_kube_system_uid: str | None = Field(default=None, alias="targetKubeSystemUID")
    """Of the cluster whose API server it was compared with, where it goes through one."""
    revision: int
    """Of that etcd, that it was compared at."""
    options: RestoreOptions
    items: tuple[PlanItem, ...] = ()
    """In the order of their writing, then those that are not written."""
    warnings: tuple[str, ...] = ()
    """What concerns the whole."""

    @property
    def digest(self) -> str:
        """`sha256:…` of what would be done: source, options, and each key with its two sides."""
        said = self.model_dump_json(
            by_alias=True,
            include={"source": {"name", "revision"}, "target_cluster": True, "options": True},
        )
        total = hashlib.sha256(said.encode())
        for item in self.items:
            total.update(
                f"\n{item.key}\0{item.verdict}\0{item.write:d}\0{item.sha256}\0"
                f"{item.live_revision if item.write else 0}".encode()
            )
        return f"sha256:{total.hexdigest()}"

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many keys have which verdict."""
        return dict(Counter(item.verdict for item in self.items))

    @property
    def writes(self) -> int:
        """How many keys an apply writes."""
        return sum(item.write for item in self.items)


Outcome = Literal["written", "unchanged", "failed", "changed-since"]
"""`changed-since`: somebody was faster, and nothing was overwritten."""


class Restored(Model):
    """One key after the apply."""

    key: str
    outcome: Outcome
    revision: int = 0
    """That it was written at."""
    uid: str | None = None
    """That it has now: another one where the API made it."""
    message: str = ""


class RestoreReport(Model):
    """How an apply went: `result.json`."""

    version: Literal[1] = 1
    digest: str
    """Of the plan."""
    started_at: datetime
    finished_at: datetime
    undo: str
    """Where what was there before lies: a URL or path."""
    restored: tuple[Restored, ...] = ()
    read_back: int = 0
    """Objects that the API server showed afterwards as they were written."""
    second_look: Annotated[str, Field(description="RFC 3339")] | None = None
    taken_since: tuple[str, ...] = ()
    """What controllers took or changed by the second look, in words."""
    warnings: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many keys had which outcome."""
        return dict(Counter(one.outcome for one in self.restored))
