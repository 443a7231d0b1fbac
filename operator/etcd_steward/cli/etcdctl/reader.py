"""Where `get` reads: the live etcd, or a backup that answers as if it were alive."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # protobuf is imported where it is needed
    from etcd_steward.etcd import stubs


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an answer to a request for many keys."""

    header: "stubs.ResponseHeader"
    """The whole answer's, in each part."""
    count: int
    """How many keys the whole answer has."""
    kvs: "Sequence[stubs.KeyValue]" = field(default=(), repr=False)
    """The next of them, in order."""


class Reader(Protocol):
    """What answers etcd's requests for keys."""

    async def range(self, request: "stubs.RangeRequest") -> "stubs.RangeResponse":
        """The whole answer. Raises `StewardError`."""
        ...

    def parts(self, request: "stubs.RangeRequest") -> AsyncGenerator[Part, None]:
        """The same answer in at least one part, so that nobody needs to hold it.

        `request` asks for keys in their own order: no other, no limit, no bounds of revisions, and
        not for the count alone. Raises `StewardError`.
        """
        ...
