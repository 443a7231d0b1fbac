"""`make demo` tells its story to the end, and its exit code can be trusted."""

import re
import sys
from pathlib import Path

import pytest

from tests.testbed.compare import Difference, Entry, compare
from tests.testbed.process import clean_environment, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
async def test_demo_ends_with_every_key_compared(tmp_path: Path) -> None:
    env = clean_environment({"TMPDIR": str(tmp_path)})
    done = await run(sys.executable, "-m", "tests.testbed", "demo", env=env, cwd=ROOT, timeout=540)
    said = done.stdout.decode()
    assert done.status == 0, said + done.stderr.decode()
    matched = re.search(r"All ([\d,]+) keys match", said)
    assert matched
    assert int(matched[1].replace(",", "")) > 50_000
    for word in ("Running", "Complete", "etcdsnapshot.etcdsteward.io/nightly-", "Structure"):
        assert word in said
    assert not left_in(tmp_path)


def left_in(directory: Path) -> list[Path]:
    """All but the folder in which this user's test beds agree on ports."""
    return [path for path in directory.iterdir() if not path.name.startswith("etcd-steward-ports")]


def test_comparison_finds_each_kind_of_difference() -> None:
    entry = Entry(b"digest", 1, 2, 3, 0)
    left = {b"same": entry, b"gone": entry, b"other": entry}
    right = {b"same": entry, b"new": entry, b"other": entry._replace(lease=7)}
    found = compare(left, right)
    assert found == Difference(equal=1, missing=(b"gone",), extra=(b"new",), altered=(b"other",))
    assert str(found) == (
        "1 missing, first b'gone'; 1 extra, first b'new'; 1 altered, first b'other'"
    )
    assert str(compare(left, left)) == "all 3 keys match"
