"""Standing orders on a real API server: schedules, runs on request, retention, records."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

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
from tests.testbed import ControlPlane, SeaweedFS, wait_until
from tests.testbed.steward import NAMESPACE, Steward

ASK = "etcdsteward.io/requestedAt"


@pytest.fixture(scope="module")
async def steward(
    control_plane: ControlPlane, seaweedfs: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Steward]:
    """The operator, which looks through its stores every few seconds."""
    await installed(control_plane, seaweedfs)
    operator = HastySteward(tmp_path_factory.mktemp("steward"), control_plane)
    operator.timing = {"look_every": 3.0, "look_pace": 1.0, "check_every": 1.0}
    async with operator:
        yield operator


@pytest.fixture
def user(control_plane: ControlPlane, steward: Steward) -> User:  # noqa: ARG001, it must run
    """Somebody with kubectl, beside a running operator."""
    return User(control_plane)


@pytest.fixture
async def name(user: User) -> AsyncIterator[str]:
    """A name for an EtcdBackup, which is gone at the end, and its records with it."""
    name = f"b-{secrets.token_hex(4)}"
    yield name
    where = f"--namespace={NAMESPACE}"
    await user.plane.kubectl("delete", "ebk", name, "--ignore-not-found", where)
    found = [one["metadata"]["name"] for one in await runs_of(user, name)]
    if found:
        await user.plane.kubectl("delete", "esnap", *found, "--ignore-not-found", where)


async def runs_of(user: User, name: str) -> list[Object]:
    return [one for one in await user.all("esnap") if one["spec"]["backupName"] == name]


async def ask(user: User, name: str, value: str) -> None:
    where = f"--namespace={NAMESPACE}"
    await user.plane.kubectl("annotate", "--overwrite", "ebk", name, f"{ASK}={value}", where)


async def asked_for(user: User, name: str, value: str) -> Object:
    """Ask for a run and wait for its end."""
    before = {one["metadata"]["name"] for one in await runs_of(user, name)}
    await ask(user, name, value)
    made: list[str] = []

    async def there() -> bool:
        now = {one["metadata"]["name"] for one in await runs_of(user, name)}
        made[:] = now - before
        return bool(made)

    await wait_until(there, f"a run of {name}", timeout=30)
    return await user.ended(made[0])


async def until(user: User, name: str, what: str, holds: object, timeout: float = 60) -> Object:
    """An EtcdBackup once something holds of it."""
    found: Object = {}

    async def check() -> bool:
        found.clear()
        found.update(await user.get("ebk", name))
        return "status" in found and bool(holds(found))  # type: ignore[operator]

    await wait_until(check, what, timeout=timeout)
    return found


async def manifests(seaweedfs: SeaweedFS, bucket: str) -> set[str]:
    """The folders of all backups in a bucket."""
    objects = await seaweedfs.objects(bucket, "")
    return {key.removesuffix("/manifest.json") for key in objects if key.endswith("/manifest.json")}


def later() -> str:
    """A schedule that does not come true while a test runs."""
    return f"0 0 {(datetime.now(UTC).day + 14) % 28 + 1} * *"


async def test_a_schedule_starts_a_run_at_its_tick(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str
) -> None:
    store = s3_store(seaweedfs, bucket)
    await user.apply(backup(name, {"schedule": "* * * * *", "store": store}))
    order = await until(user, name, "it has a next time", lambda one: next_of(one) is not None)
    tick = next_of(order)
    assert tick is not None
    assert condition(order, "Ready")["status"] == "Unknown"
    assert await runs_of(user, name) == []
    run_name = f"{name}-{int(tick.timestamp())}"
    made = await wait_for_run(user, run_name)
    created = datetime.fromisoformat(made["metadata"]["creationTimestamp"])
    assert (created - tick).total_seconds() <= 2
    ended = await user.ended(run_name)
    assert ended["status"]["phase"] == "Complete"
    assert tick.strftime("%Y%m%dT%H%M%SZ") in ended["status"]["artifact"]["url"]
    order = await until(
        user, name, "it is ready", lambda one: condition(one, "Ready")["status"] == "True"
    )
    assert order["status"]["lastScheduleTime"] == tick.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert order["status"]["lastSuccessfulTime"] == ended["status"]["completionTime"]
    order["spec"]["suspend"] = True
    await user.apply(backup(name, {"schedule": "* * * * *", "suspend": True, "store": store}))
    await until(user, name, "nothing is to come", lambda one: next_of(one) is None)


def next_of(order: Object) -> datetime | None:
    text = order["status"].get("nextScheduleTime")
    return datetime.fromisoformat(text) if text else None


async def wait_for_run(user: User, name: str) -> Object:
    found: list[Object] = []

    async def there() -> bool:
        found[:] = [one for one in await user.all("esnap") if one["metadata"]["name"] == name]
        return bool(found)

    await wait_until(there, f"run {name}", timeout=75)
    return found[0]


async def test_every_column_of_a_standing_order(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str
) -> None:
    schedule = later()
    spec = {
        "schedule": schedule,
        "store": s3_store(seaweedfs, bucket),
        "retention": {"keepLast": 3},
    }
    await user.apply(backup(name, spec))
    done = await asked_for(user, name, "1")
    await until(user, name, "it was looked through", lambda one: one["status"].get("kept") == 1)
    printed = await user.plane.kubectl("get", "ebk", name, f"--namespace={NAMESPACE}")
    head, row = printed.splitlines()
    assert head.split() == [
        "NAME", "TYPE", "SCHEDULE", "SUSPEND", "ACTIVE", "LAST", "VERIFIED", "NEXT", "KEPT",
        "SIZE", "READY", "AGE",
    ]  # fmt: skip
    starts = [head.index(word) for word in head.split()]
    cells = [row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
    shown = dict(zip(head.split(), cells, strict=True))
    order = await user.get("ebk", name)
    assert shown | {"LAST": "", "VERIFIED": "", "AGE": ""} == {
        "NAME": name,
        "TYPE": "Snapshot",
        "SCHEDULE": schedule,
        "SUSPEND": "false",
        "ACTIVE": "0",
        "LAST": "",
        "VERIFIED": "",
        "NEXT": order["status"]["nextScheduleTime"],
        "KEPT": "1",
        "SIZE": done["status"]["artifact"]["size"],
        "READY": "True",
        "AGE": "",
    }
    for ago in ("LAST", "VERIFIED", "AGE"):
        assert shown[ago].rstrip("smh").isdigit()
    assert order["status"]["lastHandledRequestedAt"] == "1"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"schedule": "every night"}, "five fields"),
        ({"schedule": "0 0 31 2 *"}, "day-of-month"),
        ({"schedule": "@daily", "timeZone": "Mars/Olympus"}, "no time zone"),
    ],
)
async def test_a_schedule_that_cannot_be_followed_is_a_condition(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str, spec: Object, says: str
) -> None:
    store = s3_store(seaweedfs, bucket)
    await user.apply(backup(name, {**spec, "store": store}))
    order = await until(user, name, "it says so", lambda one: condition(one, "Ready"))
    ready = condition(order, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSchedule")
    assert says in ready["message"]
    assert await runs_of(user, name) == []
    await user.apply(backup(name, {"schedule": later(), "store": store}))
    await until(
        user, name, "it is mended", lambda one: condition(one, "Ready")["status"] != "False"
    )


async def test_retention_keeps_what_it_says_and_records_follow(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str
) -> None:
    spec = {
        "schedule": later(),
        "store": s3_store(seaweedfs, bucket),
        "retention": {"keepLast": 2},
    }
    await user.apply(backup(name, spec))
    ended = [await asked_for(user, name, str(number)) for number in range(3)]
    urls = [one["status"]["artifact"]["url"] for one in ended]

    async def pruned() -> bool:
        left = {one["metadata"]["name"] for one in await runs_of(user, name)}
        return left == {one["metadata"]["name"] for one in ended[1:]}

    await wait_until(pruned, "the oldest record is gone", timeout=30)
    kept = {f"s3://{bucket}/{folder}" for folder in await manifests(seaweedfs, bucket)}
    assert kept == set(urls[1:])
    order = await until(user, name, "two are kept", lambda one: one["status"].get("kept") == 2)
    assert condition(order, "RetentionFrozen")["status"] == "False"
    for one in await runs_of(user, name):
        assert "last" in one["status"]["kept"]


async def test_records_of_an_emptied_bucket_go(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str
) -> None:
    await user.apply(backup(name, {"store": s3_store(seaweedfs, bucket)}))
    made = await user.run_of(name)
    await user.ended(made["metadata"]["name"])
    await until(user, name, "it was looked through", lambda one: one["status"].get("kept") == 1)
    await seaweedfs.delete_bucket(bucket)
    await seaweedfs.create_bucket(bucket)

    async def gone() -> bool:
        return not await runs_of(user, name)

    await wait_until(gone, "the record is gone", timeout=40)
    order = await until(user, name, "none is kept", lambda one: one["status"].get("kept") == 0)
    assert order["status"]["lastSnapshotName"] == made["metadata"]["name"]


async def test_records_come_back_from_the_store(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str
) -> None:
    order = backup(name, {"schedule": later(), "store": s3_store(seaweedfs, bucket)})
    await user.apply(order)
    before = await asked_for(user, name, "1")
    await user.delete("ebk", name)
    await user.delete("esnap", before["metadata"]["name"])
    assert len(await manifests(seaweedfs, bucket)) == 1
    await user.apply(order)
    record = await user.until(
        (await wait_for_run(user, before["metadata"]["name"]))["metadata"]["name"],
        lambda one: one["status"].get("phase") == "Complete",
    )
    for same in ("artifact", "verification"):
        assert record["status"][same] == before["status"][same]
    assert record["metadata"]["uid"] != before["metadata"]["uid"]
    assert condition(record, "Complete")["status"] == "True"
    assert condition(record, "Verified")["status"] == "True"
    found = await until(user, name, "it counts", lambda one: one["status"].get("kept") == 1)
    assert found["status"]["lastSuccessfulTime"] == record["status"]["completionTime"]
    assert len(await runs_of(user, name)) == 1


async def test_a_retained_backup_outlives_its_record_which_comes_back(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str
) -> None:
    await user.apply(backup(name, {"schedule": later(), "store": s3_store(seaweedfs, bucket)}))
    made = await asked_for(user, name, "1")
    await user.delete("esnap", made["metadata"]["name"])
    back = await wait_for_run(user, made["metadata"]["name"])
    assert back["metadata"]["uid"] != made["metadata"]["uid"]
    assert len(await manifests(seaweedfs, bucket)) == 1


async def test_a_backup_goes_with_its_record_if_that_is_the_policy(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str
) -> None:
    store = s3_store(seaweedfs, bucket)
    spec = {"schedule": later(), "deletionPolicy": "Delete", "store": store}
    await user.apply(backup(name, spec))
    first, second = [await asked_for(user, name, str(number)) for number in range(2)]
    await until(user, name, "both are kept", lambda one: one["status"].get("kept") == 2)
    await user.until(first["metadata"]["name"], lambda one: one["metadata"].get("finalizers"))
    await user.delete("esnap", first["metadata"]["name"])
    assert await manifests(seaweedfs, bucket) == {folder_of(second, bucket)}
    # With the order gone nothing in the store goes any more.
    await user.delete("ebk", name)
    await user.delete("esnap", second["metadata"]["name"])
    assert await manifests(seaweedfs, bucket) == {folder_of(second, bucket)}


def folder_of(one: Object, bucket: str) -> str:
    url: str = one["status"]["artifact"]["url"]
    return url.removeprefix(f"s3://{bucket}/")


async def test_a_namespace_that_goes_takes_nothing_along_and_does_not_hang(
    user: User, seaweedfs: SeaweedFS, bucket: str, namespace: str
) -> None:
    control_plane = user.plane
    tenant = User(control_plane, namespace)
    etcd = control_plane.etcd.address
    assert etcd.ca_file is not None
    assert etcd.client is not None
    await control_plane.kubectl(
        "create", "rolebinding", "steward", "--clusterrole=etcd-steward-secrets",
        f"--serviceaccount={NAMESPACE}:{NAMESPACE}", f"--namespace={namespace}",
    )  # fmt: skip
    keys = {
        "ca.crt": etcd.ca_file.read_text(),
        "tls.crt": etcd.client.cert.read_text(),
        "tls.key": etcd.client.key.read_text(),
    }
    spec = {
        "etcd": {"endpoints": list(etcd.endpoints), "tls": {"secretName": "etcd"}},
        "deletionPolicy": "Delete",
        "store": s3_store(seaweedfs, bucket),
    }
    await tenant.apply(
        secret("s3", seaweedfs.environment(), namespace),
        secret("etcd", keys, namespace),
        backup("mine", spec, namespace),
    )
    made = await tenant.run_of("mine")
    ended = await tenant.ended(made["metadata"]["name"])
    assert ended["status"]["phase"] == "Complete", ended["status"]["message"]
    await control_plane.kubectl("delete", "namespace", namespace, "--timeout=60s", timeout=70)
    await control_plane.kubectl("create", "namespace", namespace)  # for the fixture to delete
    assert await manifests(seaweedfs, bucket) == {folder_of(ended, bucket)}


async def test_only_a_few_failed_runs_are_kept(user: User, seaweedfs: SeaweedFS, name: str) -> None:
    store = s3_store(seaweedfs, "no-such-bucket")
    spec = {"schedule": later(), "failedHistoryLimit": 1, "attempts": 1, "store": store}
    await user.apply(backup(name, spec))
    first = await asked_for(user, name, "1")
    assert first["status"]["phase"] == "Failed"
    second = await asked_for(user, name, "2")

    async def one_left() -> bool:
        left = {one["metadata"]["name"] for one in await runs_of(user, name)}
        return left == {second["metadata"]["name"]}

    await wait_until(one_left, "the older one is gone", timeout=30)
    order = await until(user, name, "it is told", lambda one: condition(one, "StoreAvailable"))
    assert condition(order, "StoreAvailable")["status"] == "False"


async def test_many_runs_wait_for_a_slot(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str
) -> None:
    """Five runs on request of five orders: two at a time, none lost."""
    names = [name, *(f"{name}-{number}" for number in range(4))]
    store = s3_store(seaweedfs, bucket)
    await user.apply(*(backup(one, {"store": store}) for one in names))
    most = 0
    try:
        async with asyncio.timeout(120):
            while True:
                phases = [
                    one["status"].get("phase")
                    for one in await user.all("esnap")
                    if one["spec"]["backupName"] in names and "status" in one
                ]
                most = max(most, phases.count("Running"))
                if phases.count("Complete") == len(names):
                    break
        assert 1 <= most <= 2
    finally:
        for one in names[1:]:
            await user.plane.kubectl("delete", "ebk", one, f"--namespace={NAMESPACE}")


async def test_an_edit_while_a_run_is_under_way_does_not_touch_it(
    user: User, seaweedfs: SeaweedFS, bucket: str, name: str
) -> None:
    store = s3_store(seaweedfs, bucket)
    await user.apply(backup(name, {"schedule": later(), "store": store}))
    await ask(user, name, "1")
    await user.apply(run(f"{name}-by-hand", name))
    edited = s3_store(seaweedfs, bucket, prefix="elsewhere")
    claimed = await user.until(
        f"{name}-by-hand", lambda one: one["status"].get("backupSpec") is not None
    )
    await user.apply(backup(name, {"schedule": "@yearly", "store": edited}))
    prefix = claimed["status"]["backupSpec"]["store"]["s3"]["prefix"]
    ended = await user.ended(f"{name}-by-hand")
    assert ended["status"]["artifact"]["url"].startswith(f"s3://{bucket}/{prefix}/")
    order = await until(
        user,
        name,
        "it follows the new schedule",
        lambda one: (one["status"].get("nextScheduleTime") or "").endswith("-01-01T00:00:00Z"),
    )
    assert json.dumps(order["status"]).count("InvalidSchedule") == 0
