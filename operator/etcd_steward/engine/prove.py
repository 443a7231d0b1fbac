"""The structural proof of a snapshot, in the manifest's words."""

from dataclasses import dataclass

from etcd_steward.errors import IntegrityError
from etcd_steward.models.manifest import Structure
from etcd_steward.models.ports import ReadAt
from etcd_steward.registry.proof import KUBE_SYSTEM, StructureReport, prove_structure

_METAS = 2
"""Meta pages of a file that bbolt has streamed (bbolt tx.go, `WriteTo`)."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What the proof read, and the part of it that a manifest keeps."""

    report: StructureReport
    structure: Structure
    read_revision: int
    """What the file was compared with."""


def prove(file: ReadAt, read_revision: int, *, namespace_key: bytes = KUBE_SYSTEM) -> Proven:
    """Read every page of the database; blocking, for a worker thread.

    `read_revision` was read through the same member before its stream began, so the file must hold
    at least that: one that holds less is another member's, or an old one. The object at
    `namespace_key` gives the report's `kube_system_uid`. Raises `IntegrityError`.
    """
    report = prove_structure(file, namespace_key=namespace_key)
    if report.valid_metas != _METAS:
        raise IntegrityError(
            "one of the two meta pages of the snapshot is damaged",
            hint="etcd writes both anew into every stream: memory, disk or network of the member "
            "or of this host alter data",
        )
    if report.revision < read_revision:
        raise IntegrityError(
            f"the snapshot ends at revision {report.revision}, but its member had already answered "
            f"with {read_revision} before it was taken",
            hint="the endpoint may be a virtual IP that moved on to another member: name the "
            "members themselves, and try again",
        )
    structure = Structure(
        page_size=report.page_size,
        pages=report.pages,
        reachable_pages=report.reachable_pages,
        records=report.records,
        tombstones=report.tombstones,
        alarms=tuple(f"{alarm.kind} {alarm.member_id:x}" for alarm in report.alarms),
    )
    return Proven(report, structure, read_revision)
