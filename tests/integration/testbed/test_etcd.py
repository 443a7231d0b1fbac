"""The test bed's etcd: sizes, versions, TLS, users, alarms, and what may be done to members."""

import contextlib
from pathlib import Path

import pytest

from tests.support.zstd import zstd
from tests.testbed import Auth, Authority, EtcdCluster, TestbedError, binary
from tests.testbed.bulk import churn, entries, load
from tests.testbed.certs import DAY
from tests.testbed.etcd import EtcdMember
from tests.testbed.process import check_output, wait_until
from tests.testbed.rpc import connected, raise_alarm


@pytest.mark.parametrize(
    "version", [pytest.param("3.4", marks=pytest.mark.etcd34), "3.5", "3.6", "3.7"]
)
async def test_each_version_serves_and_its_own_tools_read_it(tmp_path: Path, version: str) -> None:
    async with EtcdCluster(tmp_path, version=version) as etcd:
        await etcd.etcdctl("put", "/key", "value")
        assert await etcd.etcdctl("get", "/key", "--print-value-only") == "value\n"
        assert f'"version":"{version}.' in await etcd.etcdctl("endpoint", "status", "-w", "json")
        await etcd.etcdctl("snapshot", "save", tmp_path / "snapshot.db")
    status = await etcd.etcdutl("snapshot", "status", tmp_path / "snapshot.db", "-w", "json")
    assert '"revision":2' in status


async def test_three_members_with_mutual_tls(etcd_mtls: EtcdCluster, key_prefix: str) -> None:
    assert len({member.id for member in etcd_mtls.members}) == 3
    assert await etcd_mtls.leader() in etcd_mtls.members
    for member in etcd_mtls.members:
        await etcd_mtls.etcdctl(
            "put", f"{key_prefix}{member.name}", "x", endpoints=[member.endpoint]
        )
    listed = await etcd_mtls.etcdctl("get", key_prefix, "--prefix", "--keys-only")
    assert listed.split() == [f"{key_prefix}etcd{i}" for i in range(3)]


@pytest.mark.parametrize("kind", ["none", "expired", "foreign"])
async def test_mutual_tls_refuses_other_certificates(
    etcd_mtls: EtcdCluster, tmp_path: Path, kind: str
) -> None:
    assert etcd_mtls.tls
    authority = Authority.create(tmp_path, "foreign")
    if kind == "expired":
        authority = etcd_mtls.tls.authority
    pair = authority.issue(f"client-{kind}", valid_from=-2 * DAY, valid_for=-DAY)
    if kind == "foreign":
        pair = authority.issue("client-foreign")
    flags = [] if kind == "none" else [f"--cert={pair.cert}", f"--key={pair.key}"]
    with pytest.raises(TestbedError, match=r"deadline exceeded|failed to commit|certificate"):
        await check_output(
            await binary("etcdctl"),
            f"--endpoints={etcd_mtls.endpoints[0]}",
            f"--cacert={etcd_mtls.tls.ca_file}",
            *flags,
            "--command-timeout=1s",
            "get",
            "/",
        )


async def test_users_and_their_rights(tmp_path: Path) -> None:
    auth = Auth(token_ttl=1)
    async with EtcdCluster(tmp_path, auth=auth) as etcd:
        await etcd.etcdctl("put", "/elsewhere", "x")
        as_user = f"--user={auth.user}:{auth.user_password}"
        program, endpoints = await binary("etcdctl"), f"--endpoints={etcd.endpoints[0]}"
        await check_output(program, endpoints, as_user, "put", "/app/key", "x")
        with pytest.raises(TestbedError, match="permission denied"):
            await check_output(program, endpoints, as_user, "get", "/elsewhere")
        with pytest.raises(TestbedError, match="invalid user ID or password"):
            await check_output(program, endpoints, "--user=root:wrong", "get", "/elsewhere")
        with pytest.raises(TestbedError, match="user name is empty"):
            await check_output(program, endpoints, "get", "/elsewhere")


async def answer(etcd: EtcdCluster, member: EtcdMember, *words: str) -> str:
    """What etcdctl prints first, once this member serves it: an election may be under way."""
    said: list[str] = []

    async def served() -> bool:
        with contextlib.suppress(TestbedError):
            said.append(await etcd.etcdctl(*words, endpoints=[member.endpoint]))
        return bool(said)

    await wait_until(served, f"{member.endpoint} serves {words[0]}")
    return said[0]


async def test_members_can_be_stopped_killed_paused_and_come_back(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path, members=3, mtls=True) as etcd:
        await etcd.etcdctl("put", "/key", "before")
        first, second, third = etcd.members
        await first.kill()
        assert await answer(etcd, second, "put", "/key", "one away") == "OK\n"
        await second.stop()
        with pytest.raises(TestbedError):
            await etcd.etcdctl("get", "/key", "--command-timeout=1s", endpoints=[third.endpoint])
        await first.start()
        await second.start()
        await third.pause()
        with pytest.raises(TestbedError):
            await etcd.etcdctl("get", "/key", "--command-timeout=1s", endpoints=[third.endpoint])
        third.resume()
        await third.restart()
        assert await answer(etcd, third, "get", "/key", "--print-value-only") == "one away\n"


@pytest.mark.parametrize(("corrupt", "name"), [(True, "CORRUPT"), (False, "NOSPACE")])
async def test_alarms_can_be_raised(tmp_path: Path, *, corrupt: bool, name: str) -> None:
    async with EtcdCluster(tmp_path) as etcd:
        await raise_alarm(etcd, etcd.members[0], corrupt=corrupt)
        listed = await etcd.etcdctl("alarm", "list")
        assert f"memberID:{etcd.members[0].id} alarm:{name}" in listed
        await etcd.members[0].restart()  # an alarm does not keep a member from being up


async def test_load_writes_exactly_what_it_says(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path, mtls=True, auth=Auth()) as etcd:
        loaded = await load(etcd, 20_000, namespaces=10)
        count = await etcd.etcdctl("get", "/registry/", "--prefix", "--count-only", "-w", "fields")
        assert '"Count" : 20000' in count
        assert loaded.keys == 20_000
        assert loaded.revision == await etcd.revision() == 201  # a transaction is one revision
        key, value = next(iter(entries(7, namespaces=10)))
        assert (
            await etcd.etcdctl("get", key.decode(), "--print-value-only") == f"{value.decode()}\n"
        )


def test_load_is_reproducible_sized_and_compresses_like_a_registry() -> None:
    first, again, other = (
        [pair for batch in range(50) for pair in entries(batch, seed=seed)] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert {len(value) for _, value in first} == {1000}
    plain = b"".join(key + value for key, value in first)
    assert 3.5 < len(plain) / len(zstd.compress(plain, 1)) < 5


async def test_churn_writes_until_told_to_stop_and_survives_a_member(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path, members=3) as etcd:
        async with churn(etcd, keys=10) as background:
            await background.reached(50)
            await (await etcd.leader()).kill()
            await background.reached(background.writes + 50)
        survivor = next(member for member in etcd.members if member.running)
        listed = await etcd.etcdctl(
            "get", "/registry/churn/", "--prefix", "--keys-only", endpoints=[survivor.endpoint]
        )
        assert len(listed.split()) == 10


async def test_a_connection_reaches_the_members_that_live(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path, members=3, mtls=True) as etcd:
        await etcd.members[0].kill()
        async with churn(etcd) as background, connected(etcd):
            await background.reached(1)
