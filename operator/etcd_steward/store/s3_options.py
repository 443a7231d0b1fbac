"""What the settings add to requests: encryption, tags, storage class."""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from etcd_steward.errors import InvalidInput, Refused
from etcd_steward.models.connection import S3Encryption, S3Settings

Parameters = dict[str, Any]
"""Arguments of a call of boto3."""

_KEY_BYTES: Final = 32
_MAX_TAGS: Final = 10
_MAX_TAG: Final = 128, 256
"""Characters of a tag's name and of its value."""
_TAG: Final = re.compile(r"[\w\s.:/=+\-@]*")
"""What S3 takes in both: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html"""


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments by the kind of request, to be handed to boto3 beside its own."""

    new: Parameters = field(repr=False)
    """PutObject."""
    upload: Parameters = field(repr=False)
    """CreateMultipartUpload."""
    key: Parameters = field(repr=False)
    """The key of ours, which every later request to an object encrypted with it must bring."""

    @classmethod
    def of(cls, settings: S3Settings) -> "Options":
        """The options that settings ask for. Raises `InvalidInput` or `Refused`."""
        key = _customer_key(settings)
        new = {**_encryption(settings.sse), **key}
        if settings.tags:
            _check_tags(settings.tags)
            new["Tagging"] = urlencode(settings.tags, quote_via=quote)
        upload = dict(new)
        if settings.storage_class is not None:  # of the large files: small ones cost more there
            upload["StorageClass"] = settings.storage_class
        return cls(new, upload, key)


def _encryption(sse: S3Encryption | None) -> Parameters:
    if sse is None or sse.type == "C":
        return {}
    if sse.type == "S3":
        return {"ServerSideEncryption": "AES256"}
    named = {} if sse.kms_key_id is None else {"SSEKMSKeyId": sse.kms_key_id}
    return {"ServerSideEncryption": "aws:kms", **named}


def _customer_key(settings: S3Settings) -> Parameters:
    sse = settings.sse
    if sse is None:
        return {}
    if (sse.type == "C") != (sse.customer_key is not None):
        raise InvalidInput("a key of yours is needed for encryption of type C, and for no other")
    if sse.type != "KMS" and sse.kms_key_id is not None:
        raise InvalidInput("a KMS key can be named for encryption of type KMS only")
    if sse.customer_key is None:
        return {}
    if (settings.endpoint or "").startswith("http://"):
        raise Refused(
            "the encryption key would be sent in the clear",
            hint="Use an endpoint that begins with https://",
        )
    try:
        key = base64.b64decode(sse.customer_key.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        # Raised out here: the error above quotes what it could not read.
        raise InvalidInput(
            "the store's encryption key is not 32 bytes in base64",
            hint="Make one by `openssl rand -base64 32`, and keep a copy where it outlives this "
            "cluster",
        )
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}


def _check_tags(tags: dict[str, str]) -> None:
    if len(tags) > _MAX_TAGS:
        raise InvalidInput(f"an object in S3 has at most {_MAX_TAGS} tags, and {len(tags)} are set")
    for name, value in tags.items():
        problem = (
            "its name is empty"
            if not name
            else "names that begin with aws: are kept for AWS"
            if name.lower().startswith("aws:")
            else f"its name has more than {_MAX_TAG[0]} characters"
            if len(name) > _MAX_TAG[0]
            else f"its value has more than {_MAX_TAG[1]} characters"
            if len(value) > _MAX_TAG[1]
            else "S3 takes letters, digits, spaces and _ . : / = + - @ only"
            if not (_TAG.fullmatch(name) and _TAG.fullmatch(value))
            else None
        )
        if problem:
            raise InvalidInput(f"S3 would refuse the tag {name[:40]!r}: {problem}")
