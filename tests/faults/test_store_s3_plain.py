"""The S3 store's own GETs: whatever is out of the ordinary ends as it would through boto3."""

from collections.abc import AsyncIterator, Iterator

import pytest

from etcd_steward.errors import NoSuchStore, NotFound, Unavailable
from etcd_steward.models.ports import Store
from tests.faults.fake_s3 import FakeS3, Said, fake_s3
from tests.faults.s3_support import fake_settings, listed, opened

LISTING = (
    b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key><Size>1</Size>"
    b"<ETag>e</ETag><LastModified>2026-11-22T02:17:00Z</LastModified></Contents></ListBucketResult>"
)


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    with fake_s3() as server:
        server.objects |= {"k": b"x", "m": b"y"}
        yield server


@pytest.fixture
async def store(fake: FakeS3) -> AsyncIterator[Store]:
    async with opened(fake_settings(fake)) as opened_store:
        yield opened_store


async def test_a_connection_that_was_closed_meanwhile_is_no_trouble(
    fake: FakeS3, store: Store
) -> None:
    fake.say("Get", Said(200, body=b"x", claimed_length=1))  # and hangs up, which it does not say
    assert await store.read("k", limit=1) == b"x"
    assert await store.read("k", limit=1) == b"x"
    assert fake.seen == ["Get", "Get"]


async def test_trouble_with_one_of_many_is_ridden_out(fake: FakeS3, store: Store) -> None:
    honest, cut = Said(200, body=b"x"), Said(200, body=b"", claimed_length=1)
    fake.say("Get", honest, Said(503, "SlowDown"), cut, Said(500, "InternalError"))
    found = await store.read_many(["k", "m", "none", "k"], limit=3)
    assert [one for one in found if isinstance(one, bytes)] == [b"x", b"y", b"x"]
    assert isinstance(found[2], NotFound)


async def test_trouble_that_stays_is_said(fake: FakeS3) -> None:
    fake.say("Get", *[Said(500, "InternalError")] * 99)
    async with opened(fake_settings(fake, retry_seconds=1)) as store:
        with pytest.raises(Unavailable, match=r"Reading s3://bucket/k.*tried for"):
            await store.read_many(["k", "m"], limit=1)


async def test_a_bucket_that_is_gone_is_not_many_missing_objects(
    fake: FakeS3, store: Store
) -> None:
    fake.say("Get", *[Said(404, "NoSuchBucket")] * 9)
    with pytest.raises(NoSuchStore):
        await store.read_many(["k", "m"], limit=1)


async def test_a_page_that_breaks_off_is_asked_for_again(fake: FakeS3, store: Store) -> None:
    fake.say("List", Said(200, body=LISTING[:-9]), Said(200, body=LISTING))
    assert await listed(store) == ["k"]
    fake.say("List", Said(200, body=LISTING, claimed_length=len(LISTING) + 9))
    fake.say("List", Said(503, "SlowDown"), Said(200, body=LISTING))
    assert await listed(store) == ["k"]


async def test_a_proxy_is_obeyed(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", fake.endpoint)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    settings = fake_settings(fake, endpoint="http://nowhere.invalid", force_path_style=True)
    fake.say("List", Said(200, body=LISTING))
    async with opened(settings) as store:
        assert await store.read_many(["k"], limit=1) == [b"x"]
        assert await listed(store) == ["k"]
