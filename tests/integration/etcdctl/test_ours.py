"""What etcdctl does not have: keys kept safe, values decoded, large answers as they come."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.cli import steward
from tests.support.etcdctl import Both, Case, Said, in_process, ours, theirs
from tests.support.watching import OURS
from tests.testbed import ControlPlane, EtcdCluster
from tests.testbed.bulk import load
from tests.testbed.process import clean_environment

KEYS = 6_000
TTL = 6


def test_the_api_servers_keys_are_kept_safe(both: Both) -> None:
    refused = (
        "put /registry/pods/a/b v",
        "put compact_rev_key 5",
        "put /kubernetes.io/pods/a/b v --registry-prefix=kubernetes.io",
        "del /registry/pods/a/b",
        "del --prefix /registry",
        "del --prefix /r",
        "del --prefix ''",
        "del --from-key /a",
        "del --range /a /z",
    )
    for line in refused:
        said = both.ours(Case(line, before="put /registry/pods/a/b 1"))
        assert said.code == 3, line
        assert "keys of the API server" in said.error
        assert said.state[0][:2] == (b"/registry/pods/a/b", b"1")
        both.etcdctl("3.7", Case("del --prefix ''"))
        assert both.ours(Case(f"{line} --allow-registry")).code == 0, line


def test_what_lies_beside_the_registry_may_be_written(both: Both) -> None:
    for line in (
        "put /registry0 v",
        "put /registryx/a v",
        "put /registry v",
        "del --prefix /q",
        "del --range /a /registry",
        "del --range /registry0 /z",
        "put /registry/a v --registry-prefix=/elsewhere",
    ):
        assert both.ours(Case(line)).code == 0, line


def test_the_variable_of_the_registry_guards_its_prefix_here_too(both: Both) -> None:
    env = {"ETCD_STEWARD_REGISTRY_PREFIX": "/elsewhere"}
    assert both.ours(Case("put /elsewhere/a v", env=env)).code == 3
    assert both.ours(Case("del --prefix /elsewhere", env=env)).code == 3
    assert both.ours(Case("put /registry/a v", env=env)).code == 0
    assert both.ours(Case("put /elsewhere/a v --registry-prefix=/x", env=env)).code == 0
    assert both.ours(Case("put /registry/a v", env={"ETCD_STEWARD_REGISTRY_PREFIX": ""})).code == 3


def test_an_empty_from_is_not_the_live_etcd(both: Both) -> None:
    for line in ("get /k/a --from=", "get --prefix /k --from ''", "watch /k/a --rev=1 --from="):
        said = both.ours(Case(line, before="put /k/a 1"))
        assert (said.code, said.out) == (128, b"")
        assert said.error == "Error: --from is empty: name a snapshot, or say live"
    assert both.ours(Case("get /k/a --from=live", before="put /k/a 1")).out == b"/k/a\n1\n"


def test_a_lease_takes_no_keys_of_the_api_server_with_it(both: Both) -> None:
    held = "grant 77aa 600; put /app/a 1 77aa; put /registry/events/a/b 1 77aa"
    said = both.ours(Case("lease revoke 77aa", before=held))
    assert said.code == 3
    assert len(said.state) == 3  # both keys, and how many leases there are
    said = both.ours(Case("lease revoke 77aa --allow-registry", before=held))
    assert said == Said(0, b"lease 00000000000077aa revoked\n", "", ((0,),))


def test_a_refused_format_writes_nothing(both: Both) -> None:
    case = Case("put /k/a 1 -w table")
    theirs_, ours_ = both.etcdctl("3.7", case), both.ours(case)
    assert (theirs_.code, theirs_.out, theirs_.error) == (ours_.code, ours_.out, ours_.error)
    assert len(theirs_.state) == 2  # the key was written all the same
    assert len(ours_.state) == 1


def test_a_refused_format_revokes_nothing(both: Both) -> None:
    case = Case("lease revoke 77aa -w protobuf", before="grant 77aa 600; put /k/a 1 77aa")
    theirs_, ours_ = both.etcdctl("3.7", case), both.ours(case)
    assert (theirs_.code, theirs_.out, ours_.code, ours_.out) == (4, b"", 4, b"")
    assert theirs_.error.startswith(f"{ours_.error} (")  # and a dump of the answer
    assert theirs_.state == ((0,),)
    assert len(ours_.state) == 2


async def test_objects_are_decoded(control_plane: ControlPlane) -> None:
    flags = control_plane.etcd.connection_flags()
    said = await steward("get", "--decode", "/registry/namespaces/default", *flags)
    assert said.out.startswith("# /registry/namespaces/default\napiVersion: v1\nkind: Namespace\n")
    found = yaml.safe_load(said.out)
    kubectl = await control_plane.kubectl(
        *("get", "namespace", "default", "-o", "json", "--show-managed-fields")
    )
    assert found == json.loads(kubectl)
    several = await steward("get", "--decode", "--prefix", "/registry/namespaces/", *flags)
    documents = list(yaml.safe_load_all(several.out))
    assert {"default", "kube-system"} <= {one["metadata"]["name"] for one in documents}
    for without in (("-w", "json"), ("--keys-only",)):
        assert (await steward("get", "--decode", *without, "/registry/", *flags)).code == 128


def test_what_can_t_be_decoded_is_told(both: Both) -> None:
    case = Case("get --prefix --decode /k/", before="put /k/a 1; put /k/b k8s:enc:kms:v2:vault:x")
    assert both.ours(case).code == 4
    code, out, err = in_process(["get", "--prefix", "--decode", "/k/", *_at(both)])
    assert (code, out) == (4, b"")
    assert b"/k/a is left out" in err
    assert b"/k/b is left out" in err


def test_half_a_character_is_told_and_the_rest_is_shown(both: Both) -> None:
    half = r"""{"apiVersion":"v1","kind":"A","metadata":{"name":"\\ud800"}}"""
    whole = half.replace(r"\\ud800", "b")
    both.ours(Case("get /k", before=f"put /k/a '{half}'; put /k/b '{whole}'"))
    code, out, err = in_process(["get", "--prefix", "--decode", "/k/", *_at(both)])
    assert code == 4
    assert out.startswith(b"# /k/b\napiVersion: v1\nkind: A\n")
    assert err.startswith(b"Warning: /k/a is left out: a text in it holds half a character")


def test_as_long_as_one_likes_may_be_waited(both: Both) -> None:
    for flag in ("--dial-timeout", "--command-timeout"):
        assert both.ours(Case(f"put /k/a 1 {flag}=2000000h")).code == 0


async def test_a_large_answer_is_of_one_revision(
    own_etcd: EtcdCluster, etcdctls: dict[str, Path]
) -> None:
    """While keys are written all the time; and the end of a pipe ends it, without a word."""
    await load(own_etcd, KEYS, value_size=200, root="/large")
    revision = await own_etcd.revision()
    flags = own_etcd.connection_flags()
    words = ["get", "--prefix", "/large/", *flags]

    async def write() -> None:
        for number in range(1_000):
            await own_etcd.etcdctl("put", f"/large/~new/{number}", "later")

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        pinned = await asyncio.to_thread(ours, [*words, f"--rev={revision}"])
        free = await asyncio.to_thread(ours, words)
        writing.cancel()
    expected = await asyncio.to_thread(theirs, etcdctls["3.7"], [*words, f"--rev={revision}"])
    assert pinned == expected
    assert free.out.count(b"\n") >= 2 * KEYS
    said = await asyncio.to_thread(_head, words)
    assert said == (141, pinned.out.splitlines()[:2], b"")


def _head(words: list[str]) -> tuple[int, list[bytes], bytes]:
    """Read two lines, and close the pipe."""
    with subprocess.Popen(
        [sys.executable, "-m", "etcd_steward", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline().rstrip(b"\n") for _ in range(2)]
        process.stdout.close()
        said = process.stderr.read()
        return process.wait(60), lines, said


async def test_a_lease_is_kept_alive_until_it_ends(own_etcd: EtcdCluster) -> None:
    async with _kept_alive(own_etcd) as (lease, process, out):
        for _ in range(4):  # one each third of its time to live
            assert await out.readline() == b"lease %b keepalived with TTL(%d)\n" % (lease, TTL)
        assert "remaining" in await own_etcd.etcdctl("lease", "timetolive", lease.decode())
        await own_etcd.etcdctl("lease", "revoke", lease.decode())
        said = await out.read()
        assert said.endswith(b"lease %b expired or revoked.\n" % lease)
        assert await process.wait() == 0


@asynccontextmanager
async def _kept_alive(
    etcd: EtcdCluster,
) -> AsyncIterator[tuple[bytes, asyncio.subprocess.Process, asyncio.StreamReader]]:
    lease = (await etcd.etcdctl("lease", "grant", str(TTL))).split()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "etcd_steward", "lease", "keep-alive", lease),
        *etcd.connection_flags(),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    assert process.stdout is not None
    try:
        yield lease.encode(), process, process.stdout
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_the_same_in_a_process_of_its_own(both: Both) -> None:
    """What all the other tests run inside this one."""
    program = Path(sys.executable).with_name("etcd-steward")
    assert os.access(program, os.X_OK)
    for case in (
        Case("put /k/a", stdin=b"of \xff bytes\n"),
        Case("get /k/a -w fields", before="put /k/a 1"),
        Case("get /k/a --rev=@99"),
        Case("get --wrong"),
    ):
        assert both.program(program, case) == both.ours(case)


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("put /k/a 2 >&-", 1, "Error: standard output: it is closed"),
        ("get /k/a >&-", 1, "Error: standard output: it is closed"),
        ("watch -i >&- </dev/null", 1, "Error: standard output: it is closed"),
        ("get /k/a >/dev/full", 1, "Error: standard output: no space left on device"),
        ("get /k/a 2>&- >/dev/full", 1, ""),
        ("lease list >/dev/full", 1, "Error: standard output: no space left on device"),
        ("watch /k/a --rev=1 >/dev/full", 1, "Error: standard output: no space left on device"),
        ("get /k/a --user=a <&-", 128, "Error: the password of user 'a' is missing"),
    ],
)
def test_standard_streams_that_are_not_there(both: Both, line: str, code: int, error: str) -> None:
    """Said in one line; and nothing is done if that is known before."""
    both.ours(Case("put /k/a 1", before="put /k/b 1; compact @1"))
    done = _in_a_shell(OURS, both, line)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert (done.stderr.decode().splitlines() or [""])[-1].startswith(error)
    assert ours(["get", "/k/a", *_at(both)]).out == b"/k/a\n1\n"


@pytest.mark.parametrize("line", ["put /k/a <&-", "watch -i <&-", "put /k/a 0>/dev/null"])
def test_a_standard_input_that_is_not_there(both: Both, line: str) -> None:
    said = _in_a_shell(OURS, both, line)
    expected = _in_a_shell([str(both.etcdctls["3.7"])], both, line)
    assert (said.returncode, said.stdout) == (expected.returncode, expected.stdout)
    if line.startswith("put"):
        assert said.stderr.splitlines()[-1] == expected.stderr.splitlines()[-1]


def _in_a_shell(
    program: Sequence[str], both: Both, line: str
) -> subprocess.CompletedProcess[bytes]:
    verb, _, rest = line.partition(" ")
    words = shlex.join([*program, verb, *_at(both)])
    return subprocess.run(
        ["bash", "-c", f"{words} {rest}"],
        capture_output=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )


def _at(both: Both) -> list[str]:
    return [f"--endpoints={both.endpoint}"]
