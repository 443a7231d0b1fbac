"""Where backups lie, as an EtcdBackup's spec says it."""

from typing import Annotated, Literal

from pydantic import Field

from etcd_steward.models.base import Model, Name


class Encryption(Model):
    """What the S3 server encrypts the objects with."""

    type: Literal["S3", "KMS", "C"] = Field(
        description="`S3`: keys that the server keeps. `KMS`: a key of its key management service. "
        "`C`: a key of yours, sent with each request and kept nowhere else: lose it, and the "
        "backups are lost.",
        examples=["S3"],
    )
    kms_key_id: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        default=None,
        alias="kmsKeyID",
        description="With `KMS`: the key's ID, ARN or alias; left out: the server's default key.",
        examples=["alias/etcd-backups"],
    )
    customer_key_secret_name: Name | None = Field(
        default=None,
        description="With `C`: Secret with `customer.key`, 32 random bytes in base64.",
        examples=["s3-customer-key"],
    )


Tag = Annotated[str, Field(max_length=256)]
"""Value of an object tag."""


class S3(Model):
    """A bucket and a prefix in it."""

    bucket: Annotated[str, Field(min_length=3, max_length=63)] = Field(
        description="Name of the bucket; it must exist.", examples=["etcd-backups"]
    )
    prefix: Annotated[str, Field(max_length=512, pattern=r"^([^/\s]+(/[^/\s]+)*)?$")] = Field(
        default="",
        description="Folder in the bucket, without leading or trailing slash.",
        examples=["prod"],
    )
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+$")] | None = Field(
        default=None,
        description="URL of an S3 server; left out: AWS, by region.",
        examples=["https://s3.example.com"],
    )
    region: str | None = Field(
        default=None, description="Region of the bucket.", examples=["eu-central-1"]
    )
    force_path_style: bool = Field(
        default=False,
        description="Put the bucket into the path, not into the host name; most S3 servers of "
        "your own need it.",
        examples=[True],
    )
    credentials_secret_name: Name | None = Field(
        default=None,
        description="Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, and perhaps "
        "`AWS_SESSION_TOKEN`. Left out: the operator's own identity, in allowed namespaces only.",
        examples=["s3"],
    )
    ca_secret_name: Name | None = Field(
        default=None,
        description="Secret with `ca.crt`: certificates to trust instead of the public ones.",
        examples=["s3-ca"],
    )
    storage_class: (
        Literal[
            "STANDARD",
            "STANDARD_IA",
            "ONEZONE_IA",
            "INTELLIGENT_TIERING",
            "GLACIER_IR",
            "REDUCED_REDUNDANCY",
        ]
        | None
    ) = Field(
        default=None,
        description="Storage class of the stored files. Classes that can't be read at once "
        "(GLACIER, DEEP_ARCHIVE) are refused: every backup is read back. Move older ones there by "
        "a lifecycle rule.",
        examples=["STANDARD_IA"],
    )
    sse: Encryption | None = Field(
        default=None,
        description="Server-side encryption; left out: what the bucket does by itself.",
        examples=[{"type": "KMS", "kmsKeyID": "alias/etcd-backups"}],
    )
    tags: Annotated[dict[str, Tag], Field(max_length=10)] = Field(
        default_factory=dict,
        description="Tags of every object that is written, ten at most; needs the right "
        "`s3:PutObjectTagging`.",
        examples=[{"team": "platform"}],
    )


class Local(Model):
    """A directory on the operator's own volume."""

    path: Annotated[str, Field(pattern=r"^/")] = Field(
        description="Absolute path of a directory that the operator can write to.",
        examples=["/var/backups/etcd"],
    )


class StoreSpec(Model):
    """Where backups lie: exactly one of these."""

    s3: S3 | None = Field(
        default=None,
        description="A bucket in S3, or in a server that speaks its protocol.",
        examples=[{"bucket": "etcd-backups", "credentialsSecretName": "s3"}],
    )
    local: Local | None = Field(
        default=None,
        description="A directory; for the operator's allowed namespaces only.",
        examples=[{"path": "/var/backups/etcd"}],
    )
