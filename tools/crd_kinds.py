"""What the CRDs say beside their fields: names, columns, and rules in CEL.

`generate_crds.py` makes them of this and of the pydantic models.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "operator"))

from etcd_steward.models import kinds, maintenance_kinds, restore_kinds
from etcd_steward.models.base import Model


@dataclass(frozen=True, slots=True)
class Kind:
    """What a CRD says beside its fields."""

    kind: str
    plural: str
    short: str
    description: str
    spec: type[Model]
    status: type[Model]
    columns: tuple[tuple[str, str, str, int], ...]
    """Name, type, JSONPath and priority (1: only with `-o wide`) of each printer column."""
    root_rules: tuple[tuple[str, str], ...] = ()
    """CEL and message; only `metadata.name` is visible of the metadata."""
    spec_rules: tuple[tuple[str, str], ...] = ()
    rules: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """For a path of fields below `spec`, dotted."""
    selectable: tuple[str, ...] = ()


_STORE_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        (
            "has(self.s3) != has(self.local)",
            "set exactly one store: either s3 or local",
        ),
    ),
    ".s3.sse": (
        (
            "!has(self.kmsKeyID) || self.type == 'KMS'",
            "kmsKeyID is for type KMS only",
        ),
        (
            "has(self.customerKeySecretName) == (self.type == 'C')",
            "customerKeySecretName is needed for type C, and for no other",
        ),
    ),
}


def _of_store(path: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """The rules of a store at `path`."""
    return {f"{path}{below}": rules for below, rules in _STORE_RULES.items()}


def _unchanged(model: type[Model], *, but: str) -> str:
    """CEL: that nothing of a spec is changed `but` one field."""
    fields = model.model_json_schema(by_alias=True)["properties"]
    terms = []
    for name, field_ in fields.items():
        if name == but:
            continue
        if field_.get("default") in (None, {}, []) and name not in _required(model):
            terms.append(
                f"has(self.{name}) == has(oldSelf.{name}) && "
                f"(!has(self.{name}) || self.{name} == oldSelf.{name})"
            )
        else:  # there is a default: it is never absent
            terms.append(f"self.{name} == oldSelf.{name}")
    return " && ".join(terms)


def _required(model: type[Model]) -> set[str]:
    return set(model.model_json_schema(by_alias=True).get("required", ()))


KINDS = (
    Kind(
        kind="EtcdBackup",
        plural="etcdbackups",
        short="ebk",
        description="A standing order: which etcd to back up, where to, and how hard to prove it. "
        "Each run of it is an EtcdSnapshot.",
        spec=kinds.EtcdBackupSpec,
        status=kinds.EtcdBackupStatus,
        columns=(
            ("Type", "string", ".spec.type", 0),
            ("Schedule", "string", ".spec.schedule", 0),
            ("Suspend", "boolean", ".spec.suspend", 0),
            ("Active", "integer", ".status.active", 0),
            ("Last", "date", ".status.lastSuccessfulTime", 0),
            ("Verified", "date", ".status.lastVerifiedTime", 0),
            # A string: kubectl prints a date that lies ahead as <invalid>.
            ("Next", "string", ".status.nextScheduleTime", 0),
            ("Kept", "integer", ".status.kept", 0),
            ("Size", "string", ".status.lastSize", 0),
            ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
            ("Age", "date", ".metadata.creationTimestamp", 0),
            ("Last URL", "string", ".status.lastURL", 1),
        ),
        root_rules=(
            (
                "self.metadata.name.size() <= 52",
                "an EtcdBackup's name has at most 52 characters: its runs are named after it",
            ),
        ),
        # On `spec`, not on the field: a rule of an optional field is passed by when the field is
        # removed first and added again with another value. (`type` is never absent: it has a
        # default.)
        spec_rules=(
            (
                "self.type == oldSelf.type",
                "type can't be changed: create another EtcdBackup",
            ),
            (
                "self.type == 'RegistryExport' || (!has(self.include) && !has(self.exclude))",
                "include and exclude are for type RegistryExport: a Snapshot is the whole database",
            ),
        ),
        rules=_of_store("store"),
    ),
    Kind(
        kind="EtcdSnapshot",
        plural="etcdsnapshots",
        short="esnap",
        description="One run of an EtcdBackup, and then the record of what it left in the store.",
        spec=kinds.EtcdSnapshotSpec,
        status=kinds.EtcdSnapshotStatus,
        columns=(
            ("Backup", "string", ".spec.backupName", 0),
            ("Type", "string", ".status.type", 0),
            ("Phase", "string", ".status.phase", 0),
            ("Progress", "string", ".status.progress.text", 0),
            ("Revision", "integer", ".status.artifact.revision", 0),
            ("Size", "string", ".status.artifact.size", 0),
            ("Verified", "string", ".status.verification.level", 0),
            ("Age", "date", ".metadata.creationTimestamp", 0),
            ("URL", "string", ".status.artifact.url", 1),
            ("Message", "string", ".status.message", 1),
        ),
        spec_rules=(
            (
                "self == oldSelf",
                "a run can't be changed: create another EtcdSnapshot",
            ),
        ),
        selectable=(".spec.backupName", ".status.phase"),
    ),
    Kind(
        kind="EtcdRestore",
        plural="etcdrestores",
        short="erestore",
        description="Keys of the registry, brought back once: from a backup, or from what etcd "
        "itself still remembers. Who may create one may do whatever a cluster admin may.",
        spec=restore_kinds.EtcdRestoreSpec,
        status=restore_kinds.EtcdRestoreStatus,
        columns=(
            ("Mode", "string", ".spec.mode", 0),
            ("Phase", "string", ".status.phase", 0),
            ("Progress", "string", ".status.progress.text", 0),
            ("Writes", "integer", ".status.plan.writes", 0),
            ("Written", "integer", ".status.result.counts.written", 0),
            ("Expires", "string", ".status.plan.expiresTime", 0),
            ("Age", "date", ".metadata.creationTimestamp", 0),
            ("Source", "string", ".status.plan.source", 1),
            ("Digest", "string", ".status.plan.digest", 1),
            ("Undo", "string", ".status.result.undo", 1),
            ("Message", "string", ".status.message", 1),
        ),
        spec_rules=(
            (
                _unchanged(restore_kinds.EtcdRestoreSpec, but="approvedPlanDigest"),
                "nothing but approvedPlanDigest can be changed: create another EtcdRestore",
            ),
            (
                (
                    "has(self.source.undoOf) || (has(self.include) && ("
                    "has(self.include.namespaces) || has(self.include.resources) || "
                    "has(self.include.names) || has(self.include.labelSelector) || "
                    "has(self.include.keyPrefixes)))"
                ),
                "include must name something: to restore everything is to restore the cluster",
            ),
            (
                "!has(self.source.undoOf) || (!has(self.exclude) && self.mode == 'Apply')",
                "an undo has no plan of its own: set mode: Apply, and no exclude",
            ),
            (
                (
                    "!has(self.namespaceMapping) || size(self.namespaceMapping) == 0 || "
                    "self.via == 'API'"
                ),
                "namespaceMapping is for via: API: raw keys stay where they were",
            ),
            (
                "!has(self.approvedPlanDigest) || self.mode == 'Plan'",
                "approvedPlanDigest is for mode: Plan, once status.plan shows a digest",
            ),
        ),
        rules={
            "source": (
                (
                    (
                        "[has(self.snapshotName), has(self.backupName), has(self.store), "
                        "has(self.live), has(self.undoOf)].filter(one, one).size() == 1"
                    ),
                    "set exactly one source: snapshotName, backupName, store, live or undoOf",
                ),
                (
                    "!has(self.path) || has(self.store)",
                    "path is a folder in store: set both",
                ),
            ),
            "source.live": (
                (
                    (
                        "[self.beforeDeletion, has(self.ago), has(self.revision)]"
                        ".filter(one, one).size() == 1"
                    ),
                    "set exactly one moment: beforeDeletion, ago or revision",
                ),
            ),
            **_of_store("source.store"),
            **_of_store("store"),
        },
        selectable=(".spec.mode", ".status.phase"),
    ),
    Kind(
        kind="EtcdMaintenance",
        plural="etcdmaintenances",
        short="emaint",
        description="A standing order for one etcd: what is observed and reported of it, and, each "
        "section if it is set, when its members are defragmented, its history is compacted and its "
        "alarms are seen to.",
        spec=maintenance_kinds.EtcdMaintenanceSpec,
        status=maintenance_kinds.EtcdMaintenanceStatus,
        columns=(
            ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
            ("Leader", "string", ".status.etcd.leader", 0),
            ("DB-Size", "string", ".status.etcd.dbSize", 0),
            ("Quota-Used", "string", ".status.etcd.quotaUsed", 0),
            ("Last-Defrag", "date", ".status.lastDefragmentationTime", 0),
            ("Next", "string", ".status.nextScheduleTime", 0),
            ("Age", "date", ".metadata.creationTimestamp", 0),
            ("In-Use", "string", ".status.etcd.inUse", 1),
            ("Revision", "integer", ".status.etcd.revision", 1),
            ("Leases", "integer", ".status.etcd.leases", 1),
            ("Version", "string", ".status.etcd.version", 1),
            ("Message", "string", ".status.message", 1),
        ),
        spec_rules=(
            (
                "!has(self.schedule) || has(self.defragmentation)",
                "schedule is for rounds of defragmentation: set defragmentation too",
            ),
            (
                "!has(self.window) || has(self.schedule)",
                "window is for rounds that the schedule starts: set schedule too",
            ),
        ),
        rules={
            "etcd": (
                (
                    (
                        "(has(self.endpoints) && size(self.endpoints) > 0) || "
                        "(!has(self.tls) && !has(self.auth) && !has(self.serverName))"
                    ),
                    "tls, auth and serverName are for endpoints: set these too",
                ),
            ),
            "compaction": (
                (
                    (
                        "self.mode == 'Retain' ? has(self.retainRevisions) || "
                        "has(self.retainDuration) : "
                        "!has(self.retainRevisions) && !has(self.retainDuration)"
                    ),
                    "mode Retain needs retainRevisions or retainDuration, and no other mode does",
                ),
                (
                    "!has(self.stalledAfter) || self.mode == 'WhenStalled'",
                    "stalledAfter is for mode WhenStalled",
                ),
            ),
            "alarms": (
                (
                    "!has(self.backupName) || self.noSpace == 'Rescue'",
                    "backupName is for noSpace: Rescue",
                ),
            ),
        },
        selectable=(".status.phase",),
    ),
)
