"""Key ranges as etcd's RPCs want them.

Written once: three of the Python clients that were looked at get the end of a prefix wrong, by not
cutting off trailing 0xff bytes or by failing on them, and then delete or read a neighbour's keys.
"""

from dataclasses import dataclass

EVERYTHING = b"\0"
"""As a range's end: every key from its start on. As its start: the first key there can be."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys from `start` (included) to `end` (excluded).

    As in etcd's RangeRequest an empty `end` means the single key `start`, and `EVERYTHING` all keys
    from `start` on.
    """

    start: bytes
    end: bytes

    @classmethod
    def key(cls, key: bytes) -> "KeyRange":
        """One key."""
        return cls(key, b"")

    @classmethod
    def prefix(cls, prefix: bytes) -> "KeyRange":
        """All keys that begin with `prefix`; with an empty one, all keys."""
        return cls(prefix or EVERYTHING, _prefix_end(prefix))

    @property
    def empty(self) -> bool:
        """Whether there can be no such key."""
        return self.end not in {b"", EVERYTHING} and self.end <= self.start

    def contains(self, key: bytes) -> bool:
        """Whether etcd would count `key` to this range."""
        if not self.end:
            return key == self.start
        return key >= self.start and (self.end == EVERYTHING or key < self.end)


def _prefix_end(prefix: bytes) -> bytes:
    """The smallest key above every key that begins with `prefix`."""
    kept = prefix.rstrip(b"\xff")  # nothing of the same length is above 0xff: carry to the left
    if not kept:
        return EVERYTHING
    return kept[:-1] + bytes([kept[-1] + 1])
