"""`python -m tests.testbed.node`: get what a node needs from Debian, or say why there is none."""

import os
import shlex
import shutil
import subprocess
import sys

from tests.testbed.node.needs import INSTALL, absent, missing_programs


def main() -> None:
    """Install what is missing, as root; fail if a node still can't be had."""
    lacking = missing_programs()
    if lacking and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"node-test: {', '.join(lacking)} missing, so: {INSTALL}", flush=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
        subprocess.run(shlex.split(INSTALL), check=True, env=quiet, stdout=subprocess.DEVNULL)
    if sentences := absent():
        sys.exit("\n".join(sentences))


if __name__ == "__main__":
    main()
