"""`etcd-steward check` on real etcds and stores: what works, what doesn't, what to do."""

from pathlib import Path

from tests.support.cli import Said, files, s3_flags, steward
from tests.testbed import EtcdCluster, FaultProxy, SeaweedFS
from tests.testbed.certs import DAY
from tests.testbed.ports import reserved_ports
from tests.testbed.rpc import raise_alarm


async def check(*words: str | Path, s3: SeaweedFS | None = None, reader: bool = False) -> Said:
    env = None if s3 is None else s3.environment(s3.reader if reader else s3.admin)
    return await steward("check", "-ojson", *words, env=env)


def verdicts(said: Said, subject: str) -> list[str]:
    return [one["verdict"] for one in said.json() if one["check"] == subject]


def messages(said: Said, verdict: str) -> list[str]:
    return [one["message"] for one in said.json() if one["verdict"] == verdict]


async def test_all_is_well(
    etcd: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    words = (*etcd.connection_flags(), *s3_flags(seaweedfs, bucket), f"--spool-dir={tmp_path}")
    said = await check(*words, s3=seaweedfs)

    assert said.code == 0, said.out
    assert {one["verdict"] for one in said.json()} == {"ok"}
    assert {one["check"] for one in said.json()} == {
        *("certificates", "endpoints", "members", "leader", "alarms", "size", "versions"),
        *("snapshot", "spool", "store", "clock"),
    }
    assert await seaweedfs.objects(bucket) == {}
    assert await seaweedfs.open_uploads(bucket) == {}
    assert files(tmp_path) == []

    shown = await steward("check", *words, env=seaweedfs.environment())
    assert shown.out.endswith("\nAll is well\n")
    assert "would be read, and sends snapshots" in shown.out
    assert "keep by other means: the PKI" in shown.out


async def test_certificates_are_dated(etcd_mtls: EtcdCluster, tmp_path: Path) -> None:
    assert etcd_mtls.tls is not None
    soon = etcd_mtls.tls.authority.issue("soon", valid_for=10 * DAY)
    flags = [f for f in etcd_mtls.connection_flags() if not f.startswith(("--cert=", "--key="))]
    store = tmp_path / "store"
    said = await check(
        *flags, f"--cert={soon.cert}", f"--key={soon.key}", f"--store=file://{store}"
    )

    # Ours is due for a look; the CA's and the three members' are not.
    assert said.code == 4
    assert verdicts(said, "certificates") == ["warning", "ok", "ok", "ok", "ok"]
    assert messages(said, "warning")[0].startswith("our own, CN=soon, is valid until 20")
    assert verdicts(said, "endpoints") == ["ok"] * 3
    assert messages(said, "failure") == []
    assert files(store) == []


async def test_a_member_behind_none_of_the_endpoints_is_named(etcd_mtls: EtcdCluster) -> None:
    port = etcd_mtls.members[0].client_port
    async with FaultProxy(port) as one, FaultProxy(port) as other:
        flags = [f for f in etcd_mtls.connection_flags() if not f.startswith("--endpoints")]
        both = f"--endpoints={one.address('https')},{other.address('https')}"
        said = await check(*flags, both)
    assert said.code == 4
    assert "2 endpoints lead to 1 members, told by their IDs" in messages(said, "ok")
    missing = [one for one in said.json() if one["check"] == "members"]
    assert len(missing) == 2
    for member in etcd_mtls.members[1:]:
        assert any(f"{member.name} ({member.id:x})" in one["message"] for one in missing)
        assert any(member.endpoint in one["hint"] for one in missing)


async def test_a_member_that_is_down_needs_a_look(etcd_mtls: EtcdCluster) -> None:
    member = etcd_mtls.members[2]
    await member.stop()
    try:
        said = await check(*etcd_mtls.connection_flags())
    finally:
        await member.start()
    assert said.code == 4
    assert sorted(verdicts(said, "endpoints")) == ["ok", "ok", "warning"]
    assert verdicts(said, "snapshot") == ["ok", "ok"]


async def test_a_dead_etcd_does_not_hide_the_store(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    with reserved_ports(1) as (port,):
        said = await check(
            f"--endpoints=127.0.0.1:{port}",
            *s3_flags(seaweedfs, bucket),
            f"--spool-dir={tmp_path}",
            s3=seaweedfs,
        )
    assert said.code == 1
    assert verdicts(said, "endpoints") == ["failure"]
    assert verdicts(said, "store") == ["ok"] * 6
    assert verdicts(said, "spool") == ["ok"]


async def test_keys_that_may_only_read_are_told_what_is_missing(
    etcd: EtcdCluster, seaweedfs: SeaweedFS, bucket: str
) -> None:
    said = await check(
        *etcd.connection_flags(), *s3_flags(seaweedfs, bucket), s3=seaweedfs, reader=True
    )
    assert said.code == 1
    assert verdicts(said, "store") == ["failure", "ok"]
    assert verdicts(said, "snapshot") == ["ok", "ok"]


async def test_an_unknown_bucket_is_named(seaweedfs: SeaweedFS) -> None:
    said = await check(*s3_flags(seaweedfs, "no-such-bucket"), s3=seaweedfs)
    assert said.code == 1
    assert verdicts(said, "etcd") == ["skipped"]
    assert "no-such-bucket" in messages(said, "failure")[0]


async def test_a_store_can_be_looked_at_alone(tmp_path: Path) -> None:
    said = await check(f"--store=file://{tmp_path}")
    assert said.code == 0
    assert verdicts(said, "etcd") == ["skipped"]
    assert set(verdicts(said, "store")) == {"ok"}


async def test_a_spool_that_is_too_small(etcd: EtcdCluster, tmp_path: Path) -> None:
    said = await check(*etcd.connection_flags(), "--spool-limit=1Ki", f"--spool-dir={tmp_path}")
    assert said.code == 1
    assert verdicts(said, "spool") == ["failure"]
    assert "too small" in messages(said, "failure")[0]
    assert verdicts(said, "store") == ["skipped"]


async def test_two_clusters_under_one_flag(etcd: EtcdCluster, tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "other") as other:
        said = await check(f"--endpoints={etcd.endpoints[0]},{other.endpoints[0]}")
    assert said.code == 1
    assert any("belong to 2 clusters" in one for one in messages(said, "failure"))


async def test_alarms_are_failures_with_their_cures(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        await raise_alarm(etcd, etcd.members[0], corrupt=True)
        said = await check(*etcd.connection_flags())
        assert said.code == 1
        assert verdicts(said, "alarms") == ["failure"]
        assert verdicts(said, "snapshot") == ["failure"]
        shown = await steward("check", *etcd.connection_flags())
        assert f"CORRUPT is set by member {etcd.members[0].id:x}" in shown.out
        assert "-> The members hold different data" in shown.out
