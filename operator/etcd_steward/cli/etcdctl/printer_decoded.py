"""`get --decode`: Kubernetes' values as YAML, for people."""

from collections.abc import Sequence

from etcd_steward.cli.etcdctl.output import write
from etcd_steward.cli.etcdctl.printer_simple import SimplePrinter
from etcd_steward.cli.output import warn
from etcd_steward.cli.registry_output import as_yaml
from etcd_steward.cli.snapshot_find import SOMETHING_TO_LOOK_AT
from etcd_steward.engine.objects import printable
from etcd_steward.engine.top import escaped
from etcd_steward.errors import Undecodable
from etcd_steward.etcd import stubs
from etcd_steward.models.registry import Record


class DecodedPrinter(SimplePrinter):
    """One YAML document for each key, which stands above it in a comment."""

    def __init__(self, *, value_only: bool) -> None:
        super().__init__(hexed=False)
        self.value_only = value_only
        self.exit_code = 0
        """4 once a value could not be shown."""
        self._begun = False

    def get_keys(self, kvs: Sequence[stubs.KeyValue]) -> None:
        """Print them; of a value that can't be shown, standard error says why."""
        for kv in kvs:
            name = escaped(kv.key)
            record = Record(
                kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease
            )
            try:
                found, notes = printable(record)
            except Undecodable as error:
                warn(f"{name} is left out: {error}")
                self.exit_code = SOMETHING_TO_LOOK_AT
                continue
            for note in notes:
                warn(f"{name}: {note}")
            head = "---\n" if self._begun else ""
            self._begun = True
            if not self.value_only:
                head += f"# {name}\n"
            write((head + as_yaml(found)).encode())
