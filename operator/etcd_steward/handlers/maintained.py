"""An EtcdMaintenance as the watch showed it last."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from etcd_steward.handlers import words
from etcd_steward.handlers.read import read_spec, read_status
from etcd_steward.kube import Key, Version, version_of
from etcd_steward.models.kinds import REQUESTED_AT
from etcd_steward.models.maintenance_kinds import EtcdMaintenanceSpec, EtcdMaintenanceStatus


@dataclass(frozen=True, slots=True)
class Maintained:
    """An etcd that somebody wants looked after."""

    key: Key
    version: Version
    generation: int
    created: datetime
    deleting: bool
    status: EtcdMaintenanceStatus
    spec: EtcdMaintenanceSpec | None = None
    """None: this version can't read it, for the reason in `fault`."""
    fault: str = ""
    requested_at: str | None = None

    @property
    def rank(self) -> tuple[datetime, Key]:
        """Of several for one etcd the first by this acts."""
        return self.created, self.key

    @property
    def rescues(self) -> bool:
        """Whether a full etcd is rescued without asking."""
        spec = self.spec
        if spec is None or spec.suspend or spec.mode == "Plan" or spec.alarms is None:
            return False
        return spec.alarms.no_space == "Rescue"


def maintained_of(body: Mapping[str, Any]) -> Maintained:
    """An EtcdMaintenance, as far as it can be read."""
    meta = body["metadata"]
    spec, fault = read_spec(EtcdMaintenanceSpec, body)
    return Maintained(
        key=Key(meta["namespace"], meta["name"]),
        version=version_of(body),
        generation=meta["generation"],
        created=words.moment(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        status=read_status(EtcdMaintenanceStatus, body).status,
        spec=spec,
        fault=fault,
        requested_at=meta.get("annotations", {}).get(REQUESTED_AT),
    )
