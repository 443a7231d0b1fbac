"""`python -m etcd_steward` and the console script `etcd-steward`."""

import sys

from etcd_steward.cli.main import main as command_line
from etcd_steward.memory import conclude, prepare


def main() -> None:
    """Run the command line and end the process with its exit code."""
    prepare()
    code = command_line()
    conclude()
    sys.exit(code)


if __name__ == "__main__":
    main()
