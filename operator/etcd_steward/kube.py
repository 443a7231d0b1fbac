"""What the operator asks of the API server about its own objects, and a few others.

Objects go in and out as the JSON that the API server speaks: our own kinds have models, and of the
rest only Secrets are read.
"""

import base64
import binascii
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from etcd_steward.errors import InvalidInput, NotFound, Unauthorized
from etcd_steward.kube_client import Client, Conflict, Object
from etcd_steward.models.kinds import API_VERSION, GROUP, VERSION

PAGE = 500
CONFLICTS = 5
"""So often in a row somebody else may be faster than a write of ours."""
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
BACKUPS = "etcdbackups"
SNAPSHOTS = "etcdsnapshots"
RESTORES = "etcdrestores"
MAINTENANCES = "etcdmaintenances"
LEASES = "coordination.k8s.io/v1"


class Key(NamedTuple):
    """Which object of a kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Version(NamedTuple):
    """Which incarnation of an object, and how new."""

    uid: str
    resource_version: int


def version_of(found: Mapping[str, Any]) -> Version:
    """Incarnation and version of an object."""
    return Version(found["metadata"]["uid"], int(found["metadata"]["resourceVersion"]))


@dataclass(frozen=True, slots=True)
class Secret:
    """A Secret's decoded values, with errors that name both the Secret and the key."""

    where: Key
    data: Mapping[str, str] = field(repr=False)

    def get(self, key: str) -> str | None:
        """One value as text, if it is there."""
        encoded = self.data.get(key)
        if encoded is None:
            return None
        try:
            return base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidInput(f"key {key} of Secret {self.where} is not text") from error

    def need(self, key: str) -> str:
        """One value as text. Raises `NotFound`, naming what is there instead.

        Raises `InvalidInput` for one that is blank: to a library that means that nothing was given,
        and it would look for credentials of the operator's own.
        """
        value = self.get(key)
        if value is None:
            present = ", ".join(sorted(self.data)) or "none"
            raise NotFound(
                f"Secret {self.where} has no key {key} (its keys: {present})",
                hint=f"Add {key} to it",
            )
        if not value.strip():
            raise InvalidInput(f"key {key} of Secret {self.where} is empty", hint="Give it a value")
        return value

    def need_line(self, key: str) -> str:
        """One value as a line of text, for what goes into headers. Raises as `need` does."""
        value = self.need(key)
        if any(character < " " or character == "\x7f" for character in value):
            raise InvalidInput(
                f"key {key} of Secret {self.where} holds a control character",
                hint="Is there a line feed at its end? `printf %s`, unlike `echo`, adds none",
            )
        return value


class Kube(Client):
    """One API server."""

    async def secret(self, where: Key) -> Secret:
        """A Secret. `NotFound` and `Unauthorized` say what to do."""
        path = f"/api/v1/namespaces/{where.namespace}/secrets/{quote(where.name)}"
        try:
            found = await self.call("GET", path, what=f"Secret {where}")
        except NotFound as error:
            raise NotFound(f"there is no Secret {where}", hint="Create it") from error
        except Unauthorized as error:
            raise Unauthorized(
                f"the operator may not read Secret {where}",
                hint=f"Bind ClusterRole etcd-steward-secrets to the operator's ServiceAccount by "
                f"a RoleBinding in namespace {where.namespace}",
            ) from error
        return Secret(where, found.get("data") or {})

    async def get(self, plural: str, where: Key) -> Object:
        """One of our objects."""
        return await self.call("GET", _path(plural, where), what=f"{plural} {where}")

    async def patch_status(
        self,
        plural: str,
        where: Key,
        version: Version,
        status: Object,
        *,
        overtaken: Callable[[Object], None] = lambda _: None,
    ) -> Version:
        """Merge `status` into an object's status (RFC 7386: None removes a field).

        `overtaken` is shown the object as somebody else has changed it since `version`, before
        this is written over it; it may raise. Raises `NotFound` too if the object of that name is
        another one by now: the API server ignores a `metadata.uid` in a patch of a status, so the
        version is what pins it.
        """
        tries = 0
        while True:
            pinned = {"resourceVersion": str(version.resource_version)}
            try:
                found = await self.call(
                    "PATCH",
                    f"{_path(plural, where)}/status",
                    body={"metadata": pinned, "status": status},
                    content_type="application/merge-patch+json",
                    what=f"the status of {plural} {where}",
                )
                return version_of(found)
            except Conflict:
                tries += 1
                if tries == CONFLICTS:
                    raise
            newer = await self.get(plural, where)
            if version_of(newer).uid != version.uid:
                raise NotFound(f"{plural} {where} is another one by now")
            overtaken(newer)
            version = version_of(newer)

    async def create(self, plural: str, body: Object) -> Object:
        """Create one of our objects. Raises `AlreadyExists`."""
        namespace = body["metadata"]["namespace"]
        return await self.call(
            "POST",
            f"/apis/{API_VERSION}/namespaces/{namespace}/{plural}",
            body={"apiVersion": API_VERSION, **body},
            what=f"{plural} {namespace}/{body['metadata']['name']}",
        )

    async def delete(self, plural: str, where: Key, version: Version) -> None:
        """Delete one of our objects, if it is still this one. Raises `NotFound` if it is not."""
        try:
            await self.call(
                "DELETE",
                _path(plural, where),
                body={"kind": "DeleteOptions", "preconditions": {"uid": version.uid}},
                what=f"the deletion of {plural} {where}",
            )
        except Conflict as error:
            raise NotFound(f"{plural} {where} is another one by now") from error

    async def is_going(self, namespace: str) -> bool:
        """Whether a namespace, or one of our CRDs, is being deleted, and all in it by that."""
        paths = [f"/api/v1/namespaces/{quote(namespace)}"] + [
            f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{GROUP}"
            for plural in (BACKUPS, SNAPSHOTS)
        ]
        for path in paths:
            try:
                found = await self.call("GET", path, what=path)
            except NotFound:
                return True
            if "deletionTimestamp" in found["metadata"]:
                return True
        return False

    async def release(self, plural: str, finalizer: str) -> None:
        """Take our finalizer from all objects of a kind that has one.

        Raises `NotFound` if there is no such kind any more.
        """
        path = f"/apis/{API_VERSION}/{plural}"
        found = await self.call("GET", path, accept=METADATA_ONLY, what=f"the list of {plural}")
        for item in found["items"] or ():
            meta = item["metadata"]
            held = meta.get("finalizers", [])
            if finalizer not in held:
                continue
            with contextlib.suppress(NotFound):
                await self.call(
                    "PATCH",
                    _path(plural, Key(meta["namespace"], meta["name"])),
                    body={"metadata": {"finalizers": [one for one in held if one != finalizer]}},
                    content_type="application/merge-patch+json",
                    what=f"the finalizers of {plural} {meta['namespace']}/{meta['name']}",
                )

    async def lease(self, where: Key) -> Object:
        """A Lease, as etcd has it. Raises `NotFound`."""
        return await self.call(
            "GET", f"{_leases(where)}/{quote(where.name)}", what=f"Lease {where}"
        )

    async def create_lease(self, where: Key, spec: Object) -> Object:
        """Create a Lease. Raises `AlreadyExists`, and `NotFound` if there is no such namespace."""
        meta = {"namespace": where.namespace, "name": where.name}
        body = {"apiVersion": LEASES, "kind": "Lease", "metadata": meta, "spec": spec}
        return await self.call("POST", _leases(where), body=body, what=f"Lease {where}")

    async def update_lease(self, where: Key, found: Object, spec: Object) -> Object:
        """Replace a Lease's spec, if it is still as it was `found`; else `Unavailable`."""
        body = {**found, "apiVersion": LEASES, "kind": "Lease", "spec": spec}
        path = f"{_leases(where)}/{quote(where.name)}"
        return await self.call("PUT", path, body=body, what=f"Lease {where}")

    async def ping(self) -> None:
        """Raise what stands in the way if the API server does not answer us."""
        await self.call("GET", "/version", what="the API server's version")

    async def versions(self, plural: str) -> dict[Key, Version]:
        """Which of our objects exist in which version, from the API server's own memory.

        Metadata only and `resourceVersion=0`: etcd is not asked.
        """
        found: dict[Key, Version] = {}
        query = [("resourceVersion", "0"), ("limit", str(PAGE))]
        while True:
            page = await self.call(
                "GET",
                f"/apis/{GROUP}/{VERSION}/{plural}",
                query=query,
                accept=METADATA_ONLY,
                what=f"the list of {plural}",
            )
            for item in page["items"] or ():  # null where there are none
                meta = item["metadata"]
                found[Key(meta["namespace"], meta["name"])] = Version(
                    meta["uid"], int(meta["resourceVersion"])
                )
            token = page["metadata"].get("continue")
            if not token:
                return found
            query = [("limit", str(PAGE)), ("continue", token)]


def _path(plural: str, where: Key) -> str:
    return f"/apis/{API_VERSION}/namespaces/{where.namespace}/{plural}/{quote(where.name)}"


def _leases(where: Key) -> str:
    return f"/apis/{LEASES}/namespaces/{where.namespace}/leases"
