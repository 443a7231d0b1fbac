"""Endpoints as people write them."""

import pytest

from etcd_steward.errors import InvalidInput
from etcd_steward.etcd.address import Address


@pytest.mark.parametrize(
    ("text", "secure", "url"),
    [
        ("https://10.0.0.1:2379", False, "https://10.0.0.1:2379"),
        ("http://etcd.example:1234/", True, "http://etcd.example:1234"),
        ("10.0.0.1:2379", True, "https://10.0.0.1:2379"),  # as etcdctl: certificates mean TLS
        ("localhost", False, "http://localhost:2379"),
        (" https://[fd00::1]:2379 ", False, "https://[fd00::1]:2379"),
        ("[::1]", False, "http://[::1]:2379"),
    ],
)
def test_reads(text: str, secure: bool, url: str) -> None:
    assert Address.parse(text, secure=secure).url == url


@pytest.mark.parametrize(
    "text", ["", "https://", "ftp://a:1", "unix:///run/etcd", "https://a:port", "http://a:1/path"]
)
def test_refuses(text: str) -> None:
    with pytest.raises(InvalidInput, match="Write endpoints like"):
        Address.parse(text, secure=False)


def test_never_repeats_a_password() -> None:
    with pytest.raises(InvalidInput) as caught:
        Address.parse("https://root:hunter2@a:2379", secure=False)
    assert "hunter2" not in str(caught.value)
