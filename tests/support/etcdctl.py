"""The real etcdctl and ours at one and the same etcd, each from the same beginnings.

Before each run the etcd is emptied and `Case.before` is done anew. Revisions go on all the while:
in a case, `@2` is the second one after the emptying, and in what is printed such revisions become
`@2` again. All else must be the same byte for byte: standard output, the `Error:` line, the exit
code, and what is then in etcd.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from unittest import mock

import grpc
from google.protobuf.message import Message

from etcd_steward.cli.main import main
from etcd_steward.etcd.stubs import (
    CompactionRequest,
    CompactionResponse,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
)
from tests.testbed.process import clean_environment

Env = Mapping[str, str]
Answer = TypeVar("Answer", bound=Message)

VERSIONS = ("3.5", "3.7")
TIMEOUT = 60  # seconds for one command
_EVERYTHING = b"\0"
_REVISION = re.compile(rb'("?\w*[rR]evision"? ?: ?|compacted revision )(\d+)')
_TOKEN = re.compile(r"@(\d+)")


@dataclass(frozen=True, slots=True)
class Case:
    """A command line, what is there before it, and how far both programs are known to differ."""

    line: str
    """Words as a shell reads them; `@n` is a revision."""
    before: str = ""
    """`put KEY VALUE [LEASE]`, `del KEY`, `grant LEASE TTL`, `compact @n`, separated by `;`."""
    stdin: bytes | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    usage: bool = False
    """etcdctl prints how it is used: only the `Error:` line and the exit code are compared."""
    volatile: str = ""
    """A pattern of what two runs can't have in common; its groups are left out."""
    message: type[Message] | None = None
    """What standard output is in etcd's own encoding."""
    unlike: Mapping[str, str] = field(default_factory=dict)
    """By etcdctl's version, why ours does not do as that one does: words of docs/etcdctl.md."""

    def __str__(self) -> str:
        return self.line[:60]


@dataclass(frozen=True, slots=True)
class Said:
    """What a program left, revisions counted from the beginning of its run."""

    code: int
    out: bytes
    error: str
    """The first line that begins with `Error:`."""
    state: tuple[tuple[object, ...], ...] = ()
    """What was then in etcd."""


class Both:
    """Runs cases at one etcd without TLS and users, which belongs to the caller alone."""

    def __init__(self, endpoint: str, etcdctls: Mapping[str, Path]) -> None:
        self.endpoint = endpoint
        self.etcdctls = etcdctls
        self._channel = grpc.insecure_channel(
            endpoint.rpartition("/")[2], options=[("grpc.enable_http_proxy", 0)]
        )

    def close(self) -> None:
        """Close the connection that makes the beginnings."""
        self._channel.close()

    def etcdctl(self, version: str, case: Case) -> Said:
        """What etcdctl says."""
        return self.program(self.etcdctls[version], case)

    def program(self, program: Path, case: Case) -> Said:
        """What a program says, run as a process."""
        base = self._begin(case)
        said = theirs(program, self._words(case, base), case.stdin, case.env)
        return self._counted(case, base, said)

    def ours(self, case: Case) -> Said:
        """What etcd-steward says, run in this process."""
        base = self._begin(case)
        return self._counted(case, base, ours(self._words(case, base), case.stdin, case.env))

    def check(self, case: Case) -> None:
        """Fail unless ours does what both etcdctls do, or differs where it is known to."""
        ours = self.ours(case)
        for version in VERSIONS:
            theirs = self.etcdctl(version, case)
            if version in case.unlike:
                assert theirs != ours, f"no longer unlike etcdctl {version}: {case.line}"
            else:
                assert ours == theirs, f"etcdctl {version}: {case.line}"

    def _words(self, case: Case, base: int) -> list[str]:
        words = shlex.split(_TOKEN.sub(lambda token: str(base + int(token[1])), case.line))
        said = {"--endpoints", "--discovery-srv"} & {word.partition("=")[0] for word in words}
        if said or "ETCDCTL_ENDPOINTS" in case.env:
            return words
        return [words[0], f"--endpoints={self.endpoint}", *words[1:]]

    def _begin(self, case: Case) -> int:
        for lease in self._leases():
            self._ask("Lease/LeaseRevoke", LeaseRevokeRequest(ID=lease), LeaseRevokeResponse)
        everything = DeleteRangeRequest(key=_EVERYTHING, range_end=_EVERYTHING)
        base = self._ask("KV/DeleteRange", everything, DeleteRangeResponse).header.revision
        for words in filter(None, map(shlex.split, case.before.split(";"))):
            self._do(words, base)
        return base

    def _do(self, words: Sequence[str], base: int) -> None:
        match words:
            case ["put", key, value, *lease]:
                put = PutRequest(key=_bytes(key), value=_bytes(value))
                put.lease = int(lease[0], 16) if lease else 0
                self._ask("KV/Put", put, PutResponse)
            case ["del", key]:
                gone = DeleteRangeRequest(key=_bytes(key))
                self._ask("KV/DeleteRange", gone, DeleteRangeResponse)
            case ["grant", lease, ttl]:
                grant = LeaseGrantRequest(ID=int(lease, 16), TTL=int(ttl))
                self._ask("Lease/LeaseGrant", grant, LeaseGrantResponse)
            case ["compact", revision]:
                wanted = base + int(revision.removeprefix("@"))
                compact = CompactionRequest(revision=wanted, physical=True)
                self._ask("KV/Compact", compact, CompactionResponse)
            case _:
                raise ValueError(words)

    def _ask(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        call = self._channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return call(request, timeout=TIMEOUT)

    def _leases(self) -> list[int]:
        found = self._ask("Lease/LeaseLeases", LeaseLeasesRequest(), LeaseLeasesResponse)
        return [lease.ID for lease in found.leases]

    def _counted(self, case: Case, base: int, said: Said) -> Said:
        out = said.out
        if case.message is not None:
            out = str(case.message.FromString(out)).encode()
        out = _since(base, out)
        if case.volatile:
            out = re.sub(case.volatile.encode(), _without_groups, out)
        error = _since(base, said.error.encode()).decode()
        return Said(said.code, b"" if case.usage else out, error, self._state(base))

    def _state(self, base: int) -> tuple[tuple[object, ...], ...]:
        everything = RangeRequest(key=_EVERYTHING, range_end=_EVERYTHING)
        kvs = self._ask("KV/Range", everything, RangeResponse).kvs
        return (
            *(
                (
                    *(kv.key, kv.value, kv.version, kv.lease),
                    *(kv.create_revision - base, kv.mod_revision - base),
                )
                for kv in kvs
            ),
            (len(self._leases()),),
        )


def theirs(
    program: Path, words: Sequence[str], stdin: bytes | None = None, env: Env | None = None
) -> Said:
    """What an etcdctl says."""
    done = subprocess.run(
        [program, *words],
        input=stdin or b"",
        env=clean_environment(env),
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Said(done.returncode, done.stdout, _error(done.stderr))


def ours(words: Sequence[str], stdin: bytes | None = None, env: Env | None = None) -> Said:
    """What our program says, run in this process.

    A test that calls this is no coroutine: the program has an event loop of its own.
    """
    code, out, err = in_process(words, stdin, env)
    return Said(code, out, _error(err))


def in_process(
    words: Sequence[str], stdin: bytes | None = None, env: Env | None = None
) -> tuple[int, bytes, bytes]:
    """The same: its exit code, standard output and standard error."""
    out, err = io.BytesIO(), io.BytesIO()
    with (
        mock.patch.dict(os.environ, env or {}),
        mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin or b""))),
        _text(out) as stdout,
        _text(err) as stderr,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        code = main(list(words))
        stdout.flush()
        stderr.flush()
        return code, out.getvalue(), err.getvalue()


def _error(said: bytes) -> str:
    lines = (line for line in said.decode().splitlines() if line.startswith("Error:"))
    return next(lines, "")


@contextlib.contextmanager
def _text(data: io.BytesIO) -> Iterator[io.TextIOWrapper]:
    wrapper = io.TextIOWrapper(data, write_through=True)
    try:
        yield wrapper
    finally:
        wrapper.detach()


def _bytes(text: str) -> bytes:
    return (
        text.encode().decode("unicode_escape").encode("latin-1")
        if "\\" in text
        else (text.encode())
    )


def _since(base: int, said: bytes) -> bytes:
    def counted(match: re.Match[bytes]) -> bytes:
        revision = int(match[2])
        return match[1] + (b"@%d" % (revision - base) if revision >= base else match[2])

    return _REVISION.sub(counted, said)


def _without_groups(match: re.Match[bytes]) -> bytes:
    text = match[0]
    for group in filter(None, match.groups()):
        text = text.replace(group, b"?", 1)
    return text
