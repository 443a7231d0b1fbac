"""What the API server makes of the S3 fields that depend on each other."""

import pytest

from tests.support.users import Object, User, backup
from tests.testbed import ControlPlane
from tests.testbed.steward import ROOT


@pytest.fixture
async def user(control_plane: ControlPlane, namespace: str) -> User:
    """Somebody in a namespace of this test's own, with the CRDs there."""
    await control_plane.kubectl(
        "apply", "--server-side", "--validate=strict", "--force-conflicts", "-k", ROOT / "crds"
    )
    await control_plane.kubectl(
        "wait", "--for=condition=Established", "--timeout=30s", "crd/etcdbackups.etcdsteward.io"
    )
    return User(control_plane, namespace)


def store(**s3: object) -> Object:
    return {"store": {"s3": {"bucket": "etcd-backups", **s3}}}


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("kms-id", store(sse={"type": "S3", "kmsKeyID": "x"}), "kmsKeyID is for type KMS only"),
        ("no-key", store(sse={"type": "C"}), "customerKeySecretName is needed for type C"),
        ("needless-key", store(sse={"type": "KMS", "customerKeySecretName": "x"}),
         "customerKeySecretName is needed for type C, and for no other"),
        ("kind", store(sse={"type": "AES256"}), 'Unsupported value: "AES256"'),
        ("eleven", store(tags={f"t{n}": "x" for n in range(11)}), "must have at most 10 items"),
        ("long", store(tags={"t": "x" * 257}), "spec.store.s3.tags.t"),
        ("number", store(tags={"t": 7}), "spec.store.s3.tags.t"),
    ],
)  # fmt: skip
async def test_what_cannot_be_meant_is_refused(
    user: User, name: str, spec: Object, words: str
) -> None:
    assert words in await user.refused(backup(name, spec, user.namespace))


@pytest.mark.parametrize(
    "fields",
    [
        {"sse": {"type": "S3"}},
        {"sse": {"type": "KMS"}},
        {"sse": {"type": "KMS", "kmsKeyID": "alias/backups"}},
        {"sse": {"type": "C", "customerKeySecretName": "key"}},
        {"tags": {"team": "platform", "cost-centre/x": ""}},
    ],
)
async def test_what_can_be_meant_is_kept(user: User, fields: Object) -> None:
    await user.apply(backup("kept", {**store(**fields), "suspend": True}, user.namespace))
    s3 = (await user.get("ebk", "kept"))["spec"]["store"]["s3"]
    assert {name: s3[name] for name in fields} == fields
