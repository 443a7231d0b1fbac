"""PEM texts that can't be used are refused before anything is dialled, and never repeated."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from etcd_steward.errors import InvalidInput
from etcd_steward.etcd import tls
from etcd_steward.models.connection import EtcdTLS
from tests.testbed import Authority
from tests.testbed.certs import DAY


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("pki"))


def material(authority: Authority, cert: Path, key: Path) -> EtcdTLS:
    return EtcdTLS(
        ca=authority.ca_file.read_text(),
        cert=cert.read_text(),
        key=SecretStr(key.read_text()),
    )


def test_good_pair(authority: Authority) -> None:
    pair = authority.issue("good")
    loaded = tls.load(material(authority, pair.cert, pair.key))
    assert loaded.expired_on is None
    assert loaded.context().get_ca_certs()


def test_expiry_is_seen(authority: Authority) -> None:
    pair = authority.issue("old", valid_from=-2 * DAY, valid_for=-DAY)
    assert tls.load(material(authority, pair.cert, pair.key)).expired_on is not None


def test_key_of_another_certificate(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(InvalidInput, match="does not belong"):
        tls.load(material(authority, one.cert, other.key))


def test_broken_texts(authority: Authority) -> None:
    pair = authority.issue("broken")
    good = material(authority, pair.cert, pair.key)
    with pytest.raises(InvalidInput, match="the CA for etcd"):
        tls.load(good.model_copy(update={"ca": "no certificate"}))
    with pytest.raises(InvalidInput, match="belong together"):
        tls.load(good.model_copy(update={"key": None}))
    secret = pair.key.read_text().replace("A", "!")
    with pytest.raises(InvalidInput, match="client key") as caught:
        tls.load(good.model_copy(update={"key": SecretStr(secret)}))
    assert secret.splitlines()[1] not in str(caught.value)
    assert caught.value.__suppress_context__


def test_without_a_ca_the_systems_roots_are_trusted() -> None:
    assert "BEGIN CERTIFICATE" in tls.load(EtcdTLS()).roots
