"""User and password on a real etcd: tokens that expire, and rights that lack."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from etcd_steward.deadline import Deadline
from etcd_steward.errors import Unauthorized
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.member import MemberStatus
from tests.integration.etcd_connections import connection_to
from tests.testbed import Auth, EtcdCluster


@pytest.fixture(scope="module")
async def etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """With users, and tokens that live for a second."""
    async with EtcdCluster(tmp_path_factory.mktemp("auth"), auth=Auth(token_ttl=1)) as cluster:
        yield cluster


@pytest.mark.parametrize(("mtls", "members"), [(False, 1), (True, 3)])
async def test_a_token_that_expired_is_renewed(
    tmp_path_factory: pytest.TempPathFactory, mtls: bool, members: int
) -> None:
    directory = tmp_path_factory.mktemp("auth")
    async with (
        EtcdCluster(directory, auth=Auth(token_ttl=1), mtls=mtls, members=members) as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        await client.put(b"/a", b"b")
        await asyncio.sleep(2.5)  # etcd's own clock decides, and tells nobody
        values = await asyncio.gather(*(client.get(b"/a") for _ in range(10)))
        assert {kv.value for kv in values if kv} == {b"b"}
        status, *others = await client.members()  # one token for all of them
        assert isinstance(status, MemberStatus)
        assert len(others) == members - 1
        assert all(isinstance(one, MemberStatus) for one in others)
        await asyncio.sleep(2.5)
        async with client.member(status).snapshot(deadline=Deadline.after(10)) as stream:
            assert next(iter(stream)).blob


async def test_wrong_password(etcd: EtcdCluster) -> None:
    connection = connection_to(etcd, password="wrong-password")
    async with EtcdClient.connect(connection) as client:
        with pytest.raises(Unauthorized, match="log in user 'root'") as caught:
            await client.get(b"/a")
    assert "wrong-password" not in f"{caught.value} {caught.value.__cause__} {connection}"
    assert "Check the user and the password" in str(caught.value)


async def test_unknown_user(etcd: EtcdCluster) -> None:
    async with EtcdClient.connect(connection_to(etcd, user="nobody")) as client:
        with pytest.raises(Unauthorized, match="'nobody'"):
            await client.get(b"/a")


async def test_no_credentials(etcd: EtcdCluster) -> None:
    async with EtcdClient.connect(connection_to(etcd, user=None, password=None)) as client:
        with pytest.raises(Unauthorized, match="give a user and password"):
            await client.get(b"/a")


async def test_a_user_without_the_right(etcd: EtcdCluster) -> None:
    assert etcd.auth is not None
    connection = connection_to(etcd, user=etcd.auth.user, password=etcd.auth.user_password)
    async with EtcdClient.connect(connection) as client:
        await client.put(b"/app/a", b"b")
        pages = [page async for page in client.pages(KeyRange.prefix(b"/app/"))]
        assert [kv.key for kv in pages[0].kvs] == [b"/app/a"]
        with pytest.raises(Unauthorized, match="permission denied"):
            await client.get(b"/elsewhere")
        (status,) = await client.members()
        assert isinstance(status, MemberStatus)
        with pytest.raises(Unauthorized, match="the role root"):
            async with client.member(status).snapshot(deadline=Deadline.after(10)):
                pass


async def test_credentials_that_nobody_asks_for_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with EtcdCluster(tmp_path_factory.mktemp("open")) as etcd:
        connection = connection_to(etcd, user="root", password="secret")
        async with EtcdClient.connect(connection) as client:
            await client.put(b"/a", b"b")
            # Somebody switches authentication on meanwhile.
            await etcd.etcdctl("user", "add", "root:secret")
            await etcd.etcdctl("user", "grant-role", "root", "root")
            await etcd.etcdctl("auth", "enable")
            assert await client.get(b"/a") is not None
