"""`python -m etcd_steward` and the console script `etcd-steward`."""

import sys

from etcd_steward.cli.main import main as command_line
from etcd_steward.memory import prepare


def main() -> None:
    """Run the command line and end the process with its exit code."""
    prepare()
    sys.exit(command_line())


if __name__ == "__main__":
    main()
