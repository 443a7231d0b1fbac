"""The operator on a real API server, with its ServiceAccount's rights only."""

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from etcd_steward.errors import NotFound
from etcd_steward.kube import BACKUPS, Key, Kube, version_of
from tests.support.users import (
    HastySteward,
    Object,
    User,
    backup,
    condition,
    installed,
    run,
    s3_store,
    secret,
)
from tests.testbed import ControlPlane, EtcdCluster, SeaweedFS, wait_until
from tests.testbed.steward import NAMESPACE, ROOT, Steward

SAMPLES = ROOT / "deploy" / "samples"


@pytest.fixture(scope="module")
async def steward(
    control_plane: ControlPlane, seaweedfs: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Steward]:
    """The operator, with Secret `s3` in its namespace."""
    await installed(control_plane, seaweedfs)
    operator = HastySteward(tmp_path_factory.mktemp("steward"), control_plane)
    operator.timing = {"refusal_patience": 3.0, "backup_patience": 4.0, "progress_every": 1.0}
    async with operator:
        yield operator


@pytest.fixture
def user(control_plane: ControlPlane, steward: Steward) -> User:  # noqa: ARG001, it must run
    """Somebody with kubectl, beside a running operator."""
    return User(control_plane)


def metrics(steward: Steward) -> dict[str, float]:
    """What the operator's metrics say, by series."""
    url = f"http://127.0.0.1:{steward.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


def series(name: str, backup_name: str, **more: str) -> str:
    """The name of a backup's series."""
    labels = {"backup_name": backup_name, "backup_namespace": NAMESPACE, **more}
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"etcd_steward_backup_{name}{{{inner}}}"


async def test_the_sample_for_s3_becomes_complete(
    user: User, steward: Steward, seaweedfs: SeaweedFS, bucket: str
) -> None:
    keys, order = yaml.safe_load_all((SAMPLES / "s3.yaml").read_text())
    keys["stringData"] = seaweedfs.environment()
    order["spec"]["store"]["s3"] |= {"bucket": bucket, "endpoint": seaweedfs.endpoint_url}
    await user.apply(keys, order)
    await user.plane.kubectl(
        "wait", "--for=condition=Ready", "ebk/to-s3", "-n", NAMESPACE, "--timeout=60s", timeout=70
    )

    made = await user.run_of("to-s3")
    created = (await user.get("ebk", "to-s3"))["metadata"]["creationTimestamp"]
    tick = int(made["metadata"]["name"].removeprefix("to-s3-"))
    assert re.fullmatch(r"to-s3-\d{10}", made["metadata"]["name"])
    assert datetime.fromisoformat(created).timestamp() == tick
    assert "ownerReferences" not in made["metadata"]
    assert "annotations" not in made["metadata"]

    status = made["status"]
    assert status["phase"] == "Complete"
    assert condition(made, "Complete")["status"] == "True"
    assert condition(made, "Verified")["reason"] == "Structure"
    assert condition(made, "Indexed")["status"] == "True"
    assert status["attempt"] == 1
    assert "journal" not in status
    folder = status["artifact"]["url"].removeprefix(f"s3://{bucket}/")
    stored = await seaweedfs.objects(bucket, f"{folder}/")
    manifest = json.loads(await seaweedfs.read(bucket, f"{folder}/manifest.json"))
    assert stored[f"{folder}/snapshot.db.zst"] == status["artifact"]["storedBytes"]
    assert {f"{folder}/registry.parquet", f"{folder}/index.json"} <= set(stored)
    assert manifest["revision"] == status["artifact"]["revision"]
    assert manifest["run"]["name"] == made["metadata"]["name"]
    assert manifest["backup"]["uid"] == status["backupUID"]
    assert not await seaweedfs.open_uploads(bucket)

    figures = metrics(steward)
    assert figures[series("runs_total", "to-s3", result="complete")] == 1
    assert figures[series("runs_total", "to-s3", result="failed")] == 0
    assert figures[series("in_progress", "to-s3")] == 0
    assert figures[series("raw_bytes", "to-s3")] == status["artifact"]["rawBytes"]
    assert figures[series("stored_bytes", "to-s3")] == status["artifact"]["storedBytes"]
    assert figures[series("last_success_timestamp_seconds", "to-s3")] >= tick
    assert figures[series("last_verified_timestamp_seconds", "to-s3")] >= tick
    assert series("duration_seconds", "to-s3") in figures

    async def finalizer_gone() -> bool:
        return "finalizers" not in (await user.get("esnap", made["metadata"]["name"]))["metadata"]

    await wait_until(finalizer_gone, "the finalizer is gone")
    for name in ("to-s3", made["metadata"]["name"]):
        events = {reason: message for _, reason, message in await user.events(name)}
        assert set(events) == {"RunStarted", "Complete"}
        assert "keys at revision" in events["Complete"]


async def test_every_column_shows_what_it_is_named_after(
    user: User, seaweedfs: SeaweedFS, bucket: str
) -> None:
    await user.apply(backup("columns", {"store": s3_store(seaweedfs, bucket)}))
    made = await user.ended((await user.run_of("columns"))["metadata"]["name"])
    artifact = made["status"]["artifact"]

    async def ready() -> bool:
        return condition(await user.get("ebk", "columns"), "Ready").get("status") == "True"

    await wait_until(ready, "the backup is ready")
    assert (await table(user, "ebk", "columns"))["LAST URL"] == artifact["url"]
    shown = await table(user, "esnap", made["metadata"]["name"])
    assert re.fullmatch(r"\d+[smh]\d*[sm]?", shown.pop("AGE"))
    assert shown == {
        "NAME": made["metadata"]["name"],
        "BACKUP": "columns",
        "TYPE": "Snapshot",
        "PHASE": "Complete",
        "PROGRESS": f"Done in {made['status']['duration']}",
        "REVISION": str(artifact["revision"]),
        "SIZE": artifact["size"],
        "VERIFIED": "Structure",
        "URL": artifact["url"],
        "MESSAGE": condition(made, "Complete")["message"],
    }


async def test_a_registry_export_becomes_complete(
    user: User, seaweedfs: SeaweedFS, bucket: str
) -> None:
    spec = {
        "type": "RegistryExport",
        "store": s3_store(seaweedfs, bucket),
        "retention": {"keepLast": 1},
        "include": {"namespaces": ["kube-*"]},
        "exclude": {"resources": ["leases.coordination.k8s.io"]},
    }
    await user.apply(backup("objects", spec))
    made = await user.ended((await user.run_of("objects"))["metadata"]["name"])
    status = made["status"]
    assert (status["phase"], status["type"]) == ("Complete", "RegistryExport")
    assert condition(made, "Verified")["reason"] == "Structure"
    assert not condition(made, "Indexed")
    url = status["artifact"]["url"]
    folder = url.removeprefix(f"s3://{bucket}/")
    stored = await seaweedfs.objects(bucket, f"{folder}/")
    assert stored[f"{folder}/registry.parquet"] == status["artifact"]["storedBytes"]
    manifest = json.loads(await seaweedfs.read(bucket, f"{folder}/manifest.json"))
    assert manifest["selection"]["include"]["namespaces"] == ["kube-*"]
    assert manifest["liveKeys"] == status["artifact"]["liveKeys"] > 0
    said = condition(made, "Complete")["message"]
    assert f"{manifest['liveKeys']} keys at revision {manifest['revision']}" in said

    # Retention counts it like any other.
    await user.apply(run("objects-again", "objects"))
    assert (await user.ended("objects-again"))["status"]["phase"] == "Complete"

    async def first_is_gone() -> bool:
        return not await seaweedfs.objects(bucket, f"{folder}/")

    await wait_until(first_is_gone, "retention has let the first export go")
    for kind, name in (("ebk", "objects"), ("esnap", "objects-again")):
        assert (await table(user, kind, name))["TYPE"] == "RegistryExport"


async def table(user: User, kind: str, name: str) -> dict[str, str]:
    """One row of `kubectl get -o wide`, by column."""
    text = await user.plane.kubectl("get", kind, name, "-n", user.namespace, "-o", "wide")
    head, row = text.splitlines()
    names = re.split(r" {2,}", head.strip())
    starts = [head.index(one) for one in names]
    ends = [*starts[1:], None]
    return {one: row[a:b].strip() for one, a, b in zip(names, starts, ends, strict=True)}


async def test_a_hand_made_run_is_driven_and_a_deleted_one_does_not_come_back(
    user: User, seaweedfs: SeaweedFS, bucket: str
) -> None:
    await user.apply(backup("again", {"store": s3_store(seaweedfs, bucket)}))
    first = await user.ended((await user.run_of("again"))["metadata"]["name"])
    await user.apply(run("by-hand", "again"))
    second = await user.ended("by-hand")
    assert second["status"]["phase"] == "Complete"
    assert second["status"]["artifact"]["url"] != first["status"]["artifact"]["url"]

    async def known() -> bool:
        status = (await user.get("ebk", "again"))["status"]
        return bool(status.get("lastSnapshotName") == "by-hand")

    await wait_until(known, "the backup knows its last run")
    await user.delete("esnap", first["metadata"]["name"])
    await user.delete("esnap", "by-hand")
    stored = await seaweedfs.objects(bucket, "prod/")
    assert sum(key.endswith("/manifest.json") for key in stored) == 2

    await user.apply(backup("next", {"store": s3_store(seaweedfs, bucket)}))
    await user.ended((await user.run_of("next"))["metadata"]["name"])
    # The scheduler has looked since: a record may have come back, but nothing has run again.
    for one in await user.all("esnap"):
        if one["spec"]["backupName"] == "again":
            assert "etcdsteward.io/found-in" in one["metadata"]["annotations"]
    stored = await seaweedfs.objects(bucket, "prod/")
    assert sum("/etcd-steward.again/" in key and "manifest" in key for key in stored) == 2


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        pytest.param(
            {"credentialsSecretName": "absent"},
            "NotFound",
            "there is no Secret etcd-steward/absent. Create it.",
            id="no such Secret",
        ),
        pytest.param(
            {"credentialsSecretName": "half"},
            "NotFound",
            "Secret etcd-steward/half has no key AWS_SECRET_ACCESS_KEY "
            "(its keys: AWS_ACCESS_KEY_ID). Add AWS_SECRET_ACCESS_KEY to it.",
            id="no such key",
        ),
        pytest.param(
            {"caSecretName": "half"}, "NotFound", "Secret etcd-steward/half has no key ca.crt",
            id="no CA",
        ),
        pytest.param({"bucket": "no-such-bucket"}, "NotFound", "no-such-bucket", id="no bucket"),
    ],
)  # fmt: skip
async def test_a_store_that_cannot_be_used_fails_the_run_in_words(
    user: User,
    seaweedfs: SeaweedFS,
    bucket: str,
    request: pytest.FixtureRequest,
    spec: Object,
    reason: str,
    words: str,
) -> None:
    name = request.node.callspec.id.replace(" ", "-").lower()
    await user.apply(secret("half", {"AWS_ACCESS_KEY_ID": "x"}))
    await user.apply(backup(name, {"store": s3_store(seaweedfs, bucket, **spec)}))
    failed = await user.ended((await user.run_of(name))["metadata"]["name"])
    said = condition(failed, "Failed")
    assert said["status"] == "True"
    assert said["reason"] == reason
    assert words in said["message"]
    assert f"create an EtcdSnapshot with spec.backupName: {name}" in said["message"]

    async def order_says_so() -> bool:
        order = await user.get("ebk", name)
        return condition(order, "Ready").get("reason") == reason

    await wait_until(order_says_so, "the backup says so too")
    assert ("Warning", reason) in {event[:2] for event in await user.events(name)}
    assert not await seaweedfs.objects(bucket, "")


@pytest.mark.parametrize(
    ("store", "words"),
    [
        pytest.param(None, "may not use the operator's own etcd", id="its etcd"),
        pytest.param(
            {"local": {"path": "/tmp"}}, "may not use the operator's own disk", id="its disk"
        ),
        pytest.param(
            {"s3": {"bucket": "some-bucket"}}, "may not use the operator's own S3", id="its keys"
        ),
    ],
)
async def test_what_is_the_operators_own_is_refused_to_other_namespaces(
    user: User,
    seaweedfs: SeaweedFS,
    namespace: str,
    etcd: EtcdCluster,
    store: Object | None,
    words: str,
) -> None:
    spec: Object = {"store": store or s3_store(seaweedfs, "some-bucket")}
    if store is not None:
        spec["etcd"] = {"endpoints": list(etcd.endpoints)}
    tenant = User(user.plane, namespace)
    await tenant.apply(backup("greedy", spec, namespace))
    failed = await tenant.ended((await tenant.run_of("greedy"))["metadata"]["name"])
    said = condition(failed, "Failed")
    assert said["reason"] == "Refused"
    assert words in said["message"]


async def test_a_tenants_secrets_need_a_role_binding(
    user: User, seaweedfs: SeaweedFS, bucket: str, namespace: str, etcd: EtcdCluster
) -> None:
    tenant = User(user.plane, namespace)
    spec = {"etcd": {"endpoints": list(etcd.endpoints)}, "store": s3_store(seaweedfs, bucket)}
    await tenant.apply(secret("s3", seaweedfs.environment(), namespace))
    await tenant.apply(backup("own", spec, namespace))
    failed = await tenant.ended((await tenant.run_of("own"))["metadata"]["name"])
    said = condition(failed, "Failed")
    assert said["reason"] == "Unauthorized"
    assert f"RoleBinding in namespace {namespace}" in said["message"]

    async def told() -> bool:
        order = await tenant.get("ebk", "own")
        return bool(condition(order, "StoreAvailable")["status"] == "False")

    await wait_until(told, "the EtcdBackup says so too", timeout=30)

    await user.plane.kubectl(
        "create", "rolebinding", "etcd-steward-secrets", f"--namespace={namespace}",
        "--clusterrole=etcd-steward-secrets", "--serviceaccount=etcd-steward:etcd-steward",
    )  # fmt: skip
    await tenant.apply(run("retry", "own", namespace))
    assert (await tenant.ended("retry"))["status"]["phase"] == "Complete"


async def test_a_run_without_its_backup_fails(user: User) -> None:
    await user.apply(run("orphan", "nothing"))
    said = condition(await user.ended("orphan"), "Failed")
    assert said["reason"] == "NotFound"
    assert "there is no EtcdBackup etcd-steward/nothing" in said["message"]


async def test_a_status_is_never_written_to_another_object_of_that_name(
    user: User, control_plane: ControlPlane
) -> None:
    order = backup("twin", {"store": {"local": {"path": "/nowhere"}}})
    order["spec"]["etcd"] = {"endpoints": ["http://127.0.0.1:1"]}
    await user.apply(order)
    version = version_of(await user.get("ebk", "twin"))
    other = version._replace(uid="another")
    kube = await Kube.connect(await control_plane.service_account_kubeconfig(NAMESPACE, NAMESPACE))
    where = Key(NAMESPACE, "twin")
    try:
        await kube.patch_status(BACKUPS, where, version, {"lastSize": "1 B"})
        await kube.patch_status(BACKUPS, where, version, {"lastSize": "2 B"})  # old, but the same
        with pytest.raises(NotFound):
            await kube.patch_status(BACKUPS, where, other, {"lastSize": "3 B"})
    finally:
        await kube.aclose()
    assert (await user.get("ebk", "twin"))["status"]["lastSize"] == "2 B"
    await user.delete("ebk", "twin")


async def test_the_sample_for_a_directory_becomes_complete(user: User, tmp_path: Path) -> None:
    order = yaml.safe_load((SAMPLES / "local.yaml").read_text())
    order["spec"]["store"]["local"]["path"] = str(tmp_path)
    await user.apply(order)
    made = await user.ended((await user.run_of("to-disk"))["metadata"]["name"])
    assert made["status"]["phase"] == "Complete"
    assert len(await asyncio.to_thread(lambda: list(tmp_path.rglob("manifest.json")))) == 1


async def test_figures_outlive_the_operator_and_go_with_the_backup(
    user: User, steward: Steward, seaweedfs: SeaweedFS, bucket: str
) -> None:
    await user.apply(backup("figures", {"store": s3_store(seaweedfs, bucket)}))
    made = await user.ended((await user.run_of("figures"))["metadata"]["name"])
    await steward.server.restart()

    async def back() -> bool:
        return series("last_success_timestamp_seconds", "figures") in metrics(steward)

    await wait_until(back, "the figures are back")
    figures = metrics(steward)
    assert figures[series("raw_bytes", "figures")] == made["status"]["artifact"]["rawBytes"]
    assert figures[series("runs_total", "figures", result="complete")] == 0
    await user.delete("ebk", "figures")

    async def gone() -> bool:
        return not any('"figures"' in one for one in metrics(steward))

    await wait_until(gone, "the figures are gone")
    assert (await user.get("esnap", made["metadata"]["name"]))["status"]["phase"] == "Complete"
