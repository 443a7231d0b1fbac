"""Kubernetes' built-in types, proven on Kubernetes' own samples and against a live API server."""

import asyncio
import dataclasses
import json
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from etcd_steward.etcd.stubs import PutRequest, RangeRequest
from etcd_steward.models.registry import KeyPath, Record
from etcd_steward.registry import builtin, envelope, objectmeta, paths
from etcd_steward.registry.builtin.printing import printed
from etcd_steward.registry.decode import decode
from tests.support.awkward import GROUP as AWKWARD
from tests.support.awkward import awkward
from tests.testbed import ControlPlane, EtcdCluster
from tests.testbed.binaries import kubernetes_types
from tests.testbed.etcd import EtcdCluster as Etcd
from tests.testbed.rpc import connected
from tests.testbed.seed import GROUP, NAMESPACES, seed

Object = dict[str, Any]


@pytest.fixture(scope="module")
async def samples() -> Path:
    """Kubernetes' own testdata: every type with every field set."""
    return await kubernetes_types() / "testdata"


def test_our_data_is_made_of_the_pinned_sources() -> None:
    generator = Path(__file__).parents[2] / "tools/generate_builtin_types.py"
    run = subprocess.run(
        [sys.executable, generator, "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


# Kubernetes' samples ----------------------------------------------------------------------------


def _of(folder: Path) -> Iterator[tuple[str, bytes, Object]]:
    """Name, stored value and JSON of every sample, as this version prints it."""
    for path in sorted(folder.glob("*.pb")):
        name = path.name.removesuffix(".pb")
        if not name.endswith(".after_roundtrip"):
            wanted = folder / f"{name}.after_roundtrip.json"
            text = wanted if wanted.exists() else folder / f"{name}.json"
            yield name, path.read_bytes(), json.loads(text.read_bytes())


def test_every_sample_of_this_version_decodes_to_its_json(samples: Path) -> None:
    seen = 0
    for name, value, expected in _of(samples / "HEAD"):
        seen += 1
        if name == "core.v1.WatchEvent":  # of no kind, since it is never stored by itself
            kind = builtin.type_of("v1", "WatchEvent")
            assert kind is not None
            assert printed(kind.FromString(envelope.open_envelope(value).body)) == expected
            continue
        decoded = decode(value)
        assert decoded.object == expected, name
        assert decoded.notes == (), name
        head = ("protobuf", expected["apiVersion"], expected["kind"])
        assert envelope.header(value)[:3] == head, name
    assert seen > 150


@pytest.mark.parametrize("version", ["v1.33.0", "v1.34.0"])
def test_samples_of_older_versions_decode_as_this_version_prints_them(
    samples: Path, version: str
) -> None:
    """Fields and types that were dropped since are what a newer version's would be: unknown."""
    seen = 0
    for name, value, expected in _of(samples / version):
        _, api_version, kind, _ = envelope.header(value)
        if api_version and kind and builtin.type_of(api_version, kind):
            assert decode(value).object == expected, name
            seen += 1
    assert seen > 150


def test_new_metadata_leaves_the_rest_of_every_sample_as_it_was(samples: Path) -> None:
    for name, value, expected in _of(samples / "HEAD"):
        if "uid" not in expected.get("metadata", {}):
            continue
        (owner,) = objectmeta.read(value).owner_references
        other = dataclasses.replace(owner, name="other", controller=None)
        changed = objectmeta.rewrite(
            value,
            lambda meta, owner=owner, other=other: dataclasses.replace(  # type: ignore[misc]
                meta,
                labels={"a": "ä", **meta.labels},
                deletion_timestamp=None,
                deletion_grace_period_seconds=None,
                finalizers=(),
                owner_references=(other, owner),
            ),
        )
        meta = expected["metadata"]
        meta["labels"]["a"] = "ä"
        meta["ownerReferences"].insert(0, {**meta["ownerReferences"][0], "name": "other"})
        del meta["ownerReferences"][0]["controller"]
        for gone in ("deletionTimestamp", "deletionGracePeriodSeconds", "finalizers"):
            del meta[gone]
        assert decode(changed).object == expected, name
        before = objectmeta.read(value)
        assert objectmeta.rewrite(changed, lambda _, before=before: before) == value, name  # type: ignore[misc]


# A live API server ------------------------------------------------------------------------------


class Api:
    """GET of JSON from an API server."""

    def __init__(self, kubernetes: ControlPlane, session: aiohttp.ClientSession) -> None:
        self._kubernetes = kubernetes
        self._session = session

    async def get(self, path: str) -> Object:
        while True:
            async with self._session.get(self._kubernetes.url + path) as answer:
                if answer.status != 429:  # "storage is (re)initializing", of a new CRD
                    assert answer.status == 200, await answer.text()
                    found: Object = await answer.json()
                    return found
                await asyncio.sleep(0.1)

    async def api_versions(self) -> list[tuple[str, str, str]]:
        """Group, apiVersion and path of all that is served."""
        found = [("", "v1", "/api/v1")]
        for group in (await self.get("/apis"))["groups"]:
            for version in group["versions"]:
                name = version["groupVersion"]
                found.append((group["name"], name, f"/apis/{name}"))
        return found

    async def everything(self) -> dict[tuple[KeyPath, str], Object]:
        """Every object that can be listed, at every version that is served."""
        found: dict[tuple[KeyPath, str], Object] = {}
        for group, api_version, path in await self.api_versions():
            for resource in (await self.get(path))["resources"]:
                name = resource["name"]
                if "/" in name or "list" not in resource["verbs"] or name == "componentstatuses":
                    continue
                for item in (await self.get(f"{path}/{name}"))["items"] or ():
                    meta = item["metadata"]
                    place = KeyPath(name, group, meta.get("namespace"), meta["name"])
                    item |= {"apiVersion": api_version, "kind": resource["kind"]}
                    found[place, api_version] = item
        return found


async def connect(kubernetes: ControlPlane) -> AsyncIterator[Api]:
    trust = ssl.create_default_context(cafile=str(kubernetes.ca_file))
    headers = {"Authorization": f"Bearer {kubernetes.token}"}
    connector = aiohttp.TCPConnector(ssl=trust)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        yield Api(kubernetes, session)


async def stored(etcd: Etcd) -> list[Record]:
    """All of the registry."""
    async with connected(etcd) as connection:
        request = RangeRequest(key=b"/registry/", range_end=b"/registry0")
        answer = await connection.kv.Range(request, metadata=connection.metadata)
        return [
            Record(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
            for kv in answer.kvs
        ]


async def test_every_object_of_a_seeded_cluster_is_what_its_api_server_prints(
    control_plane: ControlPlane, namespace: str
) -> None:
    """Objects change under our eyes: each is compared where revision and resourceVersion agree."""
    await seed(control_plane)
    odd = {"apiVersion": "v1", "kind": "List", "items": awkward(namespace)}
    await control_plane.kubectl("create", "-f", "-", stdin=json.dumps(odd))
    proven: set[bytes] = set()
    kinds: set[str] = set()
    deadline = time.monotonic() + 120
    async for api in connect(control_plane):
        while True:
            served = await api.everything()
            records = await stored(control_plane.etcd)
            found = {_settled(record) for record in records}
            for record in records:
                kind = _proven(record, served)
                if kind is not None:
                    proven.add(record.key)
                    kinds.add(kind)
            left = {record.key for record in records} - proven
            absent = {path for path, _ in served if path.api_group != "events.k8s.io"} - found
            if not left and not absent:
                break
            assert time.monotonic() < deadline, (left, absent)
    await control_plane.kubectl("delete", "crd", f"oddities.{AWKWARD}")
    assert len(proven) > 600
    assert {
        *("Pod", "Deployment", "Service", "Endpoints", "Ingress", "Event", "Lease", "FlowSchema"),
        *("Widget", "Region", "CustomResourceDefinition", "APIService"),
    } <= kinds
    assert {path.namespace for path in found if path} >= {*NAMESPACES, namespace}


def _proven(record: Record, served: dict[tuple[KeyPath, str], Object]) -> str | None:
    """The kind of a value that was compared; None where the API server's answer is newer."""
    path = _settled(record)
    if path is None:
        assert paths.other(record.key) != "no known layout", record.key
        return ""
    decoded = decode(record.value)
    item = served.get((path, decoded.object["apiVersion"]))
    if item is None or item["metadata"]["resourceVersion"] != str(record.mod_revision):
        return None
    expected: Object = {**item, "metadata": {**item["metadata"]}}
    del expected["metadata"]["resourceVersion"]
    assert decoded.object == expected, record.key
    assert decoded.notes == (), record.key
    _same_metadata(record.value, expected["metadata"])
    return str(expected["kind"])


def _settled(record: Record) -> KeyPath | None:
    path = paths.parse(record.key)
    _, api_version, kind, _ = envelope.header(record.value)
    return paths.settle(path, api_version, kind) if path else None


def _same_metadata(value: bytes, expected: Object) -> None:
    meta = objectmeta.read(value)
    assert envelope.header(value)[3] == envelope.uid_of(value) == expected["uid"]
    assert (meta.name, meta.namespace, meta.uid) == (
        expected["name"],
        expected.get("namespace", ""),
        expected["uid"],
    )
    assert meta.labels == expected.get("labels", {}) == objectmeta.labels(value)
    assert [owner.uid for owner in meta.owner_references] == [
        owner["uid"] for owner in expected.get("ownerReferences", ())
    ]
    assert [manager.name for manager in meta.managers] == [
        manager["manager"] for manager in expected.get("managedFields", ())
    ]


@pytest.fixture(scope="module")
async def with_cbor(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """An API server that stores custom resources as CBOR."""
    directory = tmp_path_factory.mktemp("cbor")
    flags = {"feature-gates": "CBORServingAndStorage=true"}
    async with (
        EtcdCluster(directory / "etcd") as etcd,
        ControlPlane(directory / "kubernetes", etcd, controllers=False, flags=flags) as kubernetes,
    ):
        yield kubernetes


WIDGET = {
    "apiVersion": f"{GROUP}/v1",
    "kind": "Widget",
    "metadata": {"name": "one", "namespace": "default", "finalizers": ["etcdsteward.io/test"]},
    "spec": {"size": 70000, "note": "ünïcode"},
}


REWRITTEN = {
    f"/registry/{GROUP}/widgets/default/one": f"/apis/{GROUP}/v1/namespaces/default/widgets/one",
    "/registry/configmaps/shop/settings-1": "/api/v1/namespaces/shop/configmaps/settings-1",
    f"/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.{GROUP}": (
        f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.{GROUP}"
    ),
}


async def test_new_metadata_is_what_the_api_server_reads(with_cbor: ControlPlane) -> None:
    """Protobuf, JSON and CBOR, written by an API server, rewritten here, read by it again."""
    await seed(with_cbor)
    await with_cbor.kubectl("apply", "-f", "-", stdin=json.dumps(WIDGET))
    encodings = {}
    async for api in connect(with_cbor):
        for key, path in REWRITTEN.items():
            expected = await api.get(path)
            (record,) = [r for r in await stored(with_cbor.etcd) if r.key == key.encode()]
            encodings[key] = envelope.header(record.value)[0]
            del expected["metadata"]["resourceVersion"]
            assert decode(record.value).object == expected
            value = objectmeta.rewrite(
                record.value,
                lambda meta: dataclasses.replace(
                    meta,
                    finalizers=(),
                    generation=7,
                    annotations={**meta.annotations, "etcdsteward.io/test": "ja, größer"},
                ),
            )
            async with connected(with_cbor.etcd) as connection:
                request = PutRequest(key=key.encode(), value=value)
                await connection.kv.Put(request, metadata=connection.metadata)
            read = await api.get(path)
            expected["metadata"].pop("finalizers", None)
            expected["metadata"]["generation"] = 7
            annotations = expected["metadata"].setdefault("annotations", {})
            annotations["etcdsteward.io/test"] = "ja, größer"
            del read["metadata"]["resourceVersion"]
            assert read == expected
            before = objectmeta.read(record.value)
            if "generation" in json.dumps(decode(record.value).object["metadata"]):
                back = objectmeta.rewrite(value, lambda _, before=before: before)  # type: ignore[misc]
                assert decode(back).object == decode(record.value).object
    assert sorted(encodings.values()) == ["cbor", "json", "protobuf"]
