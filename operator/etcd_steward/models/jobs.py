"""All that a child process may be asked, and all that it may say."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from etcd_steward.models.maintenance_run import (
    CompactionEnded,
    MaintenanceRequest,
    MemberDone,
    MemberTurn,
    RescueEnded,
    RoundEnded,
)
from etcd_steward.models.observation import Observation, ObserveRequest
from etcd_steward.models.restore_run import PlanMade, RestoreEnded, RestoreRequest
from etcd_steward.models.run import (
    Catalogued,
    CatalogueEntry,
    CatalogueRequest,
    DeleteRequest,
    ExportRequest,
    Failure,
    Journal,
    Progress,
    Result,
    Settled,
    SettleRequest,
    SnapshotRequest,
    Warned,
)

Event = Annotated[
    Progress
    | Journal
    | Warned
    | Result
    | Settled
    | CatalogueEntry
    | Catalogued
    | PlanMade
    | RestoreEnded
    | MemberTurn
    | MemberDone
    | RoundEnded
    | CompactionEnded
    | RescueEnded
    | Observation
    | Failure,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
OneJob = (
    SnapshotRequest
    | ExportRequest
    | SettleRequest
    | CatalogueRequest
    | DeleteRequest
    | RestoreRequest
    | MaintenanceRequest
)
"""What ends by itself, and has one outcome."""
Request = OneJob | ObserveRequest
REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="job")])
