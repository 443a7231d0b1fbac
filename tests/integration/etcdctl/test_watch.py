"""`watch`, compared with the real etcdctls: what is printed, line by line and byte by byte."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from etcd_steward.etcd.client import EtcdClient
from tests.support.etcdctl import VERSIONS
from tests.support.watching import OURS, Side, beside
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.process import TestbedError

Programs = Mapping[str, Path]
Program = Sequence[str | Path]

NEWER_JSON = {"3.5": "`-w json` is that of 3.7"}
NEWER_FIELDS = {"3.5": "`-w fields` leaves out a revision of 0, as 3.7 does"}
READY = "watchers 1"
END = "put {k}/z THE-END"
AGAIN = re.compile(rb'(progress notify: .*\n(?:[{"].*\n)*)\1+')
"""The same progress, told several times."""


@dataclass(frozen=True, slots=True)
class Live:
    """A watch that goes on; `{k}` is a prefix of its own, `{first}` its first revision."""

    line: str
    steps: Sequence[str]
    before: Sequence[str] = ()
    says: str = "THE-END"
    unlike: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    disorderly: bool = False
    """etcdctl's threads print lines of several watches at the same time."""
    notified: bool = False
    """etcd tells of progress again and again: how often, until it is compared, is chance."""

    def __str__(self) -> str:
        return self.line

    def seen(self, out: bytearray) -> list[bytes]:
        """What can be compared."""
        told = AGAIN.sub(rb"\1", out) if self.notified else bytes(out)
        lines = told.splitlines(keepends=True)
        return sorted(lines) if self.disorderly else lines


CHANGES = ("put {k}/a 1", "put {k}/a 2", "put {k}/b/c 'two words'", "del {k}/a", END)
TOGETHER = ("put {k}/a 1 {k}/b 2 {k}/c 3", "del-prefix {k}", END)
IN_BASE64 = "VEhFLUVORA=="
PREFIX = "watch --prefix {k}/"
TYPED = (
    "> watch --prefix {k}/a",
    "watchers 1",
    "> watch {k}/b --prev-kv",
    "watchers 2",
    "put {k}/a1 1",
    "says 1 {k}/a1",
    "put {k}/b 1",
    "says 1 {k}/b",
    "put {k}/b 2",
    "says 3 {k}/b",
    "> progress",
    "says 2 'progress notify:'",
    "put {k}/a2 THE-END",
)
TYPED_JSON = (
    "> watch --prefix {k}/a",
    "watchers 1",
    "> watch {k}/b --prev-kv",
    "watchers 2",
    "put {k}/a1 1",
    "says 1 mod_revision",
    "put {k}/b 1",
    "says 2 mod_revision",
    "> progress",
    "says 2 'progress notify:'",
    "put {k}/a2 THE-END",
)
NOTIFIED = (READY, "says 2 'progress notify:'", END)
LIVE = (
    Live("watch {k}/z", (READY, "put {k}/y 1", "put {k}/z 2", END)),
    Live("watch {k}/a {k}/{{", (READY, *CHANGES)),
    Live("watch {k}/z ''", (READY, *CHANGES)),
    Live(PREFIX, (READY, *CHANGES)),
    Live("--hex watch --prefix {k}/", (READY, *CHANGES), says="\\x54\\x48\\x45"),
    Live("watch {k}/ --prefix=true --prev-kv=true", (READY, *CHANGES)),
    Live(f"{PREFIX} -w fields --prev-kv", (READY, *CHANGES)),
    Live(
        f"{PREFIX} --write-out=json --prev-kv",
        (READY, *CHANGES),
        says=IN_BASE64,
        unlike=NEWER_JSON,
    ),
    Live(f"{PREFIX} -w protobuf --prev-kv", (READY, *CHANGES)),
    Live(PREFIX, (READY, *TOGETHER)),
    Live(f"{PREFIX} -w fields", (READY, *TOGETHER)),
    Live(f"{PREFIX} -w json", (READY, *TOGETHER), says=IN_BASE64, unlike=NEWER_JSON),
    Live(f"{PREFIX} --rev={{first}}", (READY, END), before=CHANGES),
    Live(f"{PREFIX} --rev={{first}} --prev-kv", (READY, END), before=(*CHANGES, *TOGETHER)),
    Live(f"{PREFIX} --rev={{first}} -w fields", ("says 5 Version", END), before=CHANGES),
    Live(
        f"{PREFIX} --rev={{first}} -w json",
        ("says 5 mod_revision", END),
        before=CHANGES,
        says=IN_BASE64,
        unlike=NEWER_JSON,
    ),
    Live(f"{PREFIX} --progress-notify", NOTIFIED, notified=True),
    Live(f"{PREFIX} --progress-notify -w fields", NOTIFIED, notified=True),
    Live(
        f"{PREFIX} --progress-notify -w json",
        NOTIFIED,
        says=IN_BASE64,
        unlike=NEWER_JSON,
        notified=True,
    ),
    Live(
        "watch",
        (READY, *CHANGES),
        env={"ETCDCTL_WATCH_KEY": "{k}/", "ETCDCTL_WATCH_RANGE_END": "{k}0"},
    ),
    Live(
        f"{PREFIX} --rev={{first}} -- sh -c 'echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY "
        "$ETCD_WATCH_VALUE; echo $0 $1' -x --prefix",
        ("says 2 '-x --prefix'", END),
        before=("put {k}/a ' \"quoted\" \x01é'", "del {k}/a"),
    ),
    Live("watch -i", TYPED),
    Live("watch --interactive --prefix --rev=1", TYPED),
    Live("watch -i -w fields", TYPED, disorderly=True),
    Live("watch -i -w json", TYPED_JSON, says=IN_BASE64, unlike=NEWER_JSON, disorderly=True),
    Live(
        "watch -i",
        (
            "> nonsense",
            "> ",
            "> watch",
            "> watch {k}/a {k}/b --prefix",
            "> watch \"{k}/\\x61\" '{k}/b' --rev={first}",
            "says 1 {k}/a",
            "> watch {k}/c -- echo told",
            "watchers 2",
            "put {k}/c 1",
            "says 1 told",
            "put {k}/a THE-END",
        ),
        before=("put {k}/a 1",),
    ),
    Live("watch -i", ("> watch", READY, END), env={"ETCDCTL_WATCH_KEY": "{k}/z"}),
    Live("watch -i", ("> watch {k}/z --progress-notify", *NOTIFIED), notified=True),
    Live("watch -i", ("> watch {k}/a\u00a0b", READY, "put {k}/a 1", "put {k}/a\u00a0b THE-END")),
)


@pytest.mark.parametrize("live", LIVE, ids=str)
async def test_a_watch_that_goes_on(
    own_etcd: EtcdCluster, etcdctls: Programs, client: EtcdClient, key_prefix: str, live: Live
) -> None:
    names = {"k": key_prefix.rstrip("/"), "first": await own_etcd.revision() + 1}
    async with beside(own_etcd, client, (), ()) as side:
        for step in live.before:
            await side.do(step.format(**names))
    env = {name: value.format(**names) for name, value in live.env.items()}
    line = shlex.split(live.line.format(**names))
    words = [f"--endpoints={own_etcd.endpoints[0]}", *line]
    programs: list[Program] = [OURS, *([etcdctls[version]] for version in VERSIONS)]
    async with beside(own_etcd, client, programs, words, env) as side:
        for step in live.steps:
            await side.do(step.format(**names))
        await side.do(f"says 1 {shlex.quote(live.says)}")
        ours, *theirs = side.programs
        for version, other in zip(VERSIONS, theirs, strict=True):
            if version in live.unlike:
                assert live.seen(ours.out) != live.seen(other.out)
                continue

            async def same(other: bytearray = other.out) -> bool:
                return live.seen(ours.out) == live.seen(other)

            try:
                await wait_until(same, f"what etcdctl {version} says", timeout=15)
            except TestbedError:
                assert live.seen(ours.out) == live.seen(other.out), f"etcdctl {version}"
                raise
        complaints = {b"\n".join(_complaints(bytes(one.err))) for one in side.programs}
        assert len(complaints) == 1


@pytest.mark.parametrize(
    ("line", "typed"),
    [("watch {k}", ()), ("watch -i --progress-notify", ("> watch {k}",))],
)
async def test_progress_is_not_told_unasked(
    own_etcd: EtcdCluster,
    etcdctls: Programs,
    client: EtcdClient,
    key_prefix: str,
    line: str,
    typed: Sequence[str],
) -> None:
    """While etcd tells it to those who asked later; a line that is typed has flags of its own."""
    programs: list[Program] = [OURS, *([etcdctls[version]] for version in VERSIONS)]
    words = [f"--endpoints={own_etcd.endpoints[0]}", *line.format(k=key_prefix).split()]
    async with beside(own_etcd, client, programs, words) as quiet:
        for step in (*typed, READY):
            await quiet.do(step.format(k=key_prefix))
        told = [words[0], "watch", key_prefix, "--progress-notify"]
        async with beside(own_etcd, client, programs, told) as notified:
            await notified.do("says 3 'progress notify:'")
        assert [bytes(program.out) for program in quiet.programs] == [b"", b"", b""]


def _complaints(said: bytes) -> list[bytes]:
    """What both say on standard error: warnings and logs are each program's own."""
    starts = (b"Error:", b"Invalid command", b"watch was canceled", b"command [")
    return [line for line in said.splitlines() if line.startswith(starts)]


@dataclass(frozen=True, slots=True)
class Ends:
    """A watch that comes to an end by itself."""

    line: str
    before: Sequence[str] = ()
    typed: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    unlike: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.line} {self.typed.decode()}".strip()


OLD = ("put {k}/a 1", "put {k}/a 2", "compact")
ENDS = (
    Ends("watch"),
    Ends("watch --"),
    Ends("watch {k}/a --"),
    Ends("watch -- true"),
    Ends("watch --prefix {k}/a {k}/b"),
    Ends("watch", env={"ETCDCTL_WATCH_RANGE_END": "x"}),
    Ends("watch {k}/a", env={"ETCDCTL_WATCH_KEY": "x"}),
    Ends("watch {k}/a -- true", env={"ETCDCTL_WATCH_KEY": "x"}),
    Ends("watch {k}/a --rev={first}", before=OLD),
    Ends("watch {k}/a --rev={first} -w fields", before=OLD, unlike=NEWER_FIELDS),
    Ends("watch {k}/a --rev={first} -w json", before=OLD, unlike=NEWER_JSON),
    Ends("watch {k}/a --rev=-1"),
    Ends("watch {k}/b {k}/a"),
    Ends("watch {k}/b {k}/a -w json", unlike=NEWER_JSON),
    Ends("watch {k}/b {k}/a -w fields", unlike=NEWER_FIELDS),
    Ends("watch {k}/a --rev={first} -w table", before=("put {k}/a 1",)),
    Ends("watch {k}/a -w nonsense"),
    Ends("watch {k}/a --rev={first} -- false", before=("put {k}/a 1",)),
    Ends("watch {k}/a --rev={first} -- sh -c 'kill -9 $$'", before=("put {k}/a 1",)),
    Ends("watch {k}/a --rev={first} -- /nowhere/to/be/found", before=("put {k}/a 1",)),
    Ends("watch {k}/a --rev={first} -- not-to-be-found x", before=("put {k}/a 1",)),
    Ends("watch -i"),
    Ends("watch -i", typed=b"watch /a"),
    Ends("watch -i", typed=b"watch --nonsense /a\n"),
    Ends("watch -i", typed=b"watch /a --\n"),
    Ends("watch -i", typed=b"watch --prefix\n"),
    Ends("watch -i", typed=b"nonsense\n\nwatch\n  \n"),
)


@pytest.mark.parametrize("case", ENDS, ids=str)
async def test_a_watch_that_ends(
    own_etcd: EtcdCluster, etcdctls: Programs, client: EtcdClient, key_prefix: str, case: Ends
) -> None:
    names = {"k": key_prefix.rstrip("/"), "first": await own_etcd.revision() + 1}
    async with beside(own_etcd, client, (), ()) as side:
        for step in case.before:
            if step == "compact":
                await client.compact(await own_etcd.revision())
            else:
                await side.do(step.format(**names))
    env = {name: value.format(**names) for name, value in case.env.items()}
    line = shlex.split(case.line.format(**names))
    words = [f"--endpoints={own_etcd.endpoints[0]}", *line]
    programs: list[Program] = [OURS, *([etcdctls[version]] for version in VERSIONS)]
    async with beside(own_etcd, client, programs, words, env) as side:
        ours, *theirs = await _said(side, case.typed)
    for version, said in zip(VERSIONS, theirs, strict=True):
        code, out, complaints = said
        assert (code, complaints) == (ours[0], ours[2]), f"etcdctl {version}"
        assert (out == ours[1]) is (version not in case.unlike), f"etcdctl {version}"


async def _said(side: Side, typed: bytes) -> list[tuple[int, str, list[bytes]]]:
    found = []
    for program in side.programs:
        stdin = program.process.stdin
        assert stdin is not None
        stdin.write(typed)
        stdin.close()
    for program in side.programs:
        code = await program.ended()
        found.append((code, program))
    return [
        (code, program.out.decode(), _complaints(bytes(program.err))) for code, program in found
    ]


async def test_typed_watches_are_cancelled(
    own_etcd: EtcdCluster, client: EtcdClient, key_prefix: str
) -> None:
    """Ours alone: etcdctl can only begin watches."""
    words = [f"--endpoints={own_etcd.endpoints[0]}", "watch", "-i"]
    steps = (
        "> cancel", "> watch {k}a", "> watch --prefix {k}b", "> watch {k}c {k}d", "watchers 3",
        "> cancel {k}c {k}d", "watchers 2", "> cancel {k}b", "watchers 1", "> cancel {k}none",
        "put {k}b 1", "put {k}c 1", "put {k}a 1", "says 1 {k}a",
        "> watch {k}c", "watchers 2", "> cancel", "watchers 0",
        "> watch {k}z", "watchers 1", "put {k}a 2", "put {k}z 2", "says 1 {k}z",
    )  # fmt: skip
    async with beside(own_etcd, client, [OURS], words) as side:
        for step in steps:
            await side.do(step.format(k=key_prefix))
        program = side.programs[0]
        await wait_until(lambda: _is(program.out, b"z\n2\n"), "the last change")
        assert program.out.decode() == f"PUT\n{key_prefix}a\n1\nPUT\n{key_prefix}z\n2\n"
        assert program.err.count(b"nothing of that is watched") == 2


async def _is(out: bytearray, end: bytes) -> bool:
    return out.endswith(end)


async def test_more_keys_than_a_range_has_are_refused(
    own_etcd: EtcdCluster, client: EtcdClient
) -> None:
    """Unlike etcdctl, which watches the first one and says nothing of the others."""
    words = [f"--endpoints={own_etcd.endpoints[0]}", "watch", "/a", "/b", "/c"]
    async with beside(own_etcd, client, [OURS], words) as side:
        ((code, out, said),) = await _said(side, b"")
    assert (code, out, said) == (128, "", [b"Error: bad number of arguments"])
