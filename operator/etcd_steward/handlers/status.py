"""What the status of our kinds says: pure functions from what happened to what is written.

Every transition of a run is one function here (a restore's own are in `restore_status`), from one
status to the next, so that no handler puts a status together by hand.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

from etcd_steward.handlers import words
from etcd_steward.handlers.entry import Entry
from etcd_steward.models.kinds import (
    Artifact,
    Condition,
    EtcdBackupSpec,
    EtcdBackupStatus,
    EtcdSnapshotStatus,
    RunJournal,
    RunProgress,
    RunVerification,
)
from etcd_steward.models.maintenance_kinds import EtcdMaintenanceStatus
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.restore_kinds import EtcdRestoreStatus
from etcd_steward.models.run import Failure, Journal, Progress, Result
from etcd_steward.units import size

RUN_AGAIN = "To run it again, create an EtcdSnapshot with spec.backupName: {backup}"
WARNINGS_KEPT = 20

Status = TypeVar("Status", EtcdBackupStatus, EtcdSnapshotStatus, EtcdRestoreStatus)
RunStatus = TypeVar("RunStatus", EtcdSnapshotStatus, EtcdRestoreStatus)
BegunStatus = TypeVar("BegunStatus", EtcdSnapshotStatus, EtcdRestoreStatus, EtcdMaintenanceStatus)
"""Of whatever processes are started for."""
Holds = Literal["True", "False", "Unknown"]
Outcome = tuple[str, Holds, str, str]
"""A condition's type, status, reason and message."""

_INDEX_IT = "The backup is complete without it; `etcd-steward snapshot index {url}` makes it"


def set_condition(
    conditions: Sequence[Condition],
    type_: str,
    holds: Holds,
    reason: str,
    message: str,
    *,
    now: datetime,
    generation: int | None,
) -> tuple[Condition, ...]:
    """Conditions with one of them set; its time moves only when its status does."""
    before = next((one for one in conditions if one.type == type_), None)
    stays = before is not None and before.status == holds
    condition = Condition(
        type=type_,
        status=holds,
        reason=reason,
        message=message,
        last_transition_time=before.last_transition_time
        if before is not None and stays
        else words.timestamp(now),
        observed_generation=generation,
    )
    if before is None:
        return (*conditions, condition)
    return tuple(condition if one.type == type_ else one for one in conditions)


def find_condition(conditions: Sequence[Condition], type_: str) -> Condition | None:
    """The condition of that type."""
    return next((one for one in conditions if one.type == type_), None)


def must_be_settled(status: EtcdSnapshotStatus) -> bool:
    """Whether a run has failed while nobody could look at what it left."""
    return status.phase == "Failed" and status.journal is not None


def verified(status: EtcdSnapshotStatus) -> bool:
    """Whether a run has left a backup that is proven."""
    condition = find_condition(status.conditions, "Verified")
    return condition is not None and condition.status == "True"


def is_terminal(status: EtcdSnapshotStatus | EtcdRestoreStatus | EtcdMaintenanceStatus) -> bool:
    """Whether a run has ended."""
    return any(
        one.type in {"Complete", "Failed"} and one.status == "True" for one in status.conditions
    )


def _with(status: RunStatus, **changes: object) -> RunStatus:
    return status.model_copy(update=changes)


def claimed(
    status: EtcdSnapshotStatus,
    *,
    spec: EtcdBackupSpec,
    backup_uid: str,
    now: datetime,
    generation: int | None,
) -> EtcdSnapshotStatus:
    """The run is ours: what it will do is fixed from here on."""
    return _with(
        status,
        type=spec.type,
        phase="Pending",
        observed_generation=generation,
        backup_spec=spec,
        backup_uid=backup_uid,
        attempt=1,
        start_time=words.timestamp(now),
    )


def started(
    status: EtcdSnapshotStatus, *, attempt: int, starts: int, now: datetime
) -> EtcdSnapshotStatus:
    """An attempt begins, with the process number `starts` of this run."""
    message = f"Attempt {attempt} is under way"
    return _with(
        status,
        phase="Running",
        attempt=attempt,
        starts=starts,
        message=message,
        heartbeat_time=words.timestamp(now),
        progress=RunProgress(step="Starting", text="Starting"),
        failed_side=None,
        conditions=set_condition(
            status.conditions,
            "Complete",
            "False",
            "Running",
            message,
            now=now,
            generation=status.observed_generation,
        ),
    )


def progressed(status: RunStatus, progress: Progress, *, now: datetime) -> RunStatus:
    """The run lives, and is this far."""
    return _with(
        status,
        heartbeat_time=words.timestamp(now),
        progress=RunProgress(
            step=progress.step,
            raw_bytes=progress.raw_bytes,
            total_bytes=progress.total_bytes,
            stored_bytes=progress.stored_bytes,
            text=words.progress(progress),
        ),
    )


def unnoted_start(status: BegunStatus) -> BegunStatus:
    """Leave one number out, so that no two processes ever write into one folder."""
    return status.model_copy(update={"starts": (status.starts or 0) + 1})


def settled(status: EtcdSnapshotStatus) -> EtcdSnapshotStatus:
    """Nothing of what earlier processes had begun is left in the store."""
    return _with(status, journal=None)


def journalled(status: EtcdSnapshotStatus, journal: Journal) -> EtcdSnapshotStatus:
    """The run is about to upload: this is what to look for if it dies."""
    return _with(
        status,
        journal=RunJournal(folder=journal.folder, key=journal.key, upload_id=journal.upload_id),
    )


def warned(status: RunStatus, message: str) -> RunStatus:
    """Something to look at; each only once, and a bounded number of them."""
    if message in status.warnings:
        return status
    return _with(status, warnings=(*status.warnings, message)[-WARNINGS_KEPT:])


def complete_message(result: Result) -> str:
    """What a complete run has to show."""
    manifest = result.manifest
    exported = manifest.type == "RegistryExport"
    raw = "" if exported else f"{size(manifest.raw_size)} stored as "
    return (
        f"{manifest.live_keys} keys at revision {manifest.revision}, "
        f"{raw}{size(manifest.stored_size)} in {result.url}"
    )


def completed(status: EtcdSnapshotStatus, result: Result, *, now: datetime) -> EtcdSnapshotStatus:
    """The manifest is written: the backup exists."""
    manifest, proof = result.manifest, result.manifest.proof
    took = (now - words.moment(status.start_time)).total_seconds() if status.start_time else 0.0
    return _with(
        status,
        type=manifest.type,
        phase="Complete",
        message=complete_message(result),
        completion_time=words.timestamp(now),
        heartbeat_time=words.timestamp(now),
        duration=words.duration(took),
        progress=RunProgress(
            step="Complete",
            raw_bytes=manifest.raw_size,
            total_bytes=manifest.raw_size,
            stored_bytes=manifest.stored_size,
            text=f"Done in {words.duration(took)}",
        ),
        journal=None,
        failed_side=None,
        artifact=artifact(manifest, result.url),
        verification=None
        if proof is None
        else RunVerification(level=proof.level.value, time=words.timestamp(proof.at)),
        warnings=tuple(dict.fromkeys((*status.warnings, *manifest.warnings)))[-WARNINGS_KEPT:],
        conditions=_complete_conditions(status, result, now),
    )


def _complete_conditions(
    status: EtcdSnapshotStatus, result: Result, now: datetime
) -> tuple[Condition, ...]:
    manifest = result.manifest
    level = str(manifest.proof.level) if manifest.proof is not None else None
    said = complete_message(result)
    outcome = _index_outcome(result)
    return _outcomes(status, said, level=level, suspect=manifest.suspect, index=outcome, now=now)


def _index_outcome(result: Result) -> Outcome | None:
    """What became of the sidecar; None where this run has not come to it: a look tells then."""
    if result.index is not None:
        rows, bytes_ = result.index.rows, size(result.index.file.size)
        return "Indexed", "True", "Indexed", f"{result.index.file.name}: {rows} keys in {bytes_}"
    failure = result.index_failure
    if failure is None:
        return None
    said = f"{failure.text.rstrip('.')}. {_INDEX_IT.format(url=result.url)}"
    return "Indexed", "False", failure.reason, said


def _outcomes(
    status: EtcdSnapshotStatus,
    said: str,
    *,
    level: str | None,
    suspect: str | None,
    index: Outcome | None = None,
    now: datetime,
) -> tuple[Condition, ...]:
    complete: Outcome = ("Complete", "True", "Complete", said)
    failed: Outcome = ("Failed", "False", "Complete", "")
    return _set(status, [complete, failed, _verified(level, suspect), index], now)


def _verified(level: str | None, suspect: str | None) -> Outcome | None:
    if suspect is not None:
        return "Verified", "False", "Suspect", suspect
    return None if level is None else ("Verified", "True", level, f"Proven to level {level}")


def _set(
    status: EtcdSnapshotStatus, outcomes: Iterable[Outcome | None], now: datetime
) -> tuple[Condition, ...]:
    conditions = status.conditions
    for type_, holds, reason, message in filter(None, outcomes):
        conditions = set_condition(
            conditions,
            type_,
            holds,
            reason,
            message,
            now=now,
            generation=status.observed_generation,
        )
    return conditions


def recorded(status: EtcdSnapshotStatus, entry: Entry) -> EtcdSnapshotStatus:
    """The record of a backup that was found in the store."""
    took = words.duration((entry.finished - entry.started).total_seconds())
    message = f"Found in the store: {entry.artifact.url}"
    level = entry.verification.level if entry.verification else None
    return followed(
        _with(
            status,
            phase="Complete",
            message=message,
            backup_uid=entry.backup_uid,
            start_time=words.timestamp(entry.started),
            completion_time=words.timestamp(entry.finished),
            duration=took,
            progress=RunProgress(
                step="Complete",
                raw_bytes=entry.artifact.raw_bytes,
                total_bytes=entry.artifact.raw_bytes,
                stored_bytes=entry.artifact.stored_bytes,
                text=f"Done in {took}",
            ),
            artifact=entry.artifact,
            warnings=entry.warnings[-WARNINGS_KEPT:],
            conditions=_outcomes(
                status, message, level=level, suspect=entry.suspect, now=entry.finished
            ),
        ),
        entry,
        now=entry.finished,
    )


def followed(status: EtcdSnapshotStatus, entry: Entry, *, now: datetime) -> EtcdSnapshotStatus:
    """What a look through the store adds to a record."""
    proven = entry.verification or status.verification
    verified = _verified(proven.level if proven else None, entry.suspect)
    return _with(
        status,
        type=entry.type,
        kept=entry.kept,
        verification=proven,
        conditions=_set(status, [verified, _index_found(status, entry)], now),
    )


def _index_found(status: EtcdSnapshotStatus, entry: Entry) -> Outcome | None:
    """Whether there is a sidecar, by what lies there; why not, a failed run has told better."""
    before = find_condition(status.conditions, "Indexed")
    known = None if before is None else before.status == "True"
    if entry.indexed is None or entry.indexed == known:
        return None
    if entry.indexed:
        return "Indexed", "True", "Indexed", "Found in the store"
    return "Indexed", "False", "NotIndexed", _INDEX_IT.format(url=entry.artifact.url)


def artifact(manifest: Manifest, url: str) -> Artifact:
    """What a status says of a backup in the store."""
    return Artifact(
        url=url,
        revision=manifest.revision,
        live_keys=manifest.live_keys,
        raw_bytes=manifest.raw_size,
        stored_bytes=manifest.stored_size,
        size=size(manifest.stored_size),
        raw_sha256=manifest.raw_sha256,
        stored_sha256=manifest.snapshot.sha256,
        cluster_id=manifest.cluster_id,
        member_id=manifest.member_id,
        etcd_version=manifest.etcd_version,
    )


def retrying(
    status: EtcdSnapshotStatus, failure: Failure, *, attempt: int, delay: float, now: datetime
) -> EtcdSnapshotStatus:
    """`attempt` failed in a way that may pass: the next one comes after `delay` seconds."""
    attempts = status.backup_spec.attempts if status.backup_spec else attempt + 1
    message = f"Attempt {attempt} of {attempts} failed: {failure.text}"
    return _with(
        status,
        phase="Pending",
        attempt=attempt + 1,
        message=message,
        heartbeat_time=words.timestamp(now),
        progress=RunProgress(
            step="Waiting",
            text=f"Attempt {attempt + 1} of {attempts} in {words.duration(delay)}",
        ),
        failed_side=failure.side,
        conditions=set_condition(
            status.conditions,
            "Complete",
            "False",
            failure.reason,
            message,
            now=now,
            generation=status.observed_generation,
        ),
    )


def waiting(status: RunStatus, text: str) -> RunStatus:
    """The run can't begin yet, or goes on later with the same attempt."""
    return _with(
        status, phase="Pending", message=text, progress=RunProgress(step="Waiting", text=text)
    )


def failed(
    status: EtcdSnapshotStatus, failure: Failure, *, backup_name: str, now: datetime
) -> EtcdSnapshotStatus:
    """The run has failed for good."""
    message = f"{failure.text.rstrip('.')}. {RUN_AGAIN.format(backup=backup_name)}"
    conditions = status.conditions
    outcomes: tuple[tuple[str, Holds], ...] = (("Failed", "True"), ("Complete", "False"))
    for type_, holds in outcomes:
        conditions = set_condition(
            conditions,
            type_,
            holds,
            failure.reason,
            message,
            now=now,
            generation=status.observed_generation,
        )
    step = status.progress.step if status.progress else "Starting"
    return _with(
        status,
        phase="Failed",
        message=message,
        completion_time=words.timestamp(now),
        progress=RunProgress(step="Failed", text=f"Failed ({step})"),
        failed_side=failure.side,
        conditions=conditions,
    )


def dumped(
    status: EtcdBackupStatus | EtcdSnapshotStatus | EtcdRestoreStatus | EtcdMaintenanceStatus,
) -> dict[str, Any]:
    """A status as the API server has it."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def change(old: Status, new: Status) -> dict[str, Any]:
    """What to write to make `old` into `new`; empty if they are equal."""
    return merge_patch(dumped(old), dumped(new))


def merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes `old` into `new`; empty if they are equal."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif value != before or key not in old:
            patch[key] = value
    return patch
