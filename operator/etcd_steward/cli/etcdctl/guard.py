"""What etcdctl has no need of: writing verbs keep off the API server's keys.

A value written past the API server is seen by no admission, and a broken one stops every list of
its kind. Whoever means it says so with `--allow-registry`.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

from etcd_steward.cli.etcdctl.govalues import go_bool
from etcd_steward.cli.etcdctl.pflag import flag
from etcd_steward.cli.registry_prefix import DEFAULT_PREFIX, PREFIX_VARIABLE
from etcd_steward.errors import Refused
from etcd_steward.etcd.keys import EVERYTHING, KeyRange

COMPACT_REV_KEY = b"compact_rev_key"
"""Where the API servers agree on what to compact, outside of their prefix."""


def guard_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a writing verb `--allow-registry` and `--registry-prefix`, under these names."""
    section = "Safety"
    function = flag(
        "--registry-prefix",
        unset=DEFAULT_PREFIX,
        envvar=PREFIX_VARIABLE,
        section=section,
        metavar="PREFIX",
        help=f"The API server's --etcd-prefix.  [default: {DEFAULT_PREFIX}; "
        f"env: {PREFIX_VARIABLE}]",
    )(function)
    return flag(
        "--allow-registry",
        go=go_bool,
        unset=False,
        section=section,
        help="Write to the API server's own keys, past the API server.",
    )(function)


def refuse_registry(wanted: Iterable[KeyRange], *, allowed: bool, prefix: str, what: str) -> None:
    """Raise `Refused` if any of `wanted` holds a key of the API server, be there one or not.

    `what` completes "… keys of the API server". Without a name in it, `prefix` is `/`: the API
    server's keys are then all that begin with that.
    """
    if allowed:
        return
    name = prefix.strip("/")
    root = f"/{name}/" if name else "/"
    owned = (KeyRange.prefix(os.fsencode(root)), KeyRange.key(COMPACT_REV_KEY))
    for one in wanted:
        if any(_meet(one, own) for own in owned):
            raise Refused(
                f"this would {what} keys of the API server ({root} or compact_rev_key)",
                hint="go through the API server, or say --allow-registry if you mean it",
            )


def _meet(one: KeyRange, other: KeyRange) -> bool:
    return one.start < _end(other) and other.start < _end(one)


def _end(wanted: KeyRange) -> bytes:
    """The first key behind a range, as something that compares."""
    if not wanted.end:
        return wanted.start + b"\0"
    return b"\xff" * 4096 if wanted.end == EVERYTHING else wanted.end
