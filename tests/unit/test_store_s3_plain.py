"""What this program does itself of S3's protocol must be just what botocore does."""

from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import ReadOnlyCredentials  # type: ignore[import-untyped]

from etcd_steward.models.ports import ObjectInfo
from etcd_steward.store.s3_list import Page, query, read_page
from etcd_steward.store.s3_sign import Signer

HOST = "bucket.s3.example.com:8333"
KEYS = ReadOnlyCredentials("AK", "a secret/+", None)
SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@pytest.mark.parametrize("token", [None, "a+token/=="])
@pytest.mark.parametrize(
    ("name", "fields", "more"),
    [
        ("prod/1f0c9a3e/team.a/manifest.json", "", {}),
        ("a b+c%/ä~(1).json", "", {"x-amz-server-side-encryption-customer-key": "a  b=="}),
        ("", query("a b+c/ä~&", "/", "t/+=="), {}),
        ("", query("", None, None), {}),
    ],
)
def test_a_signature_is_botocores(
    token: str | None, name: str, fields: str, more: dict[str, str]
) -> None:
    credentials = KEYS._replace(token=token)
    path = "/" + quote(name, safe="/~")
    url = f"https://{HOST}{path}" + (f"?{fields}" if fields else "")
    request = AWSRequest("GET", url, headers=dict(more))
    S3SigV4Auth(credentials, "s3", "eu-1").add_auth(request)

    signer = Signer(HOST, "eu-1")
    for _ in range(2):  # by the key that is kept, too
        headers = signer.headers(
            credentials, path, fields, more, moment=request.context["timestamp"]
        )
        assert headers["authorization"] == request.headers["Authorization"]
    sent = {key.lower(): value for key, value in request.headers.items()}
    assert headers == sent | {"host": HOST}


def test_the_key_of_yesterday_and_of_other_credentials_is_not_used() -> None:
    used = Signer(HOST, "eu-1")
    for credentials, moment in (
        (KEYS, "20261122T235959Z"),
        (KEYS, "20261123T000000Z"),
        (KEYS._replace(secret_key="other"), "20261123T000000Z"),
    ):
        fresh = Signer(HOST, "eu-1").headers(credentials, "/k", "", {}, moment)
        assert used.headers(credentials, "/k", "", {}, moment) == fresh


def contents(key: str = "prod/a+b%2Fk", size: str = "7", at: str = "2026-11-22T02:17:00Z") -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{at}</LastModified>"
        f"<ETag>&#34;e&#34;</ETag><Size>{size}</Size></Contents>"
    )


def listing(inside: str, space: str = SPACE) -> bytes:
    return f"<ListBucketResult {space}>{inside}</ListBucketResult>".encode()


MOMENT = datetime(2026, 11, 22, 2, 17, tzinfo=UTC)
LAST = "<IsTruncated>false</IsTruncated>"


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        (LAST, Page((), (), None)),
        (
            f"{contents()}{LAST}",
            Page((ObjectInfo("a+b%2Fk", 7, MOMENT, '"e"'),), (), None),
        ),
        (
            (
                f"<EncodingType>url</EncodingType>{contents()}<IsTruncated>true</IsTruncated>"
                "<NextContinuationToken>a%2F</NextContinuationToken>"
            ),
            Page((ObjectInfo("a b/k", 7, MOMENT, '"e"'),), (), "a%2F"),
        ),
        (
            (
                "<EncodingType>url</EncodingType><Prefix>prod/</Prefix>"
                f"<CommonPrefixes><Prefix>prod/c%3D/</Prefix></CommonPrefixes>{LAST}"
            ),
            Page((), ("c=/",), None),
        ),
    ],
)
@pytest.mark.parametrize("space", [SPACE, ""])
def test_a_page(inside: str, expected: Page, space: str) -> None:
    assert read_page(listing(inside, space), "prod/") == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><p>Welcome</html>",
        b"<welcome/>",
        listing(""),
        listing(f"{contents()}<IsTruncated>true</IsTruncated>"),
        listing("<IsTruncated>perhaps</IsTruncated>"),
        listing(f"{contents(size='many')}{LAST}"),
        listing(f"{contents(at='then')}{LAST}"),
        listing(f"<Contents><Key>k</Key></Contents>{LAST}"),
        listing(f"{contents()}{LAST}")[:-5],
    ],
)
def test_what_is_no_page_is_left_to_botocore(body: bytes) -> None:
    assert read_page(body, "prod/") is None
