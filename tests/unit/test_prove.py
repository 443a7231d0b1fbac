"""What a streamed snapshot must be beyond a database that can be read."""

import pytest

from etcd_steward.engine.prove import prove
from etcd_steward.errors import IntegrityError
from tests.boltfile import PAGE, BytesFile, sound


@pytest.mark.parametrize("page", [0, 1])
def test_one_damaged_meta_page_is_refused(page: int) -> None:
    data, _, report = sound(freelist=False)
    assert prove(BytesFile(data), report.revision).read_revision == report.revision
    damaged = bytearray(data)
    damaged[page * PAGE + 20] ^= 1
    with pytest.raises(IntegrityError, match="meta pages"):
        prove(BytesFile(bytes(damaged)), report.revision)
