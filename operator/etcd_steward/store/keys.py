"""What a key may look like: the same rules for every store.

A key that one store takes must be taken by the other, and no key may lead out of a directory. So
both ask here first.
"""

from etcd_steward.errors import InvalidInput

PARTIAL = ".partial"
"""First segment that belongs to the local store's unfinished files; no key may begin with it."""


def check_key(key: str) -> None:
    """Raise `InvalidInput` unless `key` is a plain relative path such as `a/b/c.json`."""
    if problem := _problem(key):
        raise InvalidInput(f"{key!r} can't be a key in a store: {problem}")


def check_prefix(prefix: str) -> None:
    """Raise `InvalidInput` unless `prefix` is empty or a plain relative path ending in `/`.

    Without its `/` the prefix `etcd-main` would find what lies under `etcd-main2` as well.
    """
    if not prefix:
        return
    if not prefix.endswith("/"):
        raise InvalidInput(f"the prefix {prefix!r} must end in a slash")
    check_key(prefix[:-1])


def _problem(key: str) -> str | None:
    segments = key.split("/")
    if "" in segments:
        return "it is empty, begins or ends with a slash, or has two in a row"
    if "." in segments or ".." in segments:
        return "it has a segment of dots"
    if not key.isprintable():
        return "it has a character that can't be printed"
    if segments[0] == PARTIAL:
        return f"{PARTIAL} is kept for unfinished files"
    return None
