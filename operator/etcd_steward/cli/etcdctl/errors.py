"""How etcdctl tells of a failure: one line `Error: ...`, and an exit code.

The codes are those of etcd's pkg/cobrautl/error.go. Two of our own stand beside them: 3 for a
refused safety check and 130 for Ctrl-C, as with all verbs of this program.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from etcd_steward.cli.output import sentence
from etcd_steward.errors import Refused, StewardError

ERROR = 1
BAD_CONNECTION = 2
"""Logging in failed, or a verb about leases."""
INVALID_INPUT = 3
"""What a line of an interactive `watch` says can't be meant."""
BAD_FEATURE = 4
"""A valid flag has a value that is not supported."""
INTERRUPTED = 5
"""etcd has ended a watch."""
BAD_ARGS = 128

_LOGIN_FAILED = "etcdserver: authentication failed, invalid user ID or password"


class EtcdctlError(click.ClickException):
    """What etcdctl would print as `Error: <message>` before it leaves with `exit_code`."""

    def __init__(self, message: str, exit_code: int = ERROR, *, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click has one for each class
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it; the hint, which is ours, on a line of its own."""
        click.echo(f"Error: {self.message}", file=file, err=file is None)
        if self.hint:
            click.echo(sentence(self.hint), file=file, err=file is None)


@contextmanager
def told(exit_code: int = ERROR, form: str = "{}") -> Iterator[None]:
    """Give what etcd or the way to it says in the body etcdctl's form.

    `form` is what the verb puts around etcd's words. Where etcd itself has said nothing, the words
    and the hint are ours: etcdctl would only say that a deadline passed.
    """
    try:
        yield
    except Refused:
        raise
    except StewardError as error:
        from etcd_steward.etcd.errors import words_of  # noqa: PLC0415  # grpc: slow

        words = words_of(error)
        if words is None:
            raise EtcdctlError(error.message, exit_code, hint=error.hint) from error
        if words == _LOGIN_FAILED:
            raise EtcdctlError(words, BAD_CONNECTION) from error
        raise EtcdctlError(form.format(words), exit_code) from error
