"""S3 as people have it, on a real server: addressing, encryption, tags, profiles, identities."""

import asyncio
import base64
import secrets
import socket
import urllib.parse
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore import UNSIGNED  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]

from etcd_steward.engine.check_store import check_store
from etcd_steward.engine.findings import Verdict
from etcd_steward.engine.readback import read_back
from etcd_steward.errors import (
    InvalidInput,
    NoSuchStore,
    Refused,
    StewardError,
    Unauthorized,
    Unavailable,
    Unsupported,
    Untrusted,
)
from etcd_steward.models.connection import S3Encryption, S3Settings
from etcd_steward.models.ports import Store
from etcd_steward.store import open_store
from tests.contract.support import (
    PART,
    listed,
    open_uploads,
    s3_settings,
    some_bytes,
    stream,
    write,
)
from tests.testbed import SeaweedFS, wait_until
from tests.testbed.oidc import Issuer, issuer
from tests.testbed.seaweedfs import DOMAIN, KMS_KEY, ROLE

SERVICE_ACCOUNT = "system:serviceaccount:etcd-steward:etcd-steward"


async def works(store: Store) -> None:
    """Whether a store does all that a backup needs, byte for byte."""
    data = some_bytes(2 * PART + 7)
    written = await write(store, "a/big", stream(data))
    assert written.confirmed
    assert await read_back(store, written) == "whole"
    await store.put_new("a/m", b"{}")
    assert await store.read("a/m", limit=2) == b"{}"
    reader = await store.open("a/big")
    assert await asyncio.to_thread(reader.read_at, PART - 3, 9) == data[PART - 3 : PART + 6]
    assert await listed(store, "a/") == ["a/big", "a/m"]
    findings = await check_store(store)
    assert {found.verdict for found in findings} == {Verdict.OK}
    assert store.notes == ()
    assert await open_uploads(store) == []


class TestAddressing:
    @pytest.fixture
    def resolved(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names below `localhost` mean this host, as systemd's resolver has it and glibc's not."""
        asked: list[str] = []
        real: Callable[..., Any] = socket.getaddrinfo

        def getaddrinfo(host: str, *rest: Any, **named: Any) -> Any:  # noqa: ANN401
            if host.endswith(".localhost"):
                asked.append(host)
                host = "127.0.0.1"
            return real(host, *rest, **named)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    async def test_bucket_in_the_host_name(
        self, seaweedfs: SeaweedFS, bucket: str, resolved: list[str]
    ) -> None:
        endpoint = f"http://{DOMAIN}:{seaweedfs.port}"
        async with open_store(
            s3_settings(seaweedfs, bucket, endpoint=endpoint), part_size=PART
        ) as store:
            await works(store)
        assert set(resolved) == {f"{bucket}.{DOMAIN}"}
        assert sorted(await seaweedfs.objects(bucket)) == ["prod/a/big", "prod/a/m"]

    async def test_bucket_in_the_path(
        self, seaweedfs: SeaweedFS, bucket: str, resolved: list[str]
    ) -> None:
        endpoint = f"http://{DOMAIN}:{seaweedfs.port}"
        settings = s3_settings(seaweedfs, bucket, endpoint=endpoint, force_path_style=True)
        async with open_store(settings, part_size=PART) as store:
            await works(store)
        assert set(resolved) == {DOMAIN}

    async def test_a_server_that_looks_in_the_path_only(
        self, seaweedfs: SeaweedFS, bucket: str, resolved: list[str]
    ) -> None:
        """It takes the first part of the key for the bucket."""
        endpoint = f"http://other.localhost:{seaweedfs.port}"
        async with open_store(s3_settings(seaweedfs, bucket, endpoint=endpoint)) as store:
            for call in (store.put_new("m", b""), write(store, "k", stream(b"x"))):
                with pytest.raises(NoSuchStore, match="use path style"):
                    await call
            with pytest.raises(Unsupported, match="use path style"):  # a list of buckets
                await listed(store)
        assert set(resolved) == {f"{bucket}.other.localhost"}


@pytest.fixture(scope="module")
async def tls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SeaweedFS]:
    async with SeaweedFS(tmp_path_factory.mktemp("tls"), tls=True) as server:
        yield server


@pytest.fixture
async def tls_bucket(tls: SeaweedFS) -> str:
    return await tls.create_bucket(f"test-{secrets.token_hex(6)}")


def customer_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


class TestEncryption:
    async def test_keys_of_the_server(self, seaweedfs: SeaweedFS, bucket: str) -> None:
        settings = s3_settings(seaweedfs, bucket, sse={"type": "S3"})
        async with open_store(settings, part_size=PART) as store:
            await works(store)
        client = seaweedfs.client()
        for key in ("prod/a/m", "prod/a/big"):
            head = client.head_object(Bucket=bucket, Key=key)
            assert head["ServerSideEncryption"] == "AES256"

    async def test_a_key_of_its_key_service(self, seaweedfs: SeaweedFS, bucket: str) -> None:
        settings = s3_settings(seaweedfs, bucket, sse={"type": "KMS", "kmsKeyID": KMS_KEY})
        async with open_store(settings, part_size=PART) as store:
            await works(store)
        client = seaweedfs.client()
        for key in ("prod/a/m", "prod/a/big"):
            head = client.head_object(Bucket=bucket, Key=key)
            assert head["ServerSideEncryption"] == "aws:kms"

    async def test_a_key_that_the_service_does_not_know(
        self, seaweedfs: SeaweedFS, bucket: str
    ) -> None:
        """SeaweedFS calls that an internal error, so that it is tried again for a while."""
        sse = {"type": "KMS", "kmsKeyID": "no-such-key"}
        settings = s3_settings(seaweedfs, bucket, sse=sse, retry_seconds=2)
        async with open_store(settings, part_size=PART) as store:
            with pytest.raises(Unavailable, match="a KMS key that they don't know"):
                await store.put_new("m", b"x")
            with pytest.raises(Unavailable, match="a KMS key that they don't know"):
                await write(store, "k", stream(some_bytes(PART + 1)))
            assert await open_uploads(store) == []

    async def test_a_key_of_ours(self, tls: SeaweedFS, tls_bucket: str) -> None:
        sse = {"type": "C", "customer_key": customer_key()}
        async with open_store(s3_settings(tls, tls_bucket, sse=sse), part_size=PART) as store:
            await works(store)
        stored = tls.client().list_objects_v2(Bucket=tls_bucket)["Contents"]
        assert len(stored) == 2

    async def test_no_other_key_opens_it(self, tls: SeaweedFS, tls_bucket: str) -> None:
        key = customer_key()
        right = {"type": "C", "customer_key": key}
        async with open_store(s3_settings(tls, tls_bucket, sse=right)) as store:
            await store.put_new("m", b"x")
            await write(store, "k", stream(b"y"))
        wrong = customer_key()
        for sse, words in (
            ({"type": "C", "customer_key": wrong}, "another encryption key"),
            (None, "--s3-sse-c-key-file"),
        ):
            async with open_store(s3_settings(tls, tls_bucket, sse=sse)) as store:
                for call in (store.read("m", limit=1), store.find("k"), store.open("k")):
                    with pytest.raises(Unauthorized, match=words) as raised:
                        await call
                    assert not {key, wrong} & set(repr(raised.value).split())

    async def test_it_is_not_sent_in_the_clear(self, seaweedfs: SeaweedFS) -> None:
        sse = {"type": "C", "customer_key": customer_key()}
        with pytest.raises(Refused, match="in the clear"):
            async with open_store(s3_settings(seaweedfs, "bucket", sse=sse)):
                pass

    @pytest.mark.parametrize(
        ("sse", "words"),
        [
            ({"type": "C"}, "key of yours is needed"),
            ({"type": "S3", "customer_key": "x"}, "for no other"),
            ({"type": "S3", "kmsKeyID": "x"}, "type KMS only"),
            ({"type": "C", "customer_key": "not base64!"}, "32 bytes in base64"),
            ({"type": "C", "customer_key": "c2hvcnQ="}, "32 bytes in base64"),
        ],
    )
    async def test_what_can_not_be_meant(self, sse: dict[str, str], words: str) -> None:
        settings = S3Settings(bucket="bucket", sse=S3Encryption.model_validate(sse))
        with pytest.raises(InvalidInput, match=words) as raised:
            async with open_store(settings):
                pass
        assert sse.get("customer_key", "?!") not in f"{raised.value!r}{raised.value.__context__!r}"


class TestTags:
    async def test_every_object_has_them(self, seaweedfs: SeaweedFS, bucket: str) -> None:
        tags = {"team": "platform + co", "größe": "a=b/c:d@e", "empty": ""}
        settings = s3_settings(seaweedfs, bucket, tags=tags)
        async with open_store(settings, part_size=PART) as store:
            await works(store)
        client = seaweedfs.client()
        for key in ("prod/a/m", "prod/a/big"):
            found = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
            assert {tag["Key"]: tag["Value"] for tag in found} == tags

    @pytest.mark.parametrize(
        ("tags", "words"),
        [
            ({"k": "v" * 257}, "more than 256"),
            ({"k" * 129: "v"}, "more than 128"),
            ({"": "v"}, "name is empty"),
            ({"aws:x": "v"}, "kept for AWS"),
            ({"k": "semi;colon"}, "letters, digits"),
            ({str(n): "v" for n in range(11)}, "at most 10"),
        ],
    )
    async def test_what_s3_would_refuse(self, tags: dict[str, str], words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            async with open_store(S3Settings(bucket="bucket", tags=tags)):
                pass


class TestProfile:
    @pytest.fixture
    def configured(
        self, seaweedfs: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        credentials = tmp_path / "credentials"
        credentials.write_text(
            f"[backups]\naws_access_key_id={seaweedfs.access_key}\n"
            f"aws_secret_access_key={seaweedfs.secret_key}\n"
            "[wrong]\naws_access_key_id=AK\naws_secret_access_key=x\n"
        )
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))

    @pytest.mark.usefixtures("configured")
    async def test_by_setting_and_by_variable(
        self, seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ambient = {"access_key": None, "secret_key": None}
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKnobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        async with open_store(
            s3_settings(seaweedfs, bucket, profile="backups", **ambient)
        ) as store:
            await store.put_new("m", b"x")
        async with open_store(s3_settings(seaweedfs, bucket, profile="wrong", **ambient)) as store:
            with pytest.raises(Unauthorized, match="access key"):
                await store.read("m", limit=1)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_PROFILE", "backups")
        async with open_store(s3_settings(seaweedfs, bucket, **ambient)) as store:
            assert await store.read("m", limit=1) == b"x"

    @pytest.mark.usefixtures("configured")
    async def test_one_that_does_not_exist(self, seaweedfs: SeaweedFS) -> None:
        ambient = {"access_key": None, "secret_key": None}
        with pytest.raises(InvalidInput, match="backup-typo"):
            async with open_store(s3_settings(seaweedfs, "b", profile="backup-typo", **ambient)):
                pass


@pytest.fixture(scope="module")
async def trusting(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[SeaweedFS, Issuer]]:
    with issuer() as cluster:
        directory = tmp_path_factory.mktemp("trusting")
        trusts = (cluster.url, SERVICE_ACCOUNT)
        async with SeaweedFS(directory, tls=True, trusts=trusts, session="15s") as server:
            await server.create_bucket("bucket")
            yield server, cluster


class Token:
    """The file that a pod's token lies in."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def becomes(self, text: str) -> None:
        self._file.write_text(text)


class TestWebIdentity:
    """IRSA against a server that checks the token with its issuer, as AWS' STS does."""

    @pytest.fixture
    def token(
        self,
        trusting: tuple[SeaweedFS, Issuer],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Token:
        """What EKS' webhook sets; the file is not there yet."""
        file = tmp_path / "token"
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", trusting[0].endpoint_url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        return Token(file)

    def settings(self, server: SeaweedFS, **changed: object) -> S3Settings:
        ambient = {"access_key": None, "secret_key": None, "prefix": secrets.token_hex(4)}
        return s3_settings(server, "bucket", **{**ambient, **changed})

    async def test_ours_is_let_in_with_the_ca_that_was_given(
        self, trusting: tuple[SeaweedFS, Issuer], token: Token
    ) -> None:
        server, cluster = trusting
        token.becomes(cluster.token(SERVICE_ACCOUNT))
        async with open_store(self.settings(server), part_size=PART) as store:
            await works(store)

    async def test_it_is_renewed_when_it_runs_out(
        self, trusting: tuple[SeaweedFS, Issuer], token: Token
    ) -> None:
        server, cluster = trusting
        token.becomes(cluster.token(SERVICE_ACCOUNT))
        async with open_store(self.settings(server)) as store:
            await store.put_new("m", b"x")
            token.becomes(cluster.token("system:serviceaccount:etcd-steward:another"))

            async def refused() -> bool:
                try:
                    await store.read("m", limit=1)
                except Unauthorized:
                    return True
                return False

            await wait_until(refused, "the session ends", timeout=90)
            token.becomes(cluster.token(SERVICE_ACCOUNT))
            assert await store.read("m", limit=1) == b"x"

    @pytest.mark.parametrize(
        ("subject", "given", "words"),
        [
            ("system:serviceaccount:etcd-steward:default", {}, "trust policy"),
            ("system:serviceaccount:tenant:etcd-steward", {}, "trust policy"),
            (SERVICE_ACCOUNT, {"lasts": -60}, "has expired"),
            (SERVICE_ACCOUNT, {"audience": "vault"}, "audience"),
        ],
    )
    async def test_others_are_not(
        self,
        trusting: tuple[SeaweedFS, Issuer],
        token: Token,
        subject: str,
        given: dict[str, Any],
        words: str,
    ) -> None:
        server, cluster = trusting
        sent = cluster.token(subject, **given)
        token.becomes(sent)
        async with open_store(self.settings(server)) as store:
            for call in (store.read("m", limit=1), store.put_new("m", b"x"), listed(store)):
                with pytest.raises(Unauthorized, match=words) as raised:
                    await call
                assert sent not in f"{raised.value} {raised.value.__cause__!r}"

    async def test_another_issuers_token(
        self, trusting: tuple[SeaweedFS, Issuer], token: Token
    ) -> None:
        with issuer() as foreign:
            foreign_url, foreign.url = foreign.url, trusting[1].url
            token.becomes(foreign.token(SERVICE_ACCOUNT))
            foreign.url = foreign_url
            async with open_store(self.settings(trusting[0])) as store:
                with pytest.raises(Unauthorized, match="AssumeRoleWithWebIdentity is denied"):
                    await store.find("m")

    async def test_no_token_and_no_ca(
        self, trusting: tuple[SeaweedFS, Issuer], token: Token
    ) -> None:
        server, cluster = trusting
        async with open_store(self.settings(server)) as store:
            with pytest.raises(StewardError, match="token"):
                await store.find("m")
        token.becomes(cluster.token(SERVICE_ACCOUNT))
        async with open_store(self.settings(server, ca=None)) as store:
            with pytest.raises(Untrusted, match="can't be trusted"):
                await store.find("m")

    async def test_a_session_token_given_by_hand_and_run_out(
        self, trusting: tuple[SeaweedFS, Issuer]
    ) -> None:
        server, cluster = trusting
        sts = boto3.client(
            "sts",
            endpoint_url=server.endpoint_url,
            region_name="us-east-1",
            verify=str(server.ca_file),
            config=Config(signature_version=UNSIGNED),
        )
        given = sts.assume_role_with_web_identity(
            RoleArn=ROLE,
            RoleSessionName="test",
            WebIdentityToken=cluster.token(SERVICE_ACCOUNT),
        )["Credentials"]
        settings = self.settings(
            server,
            access_key=given["AccessKeyId"],
            secret_key=given["SecretAccessKey"],
            session_token=given["SessionToken"],
        )
        async with open_store(settings) as store:
            await store.put_new("m", b"x")
            said: list[str] = []

            async def refused() -> bool:
                try:
                    await store.read("m", limit=1)
                except Unauthorized as error:
                    said.append(str(error))
                return bool(said)

            await wait_until(refused, "the session ends", timeout=90)
        assert "session" in said[0]
        assert urllib.parse.quote(given["SessionToken"]) not in said[0]
