"""`python -m tests.testbed`."""

from tests.testbed.cli import main

main(prog_name="python -m tests.testbed")
