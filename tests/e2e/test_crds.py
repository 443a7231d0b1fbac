"""The CRDs on a real API server: taken under strict validation, and refusing what they must."""

import json
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.support.users import Object, User, backup, run
from tests.testbed import ControlPlane
from tests.testbed.steward import ROOT

STORE = {"s3": {"bucket": "etcd-backups"}}


@pytest.fixture
async def user(control_plane: ControlPlane, namespace: str) -> User:
    """Somebody in a namespace of this test's own, with the CRDs there."""
    await control_plane.kubectl(
        "apply", "--server-side", "--validate=strict", "--force-conflicts", "-k", ROOT / "crds"
    )
    kinds = ("etcdbackups", "etcdsnapshots", "etcdrestores", "etcdmaintenances")
    names = [f"crd/{kind}.etcdsteward.io" for kind in kinds]
    await control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return User(control_plane, namespace)


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("two", {"store": {**STORE, "local": {"path": "/b"}}}, "set exactly one store"),
        ("none", {"store": {}}, "set exactly one store: either s3 or local"),
        ("b" * 53, {"store": STORE}, "an EtcdBackup's name has at most 52 characters"),
        ("cold", {"store": {"s3": {"bucket": "etcd-backups", "storageClass": "GLACIER"}}},
         'Unsupported value: "GLACIER"'),
        ("typo", {"store": STORE, "shedule": "@daily"}, 'unknown field "spec.shedule"'),
        ("slash", {"store": {"s3": {"bucket": "etcd-backups", "prefix": "/prod/"}}},
         "spec.store.s3.prefix"),
        ("path", {"store": STORE, "etcd": {"endpoints": ["https://a:2379/x"]}},
         "spec.etcd.endpoints[0]"),
        ("often", {"store": STORE, "attempts": 11}, "spec.attempts"),
        ("half", {"store": STORE, "include": {"namespaces": ["shop"]}},
         "include and exclude are for type RegistryExport"),
        ("less", {"store": STORE, "exclude": {"resources": ["events"]}},
         "include and exclude are for type RegistryExport"),
        ("words", {"store": STORE, "type": "RegistryExport", "include": {"namespace": "shop"}},
         'unknown field "spec.include.namespace"'),
        ("harder", {"store": STORE, "type": "RegistryExport",
                    "verification": {"level": "Restore"}}, "spec.verification.level"),
    ],
)  # fmt: skip
async def test_a_spec_that_cannot_be_meant_is_refused(
    user: User, name: str, spec: Object, words: str
) -> None:
    assert words in await user.refused(backup(name, spec, user.namespace))


async def test_the_longest_name_is_taken_with_defaults(user: User) -> None:
    name = "b" * 52
    await user.apply(backup(name, {"store": STORE}, user.namespace))
    made = await user.get("ebk", name)
    assert made["spec"] == {
        "type": "Snapshot",
        "store": {"s3": {"bucket": "etcd-backups", "forcePathStyle": False, "prefix": ""}},
        "attempts": 3,
        "activeDeadlineSeconds": 3600,
        "timeZone": "Etc/UTC",
        "suspend": False,
        "deletionPolicy": "Retain",
        "failedHistoryLimit": 3,
    }


async def test_of_a_restore_only_the_approval_can_be_changed(user: User) -> None:
    def one(**spec: Any) -> Object:  # noqa: ANN401
        wanted = {"source": {"backupName": "a"}, "include": {"namespaces": ["shop"]}, **spec}
        return {
            "apiVersion": "etcdsteward.io/v1alpha1",
            "kind": "EtcdRestore",
            "metadata": {"name": "one", "namespace": user.namespace},
            "spec": wanted,
        }

    await user.apply(one())
    await user.apply(one(approvedPlanDigest=f"sha256:{'9f' * 32}"))
    words = "nothing but approvedPlanDigest can be changed"
    for change in (
        {"exclude": {"resources": ["secrets"]}},
        {"mode": "Apply"},
        {"source": {"backupName": "b"}},
        {"store": STORE},
        {"via": "API", "namespaceMapping": {"shop": "other"}},
    ):
        assert words in await user.refused(one(**change)), change
    made = await user.get("erestore", "one")
    assert made["spec"]["keepFor"] == "30d"
    assert made["spec"]["existingObjects"] == "Skip"


async def test_an_order_can_be_changed_but_a_run_cannot(user: User) -> None:
    await user.apply(backup("order", {"store": STORE}, user.namespace))
    await user.apply(backup("order", {"store": STORE, "attempts": 5}, user.namespace))
    await user.apply(run("one", "order", user.namespace))
    changed = run("one", "another", user.namespace)
    assert "a run can't be changed: create another EtcdSnapshot" in await user.refused(changed)
    assert "spec" in await user.refused({**run("one", "order", user.namespace), "spec": {}})


async def test_runs_can_be_selected_by_their_backup(user: User) -> None:
    await user.apply(run("one", "this", user.namespace), run("two", "that", user.namespace))
    found = await user.plane.kubectl(
        "get", "esnap", "-n", user.namespace, "--field-selector=spec.backupName=that", "-o", "name"
    )
    assert found.strip() == "etcdsnapshot.etcdsteward.io/two"


async def test_a_status_is_not_written_with_the_spec(user: User) -> None:
    await user.apply({**run("honest", "none", user.namespace), "status": {"phase": "Complete"}})
    assert "status" not in await user.get("esnap", "honest")


async def test_explain_shows_descriptions_and_examples(user: User) -> None:
    text = await user.plane.kubectl("explain", "etcdbackup.spec.store.s3")
    flat = " ".join(text.split())
    assert "bucket <string> -required-" in flat
    assert "Example: `etcd-backups`." in flat


async def test_the_deployment_is_taken_by_the_api_server(control_plane: ControlPlane) -> None:
    rendered = await control_plane.kubectl("kustomize", ROOT / "deploy")
    objects = await control_plane.kubectl(
        "apply", "--server-side", "--validate=strict", "--force-conflicts", "-f", "-",
        "-o", "json", stdin=rendered,
    )  # fmt: skip
    kinds = [one["kind"] for one in parsed(objects)]
    assert {"Deployment", "ClusterRole", "Namespace", "Service"} <= set(kinds)


async def test_the_deployment_is_valid_by_the_published_schemas(
    control_plane: ControlPlane,
) -> None:
    rendered = await control_plane.kubectl("kustomize", ROOT / "deploy")
    objects = list(yaml.safe_load_all(rendered))
    assert len(objects) > 8
    for one in objects:
        kubernetes_validate.validate(one, "1.35", strict=True)


async def test_the_samples_are_taken_with_every_field_checked(control_plane: ControlPlane) -> None:
    samples = sorted((ROOT / "deploy" / "samples").glob("*.yaml"))
    assert len(samples) == 5
    for sample in samples:
        await control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", sample)


async def test_the_pod_meets_the_restricted_standard(control_plane: ControlPlane) -> None:
    rendered = await control_plane.kubectl("kustomize", ROOT / "deploy")
    await control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-",
                                stdin=rendered)  # fmt: skip
    words = ("get", "deployment", "etcd-steward", "-n", "etcd-steward", "-o", "json")
    template = json.loads(await control_plane.kubectl(*words))["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "as-deployed", "namespace": "etcd-steward"},
        "spec": template["spec"],
    }
    # The namespace enforces it, at the admission of Pods only.
    await control_plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    container = template["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {one["mountPath"] for one in container["volumeMounts"]} == {
        "/var/spool/etcd-steward",
        "/var/backups/etcd",
        "/etc/etcd-steward/etcd",
    }


def parsed(text: str) -> list[dict[str, Any]]:
    """Objects that kubectl printed one after another, or as a list."""
    decoder, at = json.JSONDecoder(), 0
    found: list[dict[str, Any]] = []
    while at < len(text.rstrip()):
        one, end = decoder.raw_decode(text[at:])
        found += one["items"] if one["kind"] == "List" else [one]
        at += end
        at += len(text[at:]) - len(text[at:].lstrip())
    return found
