"""The S3 flags: encryption, tags, profile."""

import base64
import secrets
from pathlib import Path
from typing import Any

import pytest

from etcd_steward.cli.store_flags import parse_store
from etcd_steward.errors import InvalidInput
from etcd_steward.models.connection import S3Settings


def parsed(**flags: Any) -> S3Settings:  # noqa: ANN401
    settings = parse_store("s3://bucket", **flags)
    assert isinstance(settings, S3Settings)
    return settings


def test_nothing_is_asked_for_unless_told() -> None:
    settings = parsed()
    assert (settings.sse, settings.tags, settings.profile) == (None, {}, None)


def test_a_key_says_which_kind_it_is_for(tmp_path: Path) -> None:
    kms = parsed(s3_sse_kms_key_id="alias/backups").sse
    assert kms is not None
    assert (kms.type, kms.kms_key_id) == ("KMS", "alias/backups")
    file = tmp_path / "key"
    file.write_bytes(b"k" * 32)
    ours = parsed(s3_sse_c_key_file=file).sse
    assert ours is not None
    assert ours.type == "C"
    assert parsed(s3_sse="S3").sse == type(ours)(type="S3")


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_customer_key_is_raw_or_base64(tmp_path: Path, end: bytes) -> None:
    key = secrets.token_bytes(32)
    text = base64.b64encode(key)
    file = tmp_path / "key"
    for content in (key, text + end):
        file.write_bytes(content)
        sse = parsed(s3_sse="C", s3_sse_c_key_file=file).sse
        assert sse is not None
        assert sse.customer_key is not None
        assert sse.customer_key.get_secret_value() == text.decode()
        assert text.decode() not in repr(sse)


def test_tags() -> None:
    settings = parsed(s3_tag=("team=platform", "note=a=b", "empty="), s3_profile="backups")
    assert settings.tags == {"team": "platform", "note": "a=b", "empty": ""}
    assert settings.profile == "backups"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"s3_tag": ("team",)}, "has no value"),
        ({"s3_tag": ("a=1", "a=2")}, "given twice"),
        ({"s3_sse": "C"}, "needs a key"),
        ({"s3_sse_c_key_file": Path("/no/such/key")}, "/no/such/key can't be read"),
    ],
)
def test_what_can_not_be_meant(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parsed(**flags)
