"""Names in the store: which folder belongs to which run, and what lies in it.

A folder belongs to one run; nobody writes into or deletes another's. All keys are relative to the
store's prefix.
"""

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from etcd_steward.errors import InvalidInput

MANIFEST = "manifest.json"
SNAPSHOT = "snapshot.db.zst"
REGISTRY = "registry.parquet"
INDEX = "index.json"
SUSPECT = "suspect.json"

_PUNCTUATION = str.maketrans("", "", "-:.")
_CLUSTER_OR_BACKUP = re.compile(r"^[0-9a-f]{8,16}/([a-z0-9_-]+\.[^/]+/)?$")
_FOLDER = re.compile(
    r"^(?P<cluster>[0-9a-f]{8,16})/(?P<namespace>[a-z0-9_-]+)\.(?P<name>[^/]+)"
    r"/(?P<tick>\d{8}T\d{6}Z)-(?P<run>[0-9a-f]{8}(\.\d+)?)$"
)


def may_hold_runs(prefix: str) -> bool:
    """Whether `prefix` may be a cluster's folder, or one of a backup in it."""
    return _CLUSTER_OR_BACKUP.match(prefix) is not None


def _digits(at: datetime, parts: str = "seconds") -> str:
    """A moment as `20261122T021700Z`, of many: strftime takes twenty times as long."""
    text = at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=parts)
    return f"{text.translate(_PUNCTUATION)}Z"


@dataclass(frozen=True, slots=True)
class Folder:
    """One run's folder: `<cluster>/<namespace>.<name>/<tick>-<run>`."""

    cluster: str
    """First 8 digits of the kube-system Namespace's uid, or the 16 digits of the cluster ID."""
    namespace: str
    name: str
    tick: datetime
    """UTC, to the second."""
    run: str
    """8 hex digits, with `.2` for a second attempt."""

    def __str__(self) -> str:
        tick = _digits(self.tick)
        return f"{self.cluster}/{self.namespace}.{self.name}/{tick}-{self.run}"

    @classmethod
    def parse(cls, text: str) -> "Folder":
        """The folder that `text` names, or `InvalidInput`."""
        match = _FOLDER.match(text.strip("/"))
        tick = None
        if match is not None:
            with contextlib.suppress(ValueError):  # digits that are no moment
                tick = datetime.fromisoformat(match["tick"])  # strptime takes ten times as long
        if match is None or tick is None:
            raise InvalidInput(
                f"{text!r} is not the folder of a backup",
                hint="`etcd-steward snapshot list` prints the URLs of backups",
            )
        return cls(
            cluster=match["cluster"],
            namespace=match["namespace"],
            name=match["name"],
            tick=tick,
            run=match["run"],
        )

    @property
    def manifest(self) -> str:
        """Key of the manifest: the backup exists if and only if this does."""
        return f"{self}/{MANIFEST}"

    @property
    def snapshot(self) -> str:
        """Key of the snapshot, compressed."""
        return f"{self}/{SNAPSHOT}"

    @property
    def registry(self) -> str:
        """Key of the live keys in Parquet: beside a snapshot, or an export itself."""
        return f"{self}/{REGISTRY}"

    @property
    def index(self) -> str:
        """Key of what vouches for `registry` beside a snapshot, written after it."""
        return f"{self}/{INDEX}"

    @property
    def suspect(self) -> str:
        """Key of what was found out later: why this backup must not be trusted."""
        return f"{self}/{SUSPECT}"

    def proof(self, at: datetime) -> str:
        """Key of a proof made at `at`."""
        return f"{self}/proofs/{_digits(at, 'microseconds')}.json"


def cluster_folder(kube_system_uid: str | None, cluster_id: str) -> str:
    """Name of a cluster's folder.

    Cluster IDs collide (two etcds with default flags have the same) and change with a restore; the
    kube-system Namespace's uid follows the data. So the uid where there is one.
    """
    return kube_system_uid[:8] if kube_system_uid else cluster_id.rjust(16, "0")
