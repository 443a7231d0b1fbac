"""Run `make demo` and put what it printed into README.md, as it was.

Only what differs from reader to reader is replaced: the port of the S3 server. Run it on a machine
that does nothing else, for the seconds are part of the picture.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?s)(This is `make demo`[^\n]*\n\n```text\n).*?(```\n)")


def main() -> int:
    """Run the demo; only a good one is worth showing."""
    demo = [sys.executable, "-m", "tests.testbed", "demo"]
    done = subprocess.run(demo, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    said = re.sub(r"https://127\.0\.0\.1:\d+", "https://127.0.0.1:8333", done.stdout).strip("\n")
    lines = [line.rstrip() for line in said.splitlines()]
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise SystemExit("README.md has no text block behind 'This is `make demo`'")
    shown = "\n".join(lines)
    readme.write_text(BLOCK.sub(lambda m: f"{m[1]}{shown}\n{m[2]}", text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
