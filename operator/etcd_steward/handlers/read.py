"""Reading a status that somebody else may have written: a newer operator, or a person."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from etcd_steward.models.base import Model

log = logging.getLogger(__name__)

Spec = TypeVar("Spec", bound=Model)
Status = TypeVar("Status", bound=Model)


@dataclass(frozen=True, slots=True)
class Read(Generic[Status]):
    """A status, as far as it could be read."""

    status: Status
    understood: bool
    """Nothing but unknown fields had to be left out."""


def read_status(model: type[Status], body: Mapping[str, Any]) -> Read[Status]:
    """An object's status. Never raises: one odd object must not stop all the others.

    Fields that this version does not know are ignored; those that it can't read are left out.
    """
    raw = dict(body.get("status") or {})
    try:
        return Read(model.model_validate(raw, extra="ignore"), understood=True)
    except ValidationError as error:
        odd = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
    meta = body["metadata"]
    _complain(f"{body.get('kind')} {meta['namespace']}/{meta['name']}", ", ".join(sorted(odd)))
    kept = {name: value for name, value in raw.items() if name not in odd}
    return Read(model.model_validate(kept, extra="ignore"), understood=False)


def read_spec(model: type[Spec], body: Mapping[str, Any]) -> tuple[Spec | None, str]:
    """An object's spec, or why it can't be read: its CRD may be of another version."""
    try:
        return model.model_validate(body["spec"]), ""
    except ValidationError as error:
        return None, in_words(error)


def in_words(error: ValidationError) -> str:
    """Which fields are wrong, and why."""
    return "; ".join(
        f"spec.{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
        for fault in error.errors(include_input=False, include_url=False)
    )


@functools.lru_cache(maxsize=1024)
def _complain(what: str, fields: str) -> None:
    """Log it once."""
    log.error(
        "the status of %s can't be read (%s): it is left alone. "
        "Was it written by a newer operator, or by hand?",
        what,
        fields,
    )
