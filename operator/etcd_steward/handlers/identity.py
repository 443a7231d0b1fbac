"""Which EtcdSnapshot a run is."""

from dataclasses import dataclass
from datetime import datetime

from etcd_steward.kube import Key


@dataclass(frozen=True, slots=True)
class Identity:
    """What never changes of an EtcdSnapshot."""

    key: Key
    uid: str
    generation: int
    created: datetime
    backup_name: str
    made_by_us: bool
    """The scheduler created it, not a person."""

    @property
    def digits(self) -> str:
        """The run's own digits in the store."""
        return self.uid.replace("-", "")[:8]

    @property
    def backup(self) -> Key:
        """The EtcdBackup that it names."""
        return Key(self.key.namespace, self.backup_name)
