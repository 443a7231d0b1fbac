"""All that a child process may be asked, and all that it may say."""

from typing import Annotated

from pydantic import Field, TypeAdapter

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
    | Failure,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
Request = (
    SnapshotRequest
    | ExportRequest
    | SettleRequest
    | CatalogueRequest
    | DeleteRequest
    | RestoreRequest
)
REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="job")])
