"""How etcd is reached: endpoints, TLS, users, variables, as etcdctl has them."""

import asyncio
import re
import shlex
import socket
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.support.etcdctl import VERSIONS, Both, Case, Said, in_process, ours, theirs
from tests.testbed import Auth, ControlPlane, EtcdCluster

DEAD = "127.0.0.1:1"
Programs = Mapping[str, Path]

OWN_WORDS = dict.fromkeys(VERSIONS, "says why no connection came about")
NEVER_IGNORED = dict.fromkeys(VERSIONS, "is refused and not ignored")
ENDPOINTS = (
    Case("get /k/a --endpoints={alive}", before="put /k/a 1"),
    Case("get /k/a --endpoints=http://{alive}", before="put /k/a 1"),
    Case("get /k/a --endpoints={dead},{alive}", before="put /k/a 1"),
    Case("get /k/a --endpoints={alive},{dead}", before="put /k/a 1"),
    Case("get --prefix /k --endpoints={dead} --endpoints={alive}", before="put /k/a 1"),
    Case("get /k/a --endpoints=' {dead} , {alive}'", before="put /k/a 1"),
    Case("put /k/a 2 --endpoints={dead},{alive}", before="put /k/a 1"),
    Case("del /k/a --endpoints={dead},{alive}", before="put /k/a 1"),
    Case("lease revoke 77aa --endpoints={dead},{alive}", before="grant 77aa 600"),
    Case("lease keep-alive --once 77aa --endpoints={dead},{alive}", before="grant 77aa 600"),
    Case("lease keep-alive 77aa --endpoints={dead} --dial-timeout=100ms"),
    Case("get /k/a --rev=@99 --endpoints={dead},{alive}", before="put /k/a 1"),
    Case("get /k/a --rev=@99 --endpoints={alive},{other}", before="put /k/a 1"),
    Case("lease revoke 77ab --endpoints={alive},{other}"),
    Case("get /k/a --endpoints="),
    Case("get /k/a --endpoints={alive},", before="put /k/a 1"),
    Case("get /k/a --endpoints=:{port}", before="put /k/a 1"),
    Case("get /k/a --endpoints=http://:{port}", before="put /k/a 1"),
    Case("get /k/a --endpoints=http://{alive}/x/y", before="put /k/a 1"),
    Case("get /k/a --password=secret", before="put /k/a 1"),
    Case("get /k/a", before="put /k/a 1", env={"ETCDCTL_PASSWORD": "secret"}),
    Case("get /k/a --endpoints={dead} --command-timeout=300ms", unlike=OWN_WORDS),
    Case("get /k/a", before="put /k/a 1", env={"ETCDCTL_ENDPOINTS": "{dead},{alive}"}),
    Case("get /k/a", before="put /k/a 1", env={"ETCDCTL_WRITE_OUT": "json"}),
    Case("get /k/a", before="put /k/a 1", env={"ETCDCTL_HEX": "true"}),
    Case("get /k/a", before="put /k/a 1", env={"ETCDCTL_API": "3"}),
    Case("get /k/a", before="put /k/a 1", env={"ETCDCTL_NO_SUCH": "3"}),
    Case("get /k/a -w json", env={"ETCDCTL_WRITE_OUT": "fields"}, unlike=NEVER_IGNORED),
    Case("get /k/a", env={"ETCDCTL_HEX": "maybe"}, unlike=NEVER_IGNORED),
    Case("get /k/a --command-timeout=5", usage=True),
    Case("get /k/a --command-timeout=soon", usage=True),
    Case("get /k/a --command-timeout=5y", usage=True),
    Case("get /k/a --dial-timeout=1.5s --command-timeout=1m0.5s", before="put /k/a 1"),
    Case("get /k/a --dial-timeout=-5s", before="put /k/a 1"),
    Case("get /k/a --keepalive-time=1s --keepalive-timeout=1s", before="put /k/a 1"),
    Case("get /k/a --cacert=/nowhere/ca.crt"),
    Case("get /k/a --cert=/nowhere/client.crt --key=/nowhere/client.key"),
    Case("get /k/a --cert=/nowhere/client.crt"),
    Case("get /k/a --key=/nowhere/client.key --cacert=/nowhere/ca.crt"),
    Case("get /k/a --cert="),
    Case("get /k/a --key="),
    Case("get /k/a --cacert="),
    Case("get /k/a --user=root:secret", before="put /k/a 1"),
    Case("get /k/a --debug=2", usage=True),
)


@pytest.mark.parametrize("case", ENDPOINTS, ids=str)
def test_endpoints_and_variables(both: Both, case: Case) -> None:
    alive = both.endpoint.rpartition("/")[2]
    names = {"alive": alive, "dead": DEAD, "other": alive.replace("127.0.0.1", "localhost")}
    names["port"] = alive.rpartition(":")[2]
    env = {name: value.format(**names) for name, value in case.env.items()}
    line = case.line.format(**names)
    both.check(Case(line, case.before, env=env, usage=case.usage, unlike=case.unlike))


def test_an_endpoint_that_nobody_listens_at_is_named(both: Both) -> None:
    words = ("get", "/k", f"--endpoints={DEAD}", "--command-timeout=300ms")
    code, out, err = in_process(words)
    assert (code, out) == (1, b"")
    assert b"Error: nothing listens at http://127.0.0.1:1: connection refused\n" in err
    assert both.etcdctl("3.7", Case(shlex.join(words))).error == (
        "Error: context deadline exceeded"
    )


def test_a_misspelt_variable_is_told(both: Both) -> None:
    words = ("get", "/k", f"--endpoints={both.endpoint}")
    code, _, err = in_process(words, env={"ETCDCTL_CA_CERT": "/x"})
    assert code == 0
    assert b"ETCDCTL_CA_CERT is unknown" in err


def test_the_variable_of_the_time_is_obeyed(etcdctls: Programs) -> None:
    """Unlike etcdctl, which takes its default of 5 s all the same."""
    env = {"ETCDCTL_COMMAND_TIMEOUT": "100ms"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = ["get", "/k", f"--endpoints=127.0.0.1:{silent.getsockname()[1]}"]
        begun = time.monotonic()
        assert ours(words, env=env).code == 1
        waited = time.monotonic() - begun
        for program in etcdctls.values():
            begun = time.monotonic()
            assert theirs(program, words, env=env).code == 1
            assert time.monotonic() - begun > max(waited, 4.5)


AUTH = (
    "get /app/a --user=root:{root}",
    "get /app/a --user=root --password={root}",
    "get --prefix /app/ --user=app:{app}",
    "get --prefix /app/ --user=app:{app} -w json",
    "get --prefix / --user=app:{app}",
    "get /elsewhere --user=app:{app}",
    "put /elsewhere v --user=app:{app}",
    "del --prefix '' --allow-registry --user=app:{app}",
    "get /app/a --user=root:wrong",
    "put /app/a 1 --user=nobody:wrong",
    "lease grant 5 --user=root:wrong",
    "lease list --user=root:wrong",
    "get /app/a",
    "get --prefix /app/",
    "put /app/a 1",
    "lease grant 5",
    "lease timetolive 77aa",
    "compact 1",
)


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """An etcd with users; one of the passwords has a colon in it."""
    auth = Auth(root_password="root:pass", user_password="app-pass")
    async with EtcdCluster(tmp_path_factory.mktemp("auth"), auth=auth) as cluster:
        await cluster.etcdctl("put", "/app/a", "1")
        await cluster.etcdctl("put", "/app/b", "2")
        yield cluster


@pytest.mark.parametrize("line", AUTH)
def test_users(guarded: EtcdCluster, etcdctls: Programs, line: str) -> None:
    words = _words(guarded, line)
    said = ours(words)
    known = [word for word in words if word != "--allow-registry"]  # which etcdctl does not have
    for program in etcdctls.values():
        assert said == theirs(program, known)


def test_users_by_variable(guarded: EtcdCluster, etcdctls: Programs) -> None:
    words = _words(guarded, "get /app/a")
    for env in (
        {"ETCDCTL_USER": "root:root:pass"},
        {"ETCDCTL_USER": "root", "ETCDCTL_PASSWORD": "root:pass"},
    ):
        said = ours(words, env=env)
        assert said == Said(0, b"/app/a\n1\n", "")
        for program in etcdctls.values():
            assert said == theirs(program, words, env=env)


async def test_a_lease_whose_keys_one_may_write_and_not_read(guarded: EtcdCluster) -> None:
    for line in (
        "user add writer:writer-pass",
        "role add writer",
        "role grant-permission writer write /written/ --prefix",
        "user grant-role writer writer",
    ):
        await guarded.etcdctl(*line.split())
    lease = (await guarded.etcdctl("lease", "grant", "600")).split()[1]
    await guarded.etcdctl("put", "/written/a", "1", f"--lease={lease}")
    words = _words(guarded, f"lease revoke {lease} --user=writer:writer-pass")
    code, out, err = await asyncio.to_thread(in_process, words)
    assert (code, out) == (1, b"")
    assert err.startswith(b"Error: it can't be seen whether the lease holds keys of the API server")
    assert b"say --allow-registry" in err
    said = await asyncio.to_thread(ours, [*words, "--allow-registry"])
    assert said == Said(0, b"lease %b revoked\n" % lease.encode(), "")


def test_a_lease_that_one_may_not_renew(guarded: EtcdCluster, etcdctls: Programs) -> None:
    """Etcdctl takes it for a lease that has expired."""
    words = _words(guarded, "lease keep-alive 77aa --dial-timeout=100ms")
    assert ours(words) == Said(2, b"", "Error: etcdserver: user name is empty")
    for program in etcdctls.values():
        gone = b"lease 00000000000077aa expired or revoked.\n"
        assert theirs(program, words) == Said(0, gone, "")


def test_a_password_that_is_given_nowhere(guarded: EtcdCluster) -> None:
    code, out, err = in_process(_words(guarded, "get /app/a --user=root"))
    assert (code, out) == (128, b"")
    assert b"ETCDCTL_PASSWORD" in err


def _words(etcd: EtcdCluster, line: str) -> list[str]:
    assert etcd.auth is not None
    passwords = {"root": etcd.auth.root_password, "app": etcd.auth.user_password}
    return [*shlex.split(line.format(**passwords)), f"--endpoints={etcd.endpoints[0]}"]


REGISTRY = (
    "get --prefix /registry --rev={rev}",
    "get --prefix /registry/ --rev={rev} --keys-only",
    "get --prefix /registry/namespaces/ --rev={rev} --hex",
    "get --prefix /registry/namespaces/ --rev={rev} -w json",
    "get --prefix /registry/services/ --rev={rev} -w fields",
    "get --prefix /registry/clusterroles/ --rev={rev} --print-value-only",
    "get --prefix /registry/ --rev={rev} --limit=7 --keys-only",
    "get --prefix /registry/ --rev={rev} --sort-by=MODIFY --keys-only",
    "get --prefix /registry/ --rev={rev} --order=DESCEND --keys-only",
    "get --prefix /registry/ --rev={rev} --count-only -w fields",
    "get --prefix '' --rev={rev} --keys-only --consistency=s",
    "get --from-key /registry/s --rev={rev} --keys-only",
    "get /registry/a /registry/d --rev={rev} --keys-only",
    "get /registry/namespaces/default --rev={rev}",
    "get /registry/namespaces/none --rev={rev}",
)


@pytest.fixture(scope="module")
def revision(control_plane: ControlPlane, etcdctls: Programs) -> int:
    """A revision of the running API server's etcd, to be read while it goes on."""
    words = ["get", "/", "-w", "json", *control_plane.etcd.connection_flags()]
    found = re.search(rb'"revision":(\d+)', theirs(etcdctls["3.7"], words).out)
    assert found
    return int(found[1])


@pytest.mark.parametrize("line", REGISTRY)
def test_the_registry_of_a_running_api_server(
    control_plane: ControlPlane, etcdctls: Programs, revision: int, line: str
) -> None:
    words = [*shlex.split(line.format(rev=revision)), *control_plane.etcd.connection_flags()]
    said = _without_revision(ours(words))
    assert said.code == 0
    for program in etcdctls.values():
        assert said == _without_revision(theirs(program, words))


def test_every_key_below_registry_is_listed(
    control_plane: ControlPlane, etcdctls: Programs, revision: int
) -> None:
    flags = ["--prefix", "--keys-only", f"--rev={revision}"]
    words = ["get", "/registry/", *flags, *control_plane.etcd.connection_flags()]
    said = ours(words)
    assert said.out.count(b"/registry/") > 100
    assert b"/registry/serviceaccounts/kube-system/" in said.out
    assert said == theirs(etcdctls["3.7"], words)


def _without_revision(said: Said) -> Said:
    """The header has the etcd's newest revision, and that moves on."""
    out = re.sub(rb'^(\{"header":\{.*?"revision":|"ClusterID.*?"Revision" : )\d+',
                 rb"\1?", said.out, flags=re.DOTALL)  # fmt: skip
    return Said(said.code, out, said.error)


@pytest.fixture
def tls_words(control_plane: ControlPlane) -> dict[str, str]:
    """Etcdctl's TLS flags of that etcd, by name."""
    flags = control_plane.etcd.connection_flags()
    return dict(flag.removeprefix("--").split("=", 1) for flag in flags)


def test_tls_by_variables(tls_words: dict[str, str], etcdctls: Programs, revision: int) -> None:
    env = {f"ETCDCTL_{name.upper()}": value for name, value in tls_words.items()}
    words = ["get", "/registry/namespaces/default", f"--rev={revision}"]
    said = ours(words, env=env)
    assert said.code == 0
    assert said.out
    for program in etcdctls.values():
        assert said == theirs(program, words, env=env)


def test_tls_without_a_scheme(tls_words: dict[str, str], etcdctls: Programs, revision: int) -> None:
    tls_words["endpoints"] = f"{DEAD},{tls_words['endpoints'].removeprefix('https://')}"
    words = ["get", "/registry/namespaces/default", f"--rev={revision}"]
    words += [f"--{name}={value}" for name, value in tls_words.items()]
    said = ours(words)
    assert said.out
    for program in etcdctls.values():
        assert said == theirs(program, words)


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        ("cert key", "wants a client certificate, and none was given"),
        ("cacert", "can't be trusted"),
        ("key", "KeyFile and CertFile must both be present"),
        ("cert", "KeyFile and CertFile must both be present"),
        ("cacert cert key", ""),
    ],
)
def test_what_lacks_of_tls_is_said(
    tls_words: dict[str, str], etcdctls: Programs, left_out: str, words: str
) -> None:
    for name in left_out.split():
        del tls_words[name]
    line = ["get", "/registry/", "--command-timeout=1s"]
    line += [f"--{name}={value}" for name, value in tls_words.items()]
    said = ours(line)
    assert words in said.error
    assert said.out == b""
    for program in etcdctls.values():  # in its own words: docs/etcdctl.md
        assert theirs(program, line).code == said.code


def test_a_ca_that_is_none(tls_words: dict[str, str], etcdctls: Programs, tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_text("no certificate")
    line = [
        "get",
        "/",
        "--command-timeout=1s",
        *(f"--{name}={value}" for name, value in tls_words.items()),
    ]
    line = [word for word in line if not word.startswith("--cacert")] + [f"--cacert={file}"]
    said = ours(line)
    assert said == Said(128, b"", "Error: the CA for etcd holds no readable PEM certificate")
    for program in etcdctls.values():  # they wait until the time is up
        assert theirs(program, line).error == "Error: context deadline exceeded"


async def test_a_member_that_died(etcd_mtls: EtcdCluster, etcdctls: Programs) -> None:
    """With all members as endpoints, reads and writes go on without the first."""
    first = etcd_mtls.members[0]
    await first.stop()
    try:
        for line in ("put /failover/a 1", "get /failover/a", "get --prefix /failover/"):
            words = [*line.split(), *etcd_mtls.connection_flags()]
            said = await asyncio.to_thread(theirs, etcdctls["3.7"], words)
            assert said.code == 0
            assert said == await asyncio.to_thread(ours, words)
    finally:
        await first.start()
