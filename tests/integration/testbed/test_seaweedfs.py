"""The test bed's S3: it checks keys, speaks TLS, and keeps what it has over a kill."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, SSLError  # type: ignore[import-untyped]

from tests.testbed import SeaweedFS


def put(s3: SeaweedFS, bucket: str, **client: object) -> None:
    s3.client(**client).put_object(Bucket=bucket, Key="key", Body=b"data")  # type: ignore[arg-type]


async def test_keys_and_rights_are_checked(seaweedfs: SeaweedFS, bucket: str) -> None:
    await seaweedfs.write(bucket, "dir/key", b"data")
    assert await seaweedfs.objects(bucket, "dir/") == {"dir/key": 4}
    assert await seaweedfs.read(bucket, "dir/key") == b"data"

    wrong_secret = replace(seaweedfs.admin, secret_key="wrong")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        await asyncio.to_thread(put, seaweedfs, bucket, identity=wrong_secret)
    unknown = replace(seaweedfs.admin, access_key="AKUNKNOWN")
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        await asyncio.to_thread(put, seaweedfs, bucket, identity=unknown)
    with pytest.raises(ClientError, match="AccessDenied"):
        await asyncio.to_thread(put, seaweedfs, bucket, identity=seaweedfs.reader)
    reader = seaweedfs.client(seaweedfs.reader)
    got = await asyncio.to_thread(reader.get_object, Bucket=bucket, Key="dir/key")
    assert got["Body"].read() == b"data"


async def test_unknown_bucket_is_not_created(seaweedfs: SeaweedFS) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        await seaweedfs.write("never-created", "key", b"data")


async def test_tls_with_its_own_ca_and_no_other(tmp_path: Path) -> None:
    async with SeaweedFS(tmp_path, tls=True) as s3:
        assert s3.endpoint_url.startswith("https://")
        await s3.create_bucket("bucket")
        await s3.write("bucket", "key", b"data")
        assert await s3.read("bucket", "key") == b"data"
        s3.ca_file = None  # the public roots
        with pytest.raises(SSLError):
            await s3.read("bucket", "key")


async def test_objects_and_open_uploads_survive_a_kill(tmp_path: Path) -> None:
    async with SeaweedFS(tmp_path) as s3:
        await s3.create_bucket("bucket")
        await s3.write("bucket", "key", b"data")
        client = s3.client()
        upload = await asyncio.to_thread(
            client.create_multipart_upload, Bucket="bucket", Key="unfinished"
        )
        await s3.server.kill()
        await s3.server.start()
        assert await s3.read("bucket", "key") == b"data"
        assert await s3.open_uploads("bucket") == {upload["UploadId"]: "unfinished"}
