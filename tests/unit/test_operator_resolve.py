"""What a tenant's Secrets may say: nothing in them leads to the operator's own identity."""

import base64
from pathlib import Path
from typing import Any, cast

import pytest

from etcd_steward.config import OperatorConfig
from etcd_steward.errors import InvalidInput, NotFound, Refused
from etcd_steward.handlers.resolve import resolve_etcd, resolve_store
from etcd_steward.kube import Key, Kube, Secret
from etcd_steward.models.connection import S3Settings
from etcd_steward.models.kinds import Etcd, EtcdBackupSpec, SecretName
from etcd_steward.models.places import S3, Encryption, StoreSpec
from etcd_steward.models.run import SpoolSettings

CONFIG = OperatorConfig(
    namespace="etcd-steward",
    etcd=None,
    etcd_namespaces=("etcd-steward",),
    spool=SpoolSettings(directory=Path("/nowhere")),
)
KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
USER = {"username": "root", "password": "hush-hush"}


class Vault:
    """Has one Secret, whatever its name."""

    def __init__(self, data: dict[str, str]) -> None:
        self.data = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}

    async def secret(self, where: Key) -> Secret:
        return Secret(where, self.data)


def vault(data: dict[str, str]) -> Kube:
    return cast("Kube", Vault(data))


def spec(**s3: Any) -> EtcdBackupSpec:  # noqa: ANN401
    return EtcdBackupSpec(
        etcd=Etcd(
            endpoints=("https://10.0.0.1:2379",),
            auth=SecretName(secret_name="root"),
            tls=SecretName(secret_name="tls"),
        ),
        store=StoreSpec(s3=S3(bucket="bucket", **s3)),
    )


async def test_keys_are_taken_as_they_are() -> None:
    found = await resolve_store(spec(credentials_secret_name="s3"), "t", CONFIG, vault(KEYS))
    assert isinstance(found, S3Settings)
    assert found.access_key == "AKIA"
    assert found.secret_key is not None
    assert found.secret_key.get_secret_value() == "hush-hush"


@pytest.mark.parametrize("value", ["", " ", "\n", "hush\x00", "hush\n", "hu\r\nsh", "\x7f"])
@pytest.mark.parametrize("key", [*KEYS, "AWS_SESSION_TOKEN"])
async def test_blank_keys_never_mean_the_operators_own(key: str, value: str) -> None:
    secret = vault({**KEYS, key: value})
    with pytest.raises(InvalidInput, match=f"key {key} of Secret t/s3") as caught:
        await resolve_store(spec(credentials_secret_name="s3"), "t", CONFIG, secret)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "  \n"])
async def test_a_blank_ca_never_means_the_public_ones(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"key ca.crt of Secret t/ca is empty"):
        await resolve_store(spec(ca_secret_name="ca"), "t", CONFIG, vault({"ca.crt": value}))
    with pytest.raises(InvalidInput, match=r"key ca.crt of Secret t/tls is empty"):
        await resolve_etcd(spec(), "t", CONFIG, vault({"ca.crt": value}))


@pytest.mark.parametrize(
    ("name", "value"), [("tls.crt", ""), ("tls.key", ""), ("username", ""), ("password", "x\n")]
)
async def test_etcds_blank_credentials_are_refused(name: str, value: str) -> None:
    good = {"ca.crt": "CA", "tls.crt": "C", "tls.key": "K", **USER}
    assert (await resolve_etcd(spec(), "t", CONFIG, vault(good))).user == "root"
    with pytest.raises(InvalidInput, match=f"key {name} of Secret t/"):
        await resolve_etcd(spec(), "t", CONFIG, vault({**good, name: value}))


async def test_no_keys_at_all_are_refused_to_a_tenant() -> None:
    with pytest.raises(Refused, match="the operator's own S3 identity"):
        await resolve_store(spec(), "t", CONFIG, vault({}))


async def test_encryption_and_tags_reach_the_store() -> None:
    sse = Encryption(type="C", customer_key_secret_name="own")
    secret = vault({**KEYS, "customer.key": "aGFyZA==\n"})
    found = await resolve_store(
        spec(credentials_secret_name="s3", sse=sse, tags={"team": "a"}), "t", CONFIG, secret
    )
    assert isinstance(found, S3Settings)
    assert found.sse is not None
    assert found.sse.customer_key is not None
    assert found.sse.customer_key.get_secret_value() == "aGFyZA=="
    assert "aGFyZA" not in repr(found)
    assert found.tags == {"team": "a"}
    with pytest.raises(NotFound, match=r"has no key customer.key"):
        await resolve_store(spec(credentials_secret_name="s3", sse=sse), "t", CONFIG, vault(KEYS))
