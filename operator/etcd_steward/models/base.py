"""What all models share: camelCase outside, strictness, secrets that never print."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
)
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A value that crosses a boundary: camelCase in JSON, immutable, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


RevealedSecret = Annotated[SecretStr, PlainSerializer(_reveal, when_used="json")]
"""A secret that prints as asterisks everywhere but in JSON: for the pipe to a child process only.

No model that holds one may be logged or stored as JSON.
"""

Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{1,16}$")]
"""A 64-bit ID (cluster, member, lease) in lower-case hex: JSON numbers lose bits above 2^53."""


def _in_utc(moment: datetime) -> datetime:
    try:
        moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("no moment that can be told in UTC") from error
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time that any other can be compared with, whoever wrote it down."""

Name = Annotated[str, Field(min_length=1, max_length=253)]
"""Name of a Kubernetes object."""
