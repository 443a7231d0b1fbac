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

_TICK_FORMAT = "%Y%m%dT%H%M%SZ"
_FOLDER = re.compile(
    r"^(?P<cluster>[0-9a-f]{8,16})/(?P<namespace>[a-z0-9_-]+)\.(?P<name>[^/]+)"
    r"/(?P<tick>\d{8}T\d{6}Z)-(?P<run>[0-9a-f]{8}(\.\d+)?)$"
)


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
        tick = self.tick.astimezone(UTC).strftime(_TICK_FORMAT)
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

    def proof(self, at: datetime) -> str:
        """Key of a proof made at `at`."""
        return f"{self}/proofs/{at.astimezone(UTC).strftime('%Y%m%dT%H%M%S%fZ')}.json"


def cluster_folder(kube_system_uid: str | None, cluster_id: str) -> str:
    """Name of a cluster's folder.

    Cluster IDs collide (two etcds with default flags have the same) and change with a restore; the
    kube-system Namespace's uid follows the data. So the uid where there is one.
    """
    return kube_system_uid[:8] if kube_system_uid else cluster_id.rjust(16, "0")
