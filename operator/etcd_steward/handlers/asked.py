"""An EtcdRestore as the watch showed it last, and what is to be done about it: pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from etcd_steward.handlers import words
from etcd_steward.handlers.read import read_spec, read_status
from etcd_steward.handlers.status import is_terminal
from etcd_steward.kube import Key, Version, version_of
from etcd_steward.models.restore_kinds import EtcdRestoreSpec, EtcdRestoreStatus, Requester


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody wants keys restored."""

    key: Key
    version: Version
    generation: int
    created: datetime
    deleting: bool
    status: EtcdRestoreStatus
    spec: EtcdRestoreSpec | None = None
    """None: this version can't read it, for the reason in `fault`."""
    fault: str = ""
    requester: Requester | None = None

    @property
    def wants_us(self) -> bool:
        """Whether something is to be planned, applied, or said."""
        return not self.deleting and not is_terminal(self.status) and not self.waits

    @property
    def waits(self) -> bool:
        """Whether its plan is made, and nobody has approved it, or not this one."""
        return self.status.phase == "Planned" and (
            self.spec is None
            or self.spec.approved_plan_digest is None
            or self.status.observed_generation == self.generation
        )


def asked_of(body: Mapping[str, Any]) -> Asked:
    """An EtcdRestore, as far as it can be read."""
    meta = body["metadata"]
    spec, fault = read_spec(EtcdRestoreSpec, body)
    return Asked(
        key=Key(meta["namespace"], meta["name"]),
        version=version_of(body),
        generation=meta["generation"],
        created=words.moment(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        status=read_status(EtcdRestoreStatus, body).status,
        spec=spec,
        fault=fault,
        requester=_requester(meta.get("managedFields", ())),
    )


def _requester(managed: Any) -> Requester | None:  # noqa: ANN401  # JSON, of whatever version
    """Who wrote the spec first, as far as the API server tells: a client's name, and no user's."""
    theirs = [one for one in managed if one.get("manager") and not one.get("subresource")]
    if not theirs:
        return None
    first = min(theirs, key=lambda one: str(one.get("time", "")))
    return Requester(manager=first["manager"], time=first.get("time"))
