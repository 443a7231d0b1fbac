"""What the S3 store makes of settings and answers that are not as they should be."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator

import google_crc32c
import pytest

from etcd_steward.errors import (
    AlreadyExists,
    IntegrityError,
    InvalidInput,
    NoSuchStore,
    NotFound,
    OutOfSpace,
    StewardError,
    Throttled,
    Unauthorized,
    Unavailable,
)
from etcd_steward.models.connection import S3Settings
from etcd_steward.models.ports import OpenUpload, Store
from etcd_steward.store import open_store
from etcd_steward.store.s3_client import connect
from tests.faults.fake_s3 import FakeS3, Said, fake_s3
from tests.faults.s3_support import (
    DATA,
    SECRET,
    everything_said,
    fake_settings,
    listed,
    opened,
    write,
)


class TestSettings:
    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"endpoint": "s3.example.com"}, "no endpoint"),
            ({"endpoint": "ftp://s3.example.com"}, "no endpoint"),
            ({"endpoint": "https://"}, "no endpoint"),
            ({"endpoint": "https://host:99999"}, "no endpoint"),
            ({"endpoint": f"https://me:{SECRET}@host"}, "user name or password"),
            ({"ca": "not a certificate"}, "CA holds no certificate"),
            ({"ca": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"}, "CA"),
            ({"access_key": None}, "both an access key and a secret key"),
            ({"secret_key": None}, "both an access key and a secret key"),
            ({"access_key": ""}, "access key is empty"),
            ({"access_key": "", "secret_key": ""}, "access key is empty"),
            ({"secret_key": f"{SECRET}\n"}, "secret key is empty, or holds a line break"),
            ({"session_token": f"{SECRET}\n"}, "session token is empty, or holds a line break"),
            ({"prefix": "/a"}, "can't be a key"),
            ({"prefix": "a/../b"}, "can't be a key"),
            ({"region": "not a region!"}, "region"),
        ],
    )
    async def test_what_can_not_be_meant(self, changed: dict[str, object], words: str) -> None:
        given = {
            "bucket": "b",
            "endpoint": "http://127.0.0.1:1",
            "access_key": "a",
            "secret_key": SECRET,
        }
        with pytest.raises(InvalidInput, match=words) as raised:
            async with open_store(S3Settings.model_validate(given | changed)):
                pass
        assert SECRET not in everything_said(raised.value)

    @pytest.mark.parametrize(
        ("changed", "url"),
        [
            ({"endpoint": "https://s3.example.com"}, "https://bucket.s3.example.com/k"),
            (
                {"endpoint": "https://s3.example.com", "force_path_style": True},
                "https://s3.example.com/bucket/k",
            ),
            ({"endpoint": "http://127.0.0.1:8333"}, "http://127.0.0.1:8333/bucket/k"),
            (
                {"endpoint": "https://s3.example.com", "bucket": "dotted.name"},
                "https://s3.example.com/dotted.name/k",
            ),
        ],
    )
    def test_where_requests_go(self, changed: dict[str, object], url: str) -> None:
        given = {"bucket": "bucket", "access_key": "a", "secret_key": SECRET}
        with contextlib.ExitStack() as resources:
            settings = S3Settings.model_validate(given | changed)
            client = connect(settings, resources, 1).client
            where = {"Bucket": settings.bucket, "Key": "k"}
            signed = client.generate_presigned_url("get_object", where)
            assert signed.partition("?")[0] == url
            assert client.meta.region_name == "us-east-1"

    async def test_a_bucket_name_that_none_can_have(self, fake: FakeS3) -> None:
        async with opened(fake_settings(fake, bucket="not a bucket!")) as store:
            with pytest.raises(InvalidInput, match="bucket"):
                await store.find("k")


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    with fake_s3() as server:
        yield server


@pytest.fixture
async def faked(fake: FakeS3) -> AsyncIterator[Store]:
    async with opened(fake_settings(fake)) as store:
        yield store


def crc(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


FULL = {"x-amz-checksum-type": "FULL_OBJECT"}


class TestAnswers:
    async def test_slow_down_is_obeyed(self, fake: FakeS3, faked: Store) -> None:
        fake.say("Create", Said(503, "SlowDown"))
        fake.say("Part", Said(503, "SlowDown"), Said(500, "InternalError"), Said(429))
        fake.say("Complete", Said(503, "SlowDown"))
        fake.say("Put", Said(503, "SlowDown"), Said(409, "ConditionalRequestConflict"))
        assert (await write(faked)).size == len(DATA)
        assert fake.objects["k"] == DATA
        await faked.put_new("m", b"x")

    async def test_slow_down_without_end(self, fake: FakeS3) -> None:
        fake.say("Head", *[Said(503, "SlowDown")] * 99)
        async with opened(fake_settings(fake, retry_seconds=1)) as store:
            with pytest.raises(Throttled, match="asks to slow down"):
                await store.find("k")

    async def test_an_error_inside_a_good_answer(self, fake: FakeS3, faked: Store) -> None:
        fake.say("Complete", Said(200, "InternalError"), Said(200, "SlowDown"))
        await write(faked)
        assert fake.seen.count("Complete") == 3
        assert fake.objects["k"] == DATA

    async def test_completed_but_the_upload_is_unknown(self, fake: FakeS3, faked: Store) -> None:
        """What AWS says to the second attempt when the first one's answer was lost."""
        fake.extra = FULL | {"x-amz-checksum-crc32c": crc(DATA)}
        fake.say("Complete", Said(500, "InternalError", done=True))
        written = await write(faked)
        assert written.confirmed
        assert fake.seen.count("Complete") == 2
        assert fake.objects["k"] == DATA

    async def test_unknown_upload_and_somebody_elses_object(
        self, fake: FakeS3, faked: Store
    ) -> None:
        fake.objects["k"] = b"another's"
        fake.say("Complete", Said(404, "NoSuchUpload"))
        with pytest.raises(Unavailable, match="no longer knows this upload"):
            await write(faked)
        assert fake.objects["k"] == b"another's"
        assert fake.upload is None

    @pytest.mark.parametrize("code", ["InvalidPart", "NoSuchUpload"])
    async def test_an_upload_that_is_lost_may_be_begun_again(
        self, fake: FakeS3, faked: Store, code: str
    ) -> None:
        fake.say("Complete", Said(400 if code == "InvalidPart" else 404, code))
        with pytest.raises(Unavailable):
            await write(faked)
        assert fake.seen.count("Complete") == 1
        assert fake.upload is None

    async def test_an_abort_that_nobody_may_confirm(self, fake: FakeS3, faked: Store) -> None:
        fake.upload = "upload-1"
        fake.say("ListParts", Said(403, "AccessDenied"))
        await faked.abort(OpenUpload("k", "upload-1"))
        assert fake.upload is None

    async def test_a_beginning_without_an_answer_is_looked_for(
        self, fake: FakeS3, faked: Store
    ) -> None:
        fake.say("Create", Said(403, "AccessDenied", done=True))
        listing = (
            b"<ListMultipartUploadsResult><Upload><Key>k</Key><UploadId>upload-1</UploadId>"
            b"</Upload><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
        )
        fake.say("List", Said(200, body=listing))
        with pytest.raises(Unauthorized):
            await write(faked)
        assert fake.upload is None

    @pytest.mark.parametrize(
        "told",
        [
            {},
            {"x-amz-checksum-crc32c": "AAAAAA==-4", "x-amz-checksum-type": "COMPOSITE"},
            {"x-amz-checksum-crc32c": crc(DATA)},
            {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA=", "x-amz-checksum-type": "FULL_OBJECT"},
        ],
    )
    async def test_no_checksum_of_the_whole_is_no_confirmation(
        self, fake: FakeS3, faked: Store, told: dict[str, str]
    ) -> None:
        fake.extra = told
        assert not (await write(faked)).confirmed
        assert fake.objects["k"] == DATA

    async def test_another_checksum_of_the_whole(self, fake: FakeS3, faked: Store) -> None:
        fake.extra = FULL | {"x-amz-checksum-crc32c": crc(b"other")}
        with pytest.raises(IntegrityError, match="checksum of s3://bucket/k"):
            await write(faked)
        assert "k" not in fake.objects

    async def test_a_digest_that_is_always_refused(self, fake: FakeS3, faked: Store) -> None:
        fake.say("Part", *[Said(400, "BadDigest")] * 99)
        with pytest.raises(IntegrityError, match="is not what was sent"):
            await write(faked)
        assert fake.upload is None

    async def test_a_body_shorter_than_promised(self, fake: FakeS3, faked: Store) -> None:
        fake.objects["k"] = b"123456"
        short = Said(
            206,
            body=b"123",
            claimed_length=6,
            headers={"Content-Range": "bytes 0-5/6", "ETag": '"object"'},
        )
        whole = Said(206, body=b"123456", headers={"Content-Range": "bytes 0-5/6"})
        reader = await faked.open("k")
        fake.say("Get", short, whole)
        assert await asyncio.to_thread(reader.read_at, 0, 6) == b"123456"
        fake.seen.clear()
        fake.say("Get", Said(200, body=b"123", claimed_length=6))
        assert await faked.read("k", limit=10) == b"123456"
        assert fake.seen == ["Get", "Get"]

    async def test_a_store_that_ignores_ranges(self, fake: FakeS3, faked: Store) -> None:
        fake.objects["k"] = b"123456"
        reader = await faked.open("k")
        with pytest.raises(IntegrityError, match="another range"):
            await asyncio.to_thread(reader.read_at, 2, 2)

    async def test_put_new_decides_by_what_lies_there(self, fake: FakeS3, faked: Store) -> None:
        fake.say("Put", Said(500, "InternalError", done=True))
        await faked.put_new("m", b"ours")
        assert fake.seen.count("Put") == 2
        with pytest.raises(AlreadyExists):
            await faked.put_new("m", b"other")

    async def test_not_found_by_whoever_answers(self, fake: FakeS3, faked: Store) -> None:
        fake.say("HeadBucket", Said(404))
        with pytest.raises(NotFound, match="bucket bucket does not exist"):
            await faked.find("k")
        assert await faked.find("k") is None

    @pytest.mark.parametrize(
        "said", [Said(404, body=b"<html><p>Not here"), Said(404), Said(404, "NoSuchBucket")]
    )
    async def test_only_a_missing_key_means_that_there_is_no_object(
        self, fake: FakeS3, faked: Store, said: Said
    ) -> None:
        with pytest.raises(NotFound) as missing:
            await faked.read("k", limit=1)
        assert not isinstance(missing.value, NoSuchStore)
        fake.say("Get", said)
        with pytest.raises(NoSuchStore):
            await faked.read("k", limit=1)

    @pytest.mark.parametrize(
        ("status", "page"),
        [
            (200, b"<welcome/>"),
            (200, b"<html><p>Welcome</html>"),
            (200, b""),
            (400, b"Client sent an HTTP request to an HTTPS server.\n"),
            (404, b"<html>Not here</html>"),
        ],
    )
    async def test_some_other_web_page_is_not_an_empty_store(
        self, fake: FakeS3, status: int, page: bytes
    ) -> None:
        fake.say("List", *[Said(status, body=page)] * 99)
        async with opened(fake_settings(fake, retry_seconds=1)) as store:
            with pytest.raises(StewardError, match=r"endpoint|answered|no such"):
                await listed(store)

    @pytest.mark.parametrize(
        ("status", "code", "kind", "words"),
        [
            (403, "RequestTimeTooSkewed", Unauthorized, "Set the clock"),
            (400, "ExpiredToken", Unauthorized, "ExpiredToken"),
            (403, "InvalidAccessKeyId", Unauthorized, "access key"),
            (403, "SignatureDoesNotMatch", Unauthorized, "secret key"),
            (403, "AccessDenied", Unauthorized, "s3:PutObject"),
            (301, "PermanentRedirect", InvalidInput, "region"),
            (400, "AuthorizationHeaderMalformed", InvalidInput, "region"),
            (400, "InvalidStorageClass", InvalidInput, "storage class"),
            (400, "KeyTooLongError", InvalidInput, "KeyTooLongError"),
            (403, "QuotaExceeded", OutOfSpace, "Free space"),
            (507, "XMinioStorageFull", OutOfSpace, "Free space"),
            (404, "NoSuchBucket", NotFound, "Create it, or correct the store's bucket"),
        ],
    )
    async def test_final_answers_are_not_asked_for_twice(
        self,
        fake: FakeS3,
        faked: Store,
        status: int,
        code: str,
        kind: type[StewardError],
        words: str,
    ) -> None:
        fake.say("Put", *[Said(status, code)] * 5)
        with pytest.raises(kind, match=words) as raised:
            await faked.put_new("m", b"x")
        assert fake.seen.count("Put") == 1
        assert SECRET not in everything_said(raised.value)

    async def test_parts_that_outlive_an_abort_are_aborted_again(
        self, fake: FakeS3, faked: Store
    ) -> None:
        fake.upload = "upload-1"
        fake.say("Abort", Said(204), Said(500, "InternalError"))
        await faked.abort(OpenUpload("k", "upload-1"))
        assert fake.upload is None
        assert fake.seen[:3] == ["Abort", "ListParts", "Abort"]

    async def test_a_header_that_can_not_be_sent_is_not_quoted(
        self, fake: FakeS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token of the environment is not seen by the check of our settings."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_SESSION_TOKEN", f"{SECRET}\n")
        ambient = fake_settings(fake, access_key=None, secret_key=None)
        async with opened(ambient) as store:
            with pytest.raises(Unauthorized, match="can't be sent") as raised:
                await store.read("k", limit=1)
        assert SECRET not in everything_said(raised.value)
