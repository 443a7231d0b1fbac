"""What the operator says when a backup can't be taken: reason, side, words, events."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import pytest

from tests.support.users import (
    HastySteward,
    Object,
    User,
    backup,
    condition,
    s3_store,
    secret,
)
from tests.testbed import ControlPlane, EtcdCluster, SeaweedFS, wait_until
from tests.testbed.certs import Authority
from tests.testbed.etcd import Auth
from tests.testbed.ports import reserved_ports
from tests.testbed.rpc import raise_alarm
from tests.testbed.steward import install

DAY = timedelta(days=1)
SPOOL_LIMIT = "512Ki"
"""Room for the small etcds of this file, not for the one behind the API server."""


@dataclass
class World:
    """One operator, and what it can be pointed at."""

    user: User
    s3: SeaweedFS
    three: EtcdCluster
    locked: EtcdCluster
    corrupt: EtcdCluster
    dead_port: int

    def spec(self, case: str, bucket: str) -> Object:
        """The spec of a backup that can't be taken."""
        good = {"endpoints": self.three.endpoints, "tls": {"secretName": "three"}}
        etcd: dict[str, Object | None] = {
            "expired-certificate": {**good, "tls": {"secretName": "three-expired"}},
            "wrong-password": {
                "endpoints": self.locked.endpoints,
                "auth": {"secretName": "wrong-password"},
            },
            "not-an-etcd": {"endpoints": [self.s3.endpoint_url]},
            "etcd-down": {"endpoints": [f"http://127.0.0.1:{self.dead_port}"]},
            "corrupt": {"endpoints": self.corrupt.endpoints},
            "spool-too-small": None,  # the operator's own
        }
        store: dict[str, Object] = {
            "wrong-keys": {"credentialsSecretName": "wrong-keys"},
            "wrong-ca": {"endpoint": self.three.endpoints[0], "caSecretName": "foreign"},
        }
        found: Object = {
            "store": s3_store(self.s3, bucket, **store.get(case, {})),
            "attempts": 1,
        }
        if (chosen := etcd.get(case, good)) is not None:
            found["etcd"] = chosen
        return found


@pytest.fixture(scope="module")
async def world(
    control_plane: ControlPlane, seaweedfs: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """All of it, with the Secrets that the specs name."""
    directory = tmp_path_factory.mktemp("bad-input")
    foreign = Authority.create(directory / "foreign", "foreign")
    await install(control_plane)
    user = User(control_plane)
    operator = HastySteward(directory, control_plane, flags={"spool-limit": SPOOL_LIMIT})
    operator.timing = {"progress_every": 1.0}
    with reserved_ports(1) as (dead_port,):
        async with (
            EtcdCluster(directory / "three", members=3, mtls=True) as three,
            EtcdCluster(directory / "locked", auth=Auth()) as locked,
            EtcdCluster(directory / "corrupt") as corrupt,
        ):
            await raise_alarm(corrupt, corrupt.members[0], corrupt=True)
            assert three.tls is not None
            old = three.tls.authority.issue("old", valid_from=-2 * DAY, valid_for=-DAY)
            pairs = {"three": three.tls.client, "three-expired": old}
            ca = three.tls.ca_file.read_text()
            await user.apply(
                secret("s3", seaweedfs.environment()),
                secret("wrong-keys", {"AWS_ACCESS_KEY_ID": "no", "AWS_SECRET_ACCESS_KEY": "no"}),
                secret("wrong-password", {"username": "root", "password": "no"}),
                secret("foreign", {"ca.crt": foreign.ca_file.read_text()}),
                *(
                    secret(
                        name,
                        {
                            "ca.crt": ca,
                            "tls.crt": pair.cert.read_text(),
                            "tls.key": pair.key.read_text(),
                        },
                    )
                    for name, pair in pairs.items()
                ),
            )
            async with operator:
                yield World(user, seaweedfs, three, locked, corrupt, dead_port)


@pytest.mark.parametrize(
    ("case", "reason", "side", "words"),
    [
        ("wrong-keys", "Unauthorized", "store", "key"),
        ("wrong-ca", "Untrusted", "store", "certificate"),
        ("expired-certificate", "Untrusted", "etcd", "our client certificate CN=old expired on"),
        ("wrong-password", "Unauthorized", "etcd", "'root'"),
        ("not-an-etcd", "Unsupported", "etcd", "is not an etcd"),
        ("etcd-down", "Unavailable", "etcd", "nothing listens at"),
        ("corrupt", "Refused", "etcd", "CORRUPT alarm"),
        ("spool-too-small", "OutOfSpace", None, "too small"),
    ],
)
async def test_a_backup_that_cannot_be_taken(
    world: World,
    bucket: str,
    case: str,
    reason: str,
    side: Literal["etcd", "store"] | None,
    words: str,
) -> None:
    user = world.user
    await user.apply(backup(case, world.spec(case, bucket)))
    failed = await user.ended((await user.run_of(case))["metadata"]["name"])
    status = failed["status"]
    said = condition(failed, "Failed")
    assert (said["status"], said["reason"]) == ("True", reason), said
    assert words in said["message"]
    assert f"create an EtcdSnapshot with spec.backupName: {case}" in said["message"]
    assert status["message"] == said["message"]
    assert status["phase"] == "Failed"
    assert status["attempt"] == 1
    assert status.get("failedSide") == side
    assert "journal" not in status

    async def told() -> bool:
        return ("Warning", reason) in {event[:2] for event in await user.events(case)}

    await wait_until(told, "the event is posted")
    if side is not None:
        type_ = {"etcd": "EtcdReachable", "store": "StoreAvailable"}[side]

        async def order_says_so() -> bool:
            return condition(await user.get("ebk", case), type_).get("reason") == reason

        await wait_until(order_says_so, "the backup says which side it was")
    assert not await world.s3.objects(bucket)
    assert not await world.s3.open_uploads(bucket)


async def test_one_member_of_three_is_down(world: World, bucket: str) -> None:
    user, member = world.user, world.three.members[0]
    await member.stop()
    try:
        await user.apply(backup("one-down", world.spec("one-down", bucket)))
        made = await user.ended((await user.run_of("one-down"))["metadata"]["name"])
    finally:
        await member.start()
    assert made["status"]["phase"] == "Complete", made["status"]
    assert any(member.endpoint in warning for warning in made["status"]["warnings"])
    name = made["metadata"]["name"]

    async def told() -> bool:
        return ("Warning", "RunWarning") in {event[:2] for event in await user.events(name)}

    await wait_until(told, "the event is posted")
