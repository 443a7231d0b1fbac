"""Who took a snapshot and when, as far as its name and its file tell."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from etcd_steward.models.manifest import TimeFrom

_ETCDBRCTL: Final = re.compile(r"^Full-\d+-(?P<last>\d+)-(?P<at>\d{9,11})(\.|$)")
"""`Full-<first revision>-<last revision>-<unix time>[.final][.gz|.zlib]` (etcd-backup-restore,
pkg/types/snapstore.go)"""
_K3S: Final = re.compile(r"^.+-(?P<at>\d{10})(\.zip)?$")
"""`<name>-<node>-<unix time>[.zip]` (k3s pkg/etcd/snapshot.go); RKE2 is built on it."""
_OPENSHIFT: Final = re.compile(r"^snapshot_(?P<at>\d{4}-\d\d-\d\d_\d{6})\.db")
"""`snapshot_<date>_<time>.db` (cluster-etcd-operator, cluster-backup.sh); its hosts keep UTC."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a name tells."""

    tool: str = "unknown"
    at: datetime | None = None
    revision: int = 0
    """The snapshot holds at least this one, if the name is right."""


def read_name(name: str) -> Named:
    """What the name of a snapshot tells; names may lie."""
    if match := _ETCDBRCTL.match(name):
        return Named("etcdbrctl", _unix(match["at"]), int(match["last"]))
    if match := _OPENSHIFT.match(name):
        return Named("OpenShift", _date(match["at"]))
    if match := _K3S.match(name):
        return Named("k3s or RKE2", _unix(match["at"]))
    return Named()


def taken_at(
    said: datetime | None,
    named: Named,
    archived: datetime | None,
    modified: datetime | None,
    now: datetime,
) -> tuple[datetime, TimeFrom]:
    """When a snapshot was taken, as best known, to the second, and how that is known.

    What somebody said, then the name's time, the archive's, the file's; `now` where there is none.
    A time that is yet to come is no time of a snapshot.
    """
    known: tuple[tuple[datetime | None, TimeFrom], ...] = (
        (said, "flag"),
        (named.at, "name"),
        (archived, "archive"),
        (modified, "file"),
    )
    for at, source in known:
        if at is not None and at <= now:
            return at.astimezone(UTC).replace(microsecond=0), source
    return now.replace(microsecond=0), "import"


def merged(outer: Named, inner: Named) -> Named:
    """What the name of a file tells, else that of the file in it."""
    return outer if outer != Named() else inner


def _unix(text: str) -> datetime | None:
    return datetime.fromtimestamp(int(text), UTC)


def _date(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d_%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
