"""Stores that know less of S3 than AWS does, and what is done about it.

`fake_s3` behaves as radosgw 16.2 was seen to (checksums ignored), and as servers that answer "not
implemented"; tests/contract asks a real server that knows both.
"""

import gc
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from etcd_steward.app import take_snapshot
from etcd_steward.engine.check_store import check_store
from etcd_steward.engine.findings import Verdict
from etcd_steward.engine.readback import read_back
from etcd_steward.errors import AlreadyExists, InvalidInput, Throttled, Unauthorized, Unsupported
from etcd_steward.models.ports import Store
from tests.faults.fake_s3 import FakeS3, Said, fake_s3
from tests.faults.s3_support import DATA, PART, fake_settings, opened, write
from tests.support.runs import Heard, connection, snapshot_request
from tests.testbed import EtcdCluster, FaultProxy

NOT_IMPLEMENTED = [
    Said(501, "NotImplemented"),
    Said(501),
    Said(400, "InvalidArgument"),
    Said(400, "InvalidRequest"),
]
IGNORED_OR_REFUSED = ["ignored", *NOT_IMPLEMENTED]


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    with fake_s3() as server:
        server.ranges = True
        yield server


@pytest.fixture
async def store(fake: FakeS3) -> AsyncIterator[Store]:
    async with opened(fake_settings(fake)) as through:
        yield through


class TestChecksums:
    @pytest.mark.parametrize("checksums", IGNORED_OR_REFUSED)
    async def test_unknown_they_give_way_to_md5_and_reading_back(
        self, fake: FakeS3, store: Store, checksums: str | Said
    ) -> None:
        fake.checksums = checksums  # type: ignore[assignment]
        written = await write(store)
        assert fake.objects["k"] == DATA
        assert not written.confirmed
        assert await read_back(store, written) == "whole"
        taken = [
            headers
            for operation, headers in fake.headers
            if operation == "Part"
            and (checksums == "ignored" or "x-amz-checksum-crc32c" not in headers)
        ]
        assert len(taken) == 4
        assert all("content-md5" in headers for headers in taken)
        assert [note for note in store.notes if "computes no CRC-32C" in note]

    @pytest.mark.parametrize("checksums", NOT_IMPLEMENTED)
    async def test_refused_once_they_are_not_sent_again(
        self, fake: FakeS3, store: Store, checksums: Said
    ) -> None:
        fake.checksums = checksums
        await store.put_new("a", b"1")
        fake.headers.clear()
        await store.put_new("b", b"2")
        await write(store)
        assert not [
            name for _, headers in fake.headers for name in headers if "x-amz-checksum" in name
        ]

    async def test_computed_they_make_md5_needless(self, fake: FakeS3, store: Store) -> None:
        fake.checksums = "computed"
        await store.put_new("a", b"1")
        await write(store)
        assert fake.sent("Put", "content-md5")[-1] is None
        assert set(fake.sent("Part", "content-md5")) == {None}
        assert None not in fake.sent("Part", "x-amz-checksum-crc32c")
        assert store.notes == ()

    @pytest.mark.parametrize("checksums", ["ignored", NOT_IMPLEMENTED[0]])
    async def test_damage_on_the_way_is_noticed_without_them(
        self, fake: FakeS3, checksums: str | Said
    ) -> None:
        fake.checksums = checksums  # type: ignore[assignment]
        port = int(fake.endpoint.rpartition(":")[2])
        async with (
            FaultProxy(port) as proxy,
            opened(fake_settings(fake, endpoint=proxy.address())) as store,
        ):
            proxy.to_server.corrupt_at = PART + PART // 2
            await write(store)
            assert proxy.to_server.corrupt_at is None
        assert fake.objects["k"] == DATA
        assert len(fake.sent("Part", "content-md5")) > 4

    async def test_another_refusal_is_not_taken_for_one_of_checksums(
        self, fake: FakeS3, store: Store
    ) -> None:
        fake.say("Create", *[Said(400, "InvalidStorageClass")] * 3)
        with pytest.raises(InvalidInput, match="storage class"):
            await write(store)
        assert fake.seen.count("Create") == 1
        fake.say("Put", *[Said(501, "NotImplemented")] * 9)
        with pytest.raises(Unsupported, match="Leave out what it may not know"):
            await store.put_new("m", b"")
        assert fake.seen.count("Put") == 4  # with both, with either, with neither


class TestConditions:
    @pytest.mark.parametrize(
        ("conditions", "checksums"),
        list(itertools.product(["ignored", NOT_IMPLEMENTED[0]], ["ignored", NOT_IMPLEMENTED[2]])),
    )
    async def test_unknown_they_give_way_to_looking_first(
        self, fake: FakeS3, store: Store, conditions: str | Said, checksums: str | Said
    ) -> None:
        fake.conditions = conditions  # type: ignore[assignment]
        fake.checksums = checksums  # type: ignore[assignment]
        fake.objects["theirs"] = b"theirs"
        with pytest.raises(AlreadyExists):
            await store.put_new("theirs", b"ours")
        for _ in range(2):
            await store.put_new("m", b"ours")
            with pytest.raises(AlreadyExists):
                await store.put_new("m", b"other")
        with pytest.raises(AlreadyExists):
            await store.put_new("theirs", b"ours")
        assert fake.objects == {"theirs": b"theirs", "m": b"ours"}
        assert [note for note in store.notes if "If-None-Match" in note]

    async def test_known_they_cost_no_look(self, fake: FakeS3, store: Store) -> None:
        await store.put_new("a", b"1")
        assert fake.seen == ["Get", "Put", "Put", "Get"]
        fake.seen.clear()
        await store.put_new("b", b"2")
        assert fake.seen == ["Put", "Get"]
        assert not [note for note in store.notes if "If-None-Match" in note]


class TestSaid:
    async def test_by_the_check(self, fake: FakeS3, store: Store) -> None:
        fake.conditions = "ignored"
        listing = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
        fake.say("List", *[Said(200, body=listing)] * 3)
        findings = await check_store(store)
        warnings = [found.message for found in findings if found.verdict is Verdict.WARNING]
        assert any("If-None-Match" in message for message in warnings)
        assert any("CRC-32C" in message for message in warnings)

    async def test_by_the_run(self, fake: FakeS3, etcd: EtcdCluster, tmp_path: Path) -> None:
        fake.conditions = "ignored"
        heard = Heard()
        result = await take_snapshot(
            snapshot_request(connection(etcd), fake_settings(fake), tmp_path / "spool"), heard
        )
        assert result.manifest.proof is not None
        assert result.manifest.proof.read_back == "whole"
        said = [w for w in heard.warnings if "CRC-32C" in w or "If-None-Match" in w]
        assert len(said) == 2


class TestTrouble:
    async def test_retry_after_is_honoured(self, fake: FakeS3, store: Store) -> None:
        fake.objects["k"] = b"x"
        wait = {"Retry-After": "3"}
        fake.say("Head", Said(503, "SlowDown", headers=wait))
        started = time.monotonic()
        assert await store.find("k") is not None
        assert time.monotonic() - started >= 3
        fake.say("Get", Said(503, "SlowDown", headers=wait))
        started = time.monotonic()
        assert await store.read("k", limit=1) == b"x"
        assert time.monotonic() - started >= 3
        assert fake.seen == ["Head", "Head", "Get", "Get"]

    async def test_a_wait_longer_than_there_is_time_ends_it(self, fake: FakeS3) -> None:
        fake.say("Head", *[Said(503, "SlowDown", headers={"Retry-After": "3600"})] * 9)
        async with opened(fake_settings(fake, retry_seconds=2)) as store:
            started = time.monotonic()
            with pytest.raises(Throttled, match=r"asks to slow down.*tried for \d+ s"):
                await store.find("k")
        assert time.monotonic() - started < 30

    async def test_parts_that_fail_together_are_all_looked_at(
        self, fake: FakeS3, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        fake.say("Part", *[Said(403, "AccessDenied")] * 9)
        for _ in range(3):
            with (
                caplog.at_level(logging.ERROR, logger="asyncio"),
                pytest.raises(Unauthorized, match="s3:PutObject"),
            ):
                await write(store)
            gc.collect()
        assert not [r for r in caplog.records if "never retrieved" in r.getMessage()]


class TestEncryption:
    async def test_headers_of_kms(self, fake: FakeS3) -> None:
        sse = {"type": "KMS", "kmsKeyID": "alias/backups"}
        async with opened(fake_settings(fake, sse=sse, tags={"team": "a b", "x": "ü"})) as store:
            await store.put_new("m", b"x")
            await write(store)
        for operation in ("Put", "Create"):
            encryption = fake.sent(operation, "x-amz-server-side-encryption")
            assert set(encryption) == {"aws:kms"}
            key_id = "x-amz-server-side-encryption-aws-kms-key-id"
            assert set(fake.sent(operation, key_id)) == {"alias/backups"}
            assert set(fake.sent(operation, "x-amz-tagging")) == {"team=a%20b&x=%C3%BC"}

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (400, "KMS.NotFoundException", "can't use the KMS key"),
            (400, "KMS.DisabledException", "kmsKeyID"),
            (400, "InvalidTag", "tags"),
        ],
    )
    async def test_refusals_of_the_server(
        self, fake: FakeS3, status: int, code: str, words: str
    ) -> None:
        async with opened(fake_settings(fake, sse={"type": "KMS", "kmsKeyID": "none"})) as store:
            for operation, call in (("Put", store.put_new("m", b"")), ("Create", write(store))):
                fake.say(operation, *[Said(status, code)] * 3)
                with pytest.raises(InvalidInput, match=words):
                    await call
                assert fake.seen.count(operation) == 1
