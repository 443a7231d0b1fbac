"""What the command line says, and how it ends, when something is wrong: each on real parts."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.cli import Said, files, s3_flags, steward
from tests.testbed import Auth, Authority, EtcdCluster, SeaweedFS
from tests.testbed.certs import DAY
from tests.testbed.ports import reserved_ports
from tests.testbed.rpc import raise_alarm

SECRET = "not-the-secret"


async def save(
    flags: list[str], tmp_path: Path, *more: str, env: Mapping[str, str] | None = None
) -> Said:
    """Try to take a snapshot; whatever happens, the spool is empty afterwards."""
    spool = tmp_path / "spool"
    store = (
        [] if any(word.startswith("--store") for word in more) else [f"--store=file://{tmp_path}"]
    )
    said = await steward(
        *("snapshot", "save", *flags, *store, f"--spool-dir={spool}", *more), env=env
    )
    assert files(spool) == []
    return said


def failed(said: Said, code: int, *words: str) -> None:
    """Check the exit code, the words, and that they come with what to do next."""
    assert said.code == code, said.err
    assert said.out == ""
    error, *hint = said.err.splitlines()[-2:]
    assert error.startswith("Error: ")
    assert hint, "no word on what to do next"
    for word in words:
        assert word in said.err
    assert "Traceback" not in said.err
    assert SECRET not in said.err


class TestStore:
    async def test_unknown_bucket(
        self, etcd: EtcdCluster, seaweedfs: SeaweedFS, tmp_path: Path
    ) -> None:
        flags = s3_flags(seaweedfs, "no-such-bucket")
        env = seaweedfs.environment()
        said = await save(etcd.connection_flags(), tmp_path, *flags, env=env)
        failed(said, 1, "no-such-bucket")

    async def test_wrong_keys(
        self, etcd: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
    ) -> None:
        env = seaweedfs.environment() | {"AWS_SECRET_ACCESS_KEY": SECRET}
        said = await save(etcd.connection_flags(), tmp_path, *s3_flags(seaweedfs, bucket), env=env)
        failed(said, 1, bucket)

    async def test_keys_that_may_only_read(
        self, etcd: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
    ) -> None:
        env = seaweedfs.environment(seaweedfs.reader)
        said = await save(etcd.connection_flags(), tmp_path, *s3_flags(seaweedfs, bucket), env=env)
        failed(said, 1, bucket)

    async def test_wrong_ca(self, etcd: EtcdCluster, tmp_path: Path) -> None:
        foreign = Authority.create(tmp_path / "foreign", "foreign")
        async with SeaweedFS(tmp_path / "s3", tls=True) as s3:
            bucket = await s3.create_bucket("backups")
            flags = [f for f in s3_flags(s3, bucket) if not f.startswith("--s3-ca")]
            said = await save(
                etcd.connection_flags(),
                tmp_path,
                *flags,
                f"--s3-ca={foreign.ca_file}",
                env=s3.environment(),
            )
        failed(said, 1, "certificate")

    async def test_a_storage_class_that_cannot_be_read_back(
        self, etcd: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
    ) -> None:
        said = await save(
            etcd.connection_flags(),
            tmp_path,
            *s3_flags(seaweedfs, bucket),
            "--s3-storage-class=GLACIER",
            env=seaweedfs.environment(),
        )
        failed(said, 3, "GLACIER")

    async def test_a_spool_that_is_too_small(self, etcd: EtcdCluster, tmp_path: Path) -> None:
        said = await save(etcd.connection_flags(), tmp_path, "--spool-limit=1Ki")
        failed(said, 1, "spool", "too small", "--spool-limit")


class TestConnection:
    async def test_etcd_is_down(self, tmp_path: Path) -> None:
        with reserved_ports(1) as (port,):
            said = await save([f"--endpoints=127.0.0.1:{port}"], tmp_path)
        failed(said, 1, f"nothing listens at http://127.0.0.1:{port}")

    async def test_wrong_ca(self, etcd_mtls: EtcdCluster, tmp_path: Path) -> None:
        foreign = Authority.create(tmp_path / "foreign", "foreign")
        flags = [f for f in etcd_mtls.connection_flags() if not f.startswith("--cacert")]
        said = await save([*flags, f"--cacert={foreign.ca_file}"], tmp_path)
        failed(said, 1, "can't be trusted", "Give the CA that signed")

    async def test_expired_client_certificate(self, etcd_mtls: EtcdCluster, tmp_path: Path) -> None:
        assert etcd_mtls.tls is not None
        old = etcd_mtls.tls.authority.issue("old", valid_from=-2 * DAY, valid_for=-DAY)
        flags = [f for f in etcd_mtls.connection_flags() if not f.startswith(("--cert=", "--key="))]
        said = await save([*flags, f"--cert={old.cert}", f"--key={old.key}"], tmp_path)
        failed(said, 1, "our client certificate CN=old expired on", "Renew it")

    async def test_an_endpoint_that_is_not_etcd(self, seaweedfs: SeaweedFS, tmp_path: Path) -> None:
        said = await save([f"--endpoints={seaweedfs.endpoint_url}"], tmp_path)
        failed(said, 1, "is not an etcd")

    async def test_a_certificate_file_that_is_not_there(self, tmp_path: Path) -> None:
        said = await save(["--cacert=/no/such/ca.crt"], tmp_path)
        assert said.code == 2
        assert "the CA file /no/such/ca.crt can't be read: No such file" in said.err

    async def test_wrong_password(self, tmp_path: Path) -> None:
        async with EtcdCluster(tmp_path / "auth", auth=Auth()) as etcd:
            flags = [f for f in etcd.connection_flags() if not f.startswith("--user")]
            wrong = await save([*flags, f"--user=root:{SECRET}"], tmp_path)
            failed(wrong, 1, "root")

            assert etcd.auth is not None
            app = f"--user=app:{etcd.auth.user_password}"
            limited = await save([*flags, app], tmp_path)
            failed(limited, 1, "permission denied", "role root")
            assert etcd.auth.user_password not in limited.err

            by_variable = await steward(
                *("snapshot", "save", *flags, "--user=root", f"--store=file://{tmp_path}"),
                env={"ETCDCTL_PASSWORD": etcd.auth.root_password},
            )
            assert by_variable.code == 0


@asynccontextmanager
async def stopped(etcd: EtcdCluster, count: int) -> AsyncIterator[None]:
    """`count` members are down."""
    async with AsyncExitStack() as stack:
        for member in etcd.members[:count]:
            stack.push_async_callback(member.start, wait=False)
            await member.stop()
        yield
    for member in etcd.members:
        await member.wait_ready()


class TestCluster:
    async def test_one_of_three_down_is_a_warning(
        self, etcd_mtls: EtcdCluster, tmp_path: Path
    ) -> None:
        async with stopped(etcd_mtls, 1):
            said = await save(etcd_mtls.connection_flags(), tmp_path, "-ojson")
        assert said.code == 0
        assert "Warning:" in said.err
        assert f"{etcd_mtls.members[0].endpoint} does not answer" in said.err
        assert said.json()["warnings"] != []

    async def test_without_a_leader_only_an_emergency_is_served(
        self, etcd_mtls: EtcdCluster, tmp_path: Path
    ) -> None:
        async with stopped(etcd_mtls, 2):
            said = await save(etcd_mtls.connection_flags(), tmp_path)
            failed(said, 1, "no leader", "--emergency")

            emergency = await save(etcd_mtls.connection_flags(), tmp_path, "--emergency")
        assert emergency.code == 4
        assert "suspect" in emergency.err
        store = f"--store=file://{tmp_path}"
        listed = await steward("snapshot", "list", store)
        assert listed.out.splitlines()[1].split()[-2] == "suspect"
        assert (await steward("snapshot", "show", store)).code == 1
        shown = await steward("snapshot", "show", emergency.out.strip())
        assert "Suspect:" in shown.out

    async def test_a_corrupt_alarm_is_refused_by_a_safety_check(self, tmp_path: Path) -> None:
        async with EtcdCluster(tmp_path / "etcd") as etcd:
            await raise_alarm(etcd, etcd.members[0], corrupt=True)
            said = await save(etcd.connection_flags(), tmp_path)
            failed(said, 3, "CORRUPT alarm", "--emergency")
            assert (await save(etcd.connection_flags(), tmp_path, "--emergency")).code == 4


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--insecure-skip-tls-verify", "--cacert"),
        ("--discovery-srv=example.com", "--endpoints"),
    ],
)
async def test_what_cannot_be_honoured_is_said(flag: str, words: str, tmp_path: Path) -> None:
    said = await save([flag], tmp_path)
    assert said.code == 2
    assert words in said.err
