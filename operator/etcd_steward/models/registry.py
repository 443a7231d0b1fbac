"""What crosses the boundaries around the registry: a key as etcd has it, and which keys are meant.

`Record` is a tuple and not a model, since a million of them are made where a registry is read.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from etcd_steward.models.base import Model

Encoding = Literal["protobuf", "json", "cbor", "encrypted", "other"]
"""How a value is written: kube-apiserver's own three, ciphertext, or no API object."""


class Record(NamedTuple):
    """One key with its value at one revision: etcd's `mvccpb.KeyValue`."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    """1 for a new key; counts its changes since."""
    lease: int
    """0 = none; etcd's int64, so that IDs above 2^63 are negative."""


class KeyPath(NamedTuple):
    """What the key of an API object tells by itself."""

    resource: str
    """The API's plural, `deployments` or `nodes`, also where etcd has another word (`minions`)."""
    api_group: str
    """`apps`; empty for the core group."""
    namespace: str | None
    """None where it is cluster-scoped."""
    name: str


Pattern = Annotated[str, Field(min_length=1, max_length=512)]
"""A word in full, or with `*` for any number of characters."""


class Filter(Model):
    """Which keys: those that fit every field that is given, by any one of its entries."""

    namespaces: tuple[Pattern, ...] = Field(
        default=(),
        max_length=1000,
        description="Namespaces; `*` stands for any characters. What belongs to no namespace never "
        "fits.",
        examples=[["shop", "team-*"]],
    )
    resources: tuple[Pattern, ...] = Field(
        default=(),
        max_length=1000,
        description="Resources as kubectl names them: `secrets`, `deployments.apps`, "
        "`*.example.com`. Without a group: the built-in one of that name; where there is none, "
        "every custom resource so named.",
        examples=[["secrets", "deployments.apps"]],
    )
    names: tuple[Pattern, ...] = Field(
        default=(),
        max_length=1000,
        description="Names of objects; `*` stands for any characters.",
        examples=[["db-*"]],
    )
    label_selector: str | None = Field(
        default=None,
        max_length=4096,
        description="Labels, in kubectl's words. Encrypted objects have none that could be read, "
        "and never fit.",
        examples=["app=shop,tier!=cache"],
    )
    key_prefixes: tuple[Pattern, ...] = Field(
        default=(),
        max_length=1000,
        description="Beginnings of etcd keys, as they are; for keys that are no API objects.",
        examples=[["/registry/example.com/"]],
    )


class Selection(Model):
    """Which keys are meant: those that `include` lets in and `exclude` does not take out."""

    include: Filter | None = None
    exclude: Filter | None = None
