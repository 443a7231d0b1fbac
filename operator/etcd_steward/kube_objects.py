"""Objects of any kind through the API server: what it serves, what is there, and writing it.

A restore meets types that nobody here has heard of. So the API server is asked what it serves
(discovery), and objects go in and out as they are: JSON that nobody interprets, or the bytes that
etcd holds, which for built-in types are the very protobuf that the API server takes as a body.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, TypedDict, Unpack

from etcd_steward import kube_discovery
from etcd_steward.deadline import Deadline
from etcd_steward.errors import (
    NotFound,
    StewardError,
)
from etcd_steward.kube_client import Answer, Client, Conflict, Object, error_of, object_of
from etcd_steward.kube_discovery import ApiResource, Served

JSON: Final = "application/json"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
TIMEOUT: Final = 60.0
"""Seconds for one request: what the API server allows itself, webhooks of up to 30 s included."""
PATIENCE: Final = 120.0
"""Seconds that one request waits in all while the API server answers 429."""
PAGE: Final = 100
"""Objects of a list at a time: with values of 1.5 MB each, more would be no page any more."""
METADATA_PAGE: Final = 1000
_METADATA: Final = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST: Final = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Propagation = Literal["Background", "Foreground", "Orphan"]


Verdict = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Admission:
    """What a dry run says of an object."""

    verdict: Verdict
    """`unknown`: it could not be asked, for example since a webhook has side effects."""
    message: str = ""


class _Parts(TypedDict, total=False):
    body: Object | bytes | None
    query: Sequence[tuple[str, str]]
    content_type: str
    accept: str


class ApiServer:
    """One API server, whatever it serves. A 429 is waited out for up to `PATIENCE` seconds.

    Every method raises `Unavailable`, `Untrusted`, `Unauthorized`, `Throttled`, and `InvalidInput`
    for what the API server finds fault with.
    """

    def __init__(self, client: Client, address: str = "") -> None:
        """On a client that whoever made it closes. `address` is a name for messages."""
        self._client = client
        self._quiet_until = 0.0
        self._sent_away = asyncio.Lock()
        self.address: Final = address or client.address

    async def trouble(self, within: float = 5.0) -> StewardError | None:
        """What stands in the way if it does not answer us in so many seconds; None if it does."""
        try:
            answer = await self._client.request("GET", "/version", timeout=within)
        except StewardError as error:
            return error
        return error_of(answer, "the API server's version") if answer.status >= 400 else None

    async def version(self) -> str:
        """Of Kubernetes: `v1.35.4`."""
        found = await self._ask("GET", "/version", what="the API server's version")
        return str(object_of(found)["gitVersion"])

    async def kube_system_uid(self) -> str:
        """Which cluster this is, as far as its data goes: uid of the Namespace kube-system."""
        path = "/api/v1/namespaces/kube-system"
        answer = await self._ask("GET", path, accept=_METADATA, what="namespaces kube-system")
        return str(object_of(answer)["metadata"]["uid"])

    async def served(self) -> Served:
        """Every type and version. Raises `Unsupported` before Kubernetes 1.27."""
        answers = [
            await self._ask("GET", root, accept=kube_discovery.ACCEPT, what="what is served")
            for root in ("/api", "/apis")
        ]
        return kube_discovery.served(*map(object_of, answers))

    async def get(
        self,
        resource: ApiResource,
        namespace: str | None,
        name: str,
        *,
        metadata_only: bool = False,
        managed_fields: bool = False,
        resource_version: str | None = None,
    ) -> Object:
        """An object, with managedFields only if they are asked for. Raises `NotFound`.

        `resource_version="0"`: as the API server's cache has it, and not etcd.
        """
        answer = await self._ask(
            "GET",
            resource.path(namespace, name),
            query=_query(resourceVersion=resource_version),
            accept=_METADATA if metadata_only else JSON,
            what=resource.label(namespace, name),
        )
        return object_of(answer, managed_fields=managed_fields)

    async def objects(
        self,
        resource: ApiResource,
        namespace: str | None = None,
        *,
        metadata_only: bool = False,
        label_selector: str | None = None,
        resource_version: str | None = None,
    ) -> AsyncIterator[Object]:
        """All objects of a namespace, or of all, without managedFields; paged, so any number.

        Items have no `kind` and `apiVersion` of their own, as the API server leaves them out.
        """
        page = METADATA_PAGE if metadata_only else PAGE
        selected = {"labelSelector": label_selector, "limit": str(page)}
        query = _query(**selected, resourceVersion=resource_version)
        while True:
            answer = await self._ask(
                "GET",
                resource.path(namespace),
                query=query,
                accept=_METADATA_LIST if metadata_only else JSON,
                what=f"the list of {resource.name}",
            )
            found = object_of(answer)
            for item in found["items"] or ():  # null where there are none
                yield item
            token = found["metadata"].get("continue")
            if not token:
                return
            query = _query(**selected, **{"continue": token})

    async def create(
        self,
        resource: ApiResource,
        namespace: str | None,
        body: Object | bytes,
        *,
        what: str,
        manager: str | None = None,
    ) -> Object:
        """Create an object, and return it. Raises `AlreadyExists`.

        Bytes are a protobuf body, as etcd holds it. `what` names it in errors, and `manager` is who
        wrote its fields, as managedFields say from then on (up to 128 characters).
        """
        answer = await self._ask(
            "POST",
            resource.path(namespace),
            query=_query(fieldManager=manager),
            body=body,
            content_type=_type_of(body),
            what=what,
        )
        return object_of(answer)

    async def admits(
        self, resource: ApiResource, namespace: str | None, body: Object | bytes, *, what: str
    ) -> Admission:
        """Ask by a dry run of its creation whether an object would be taken.

        `no` is a refusal in so many words: a webhook, a policy, a quota, validation. `unknown`: a
        webhook does not know dry runs or does not answer, or the namespace is not there yet.
        """
        answer = await self._asked(
            "POST",
            resource.path(namespace),
            body=body,
            content_type=_type_of(body),
            query=_query(dryRun="All"),
        )
        if answer.status < 400:
            return Admission("yes")
        message, reason = answer.words
        if answer.status == 409 and reason == "AlreadyExists":  # it is asked after admission
            return Admission("yes")
        if answer.status in {401, 404} or answer.status >= 500 or _NO_DRY_RUN in message:
            return Admission("unknown", message)
        if answer.status == 429:
            raise error_of(answer, what)
        return Admission("no", message)

    async def replace(
        self,
        resource: ApiResource,
        namespace: str | None,
        name: str,
        body: Object | bytes,
        *,
        manager: str | None = None,
    ) -> Object:
        """Replace an object, and return it. Raises `NotFound`, `Conflict`.

        With `metadata.uid` and `metadata.resourceVersion` in it, it is replaced only if it is still
        that one in that version.
        """
        answer = await self._ask(
            "PUT",
            resource.path(namespace, name),
            query=_query(fieldManager=manager),
            body=body,
            content_type=_type_of(body),
            what=resource.label(namespace, name),
        )
        return object_of(answer)

    async def touch(
        self, resource: ApiResource, namespace: str | None, name: str, uid: str
    ) -> None:
        """Have the API server write an object anew as it is.

        It does so only where its encoding, its version or its encryption key is an old one; see
        `GuaranteedUpdate` in k8s.io/apiserver/pkg/storage/etcd3/store.go. A writer that is faster
        has done the same, so a conflict is no error. Raises `NotFound`, also if the object of that
        name has another uid.

        In protobuf, where there is that: a ControllerRevision's data may not change by a space.
        """
        path, what = resource.path(namespace, name), resource.label(namespace, name)
        found = await self._ask("GET", path, accept=f"{PROTOBUF}, {JSON}", what=what)
        if uid.encode() not in found.body:  # both encodings have it as it is
            raise NotFound(f"{what} is another one by now")
        proto = found.body.startswith(_PROTOBUF_MAGIC)
        body = found.body if proto else object_of(found, managed_fields=True)
        with contextlib.suppress(Conflict):
            await self._ask(
                "PUT",
                path,
                body=body,
                content_type=_type_of(body),
                accept=_METADATA,
                what=what,
            )

    async def patch(
        self,
        resource: ApiResource,
        namespace: str | None,
        name: str,
        change: Object,
        *,
        subresource: str = "",
        manager: str | None = None,
    ) -> Object:
        """Merge `change` into an object (RFC 7386) or its status, and return it.

        `metadata.resourceVersion` in it pins the version. Raises `NotFound`, `Conflict`.
        """
        answer = await self._ask(
            "PATCH",
            resource.path(namespace, name, subresource),
            query=_query(fieldManager=manager),
            body=change,
            content_type="application/merge-patch+json",
            what=resource.label(namespace, name),
        )
        return object_of(answer)

    async def delete(
        self,
        resource: ApiResource,
        namespace: str | None,
        name: str,
        *,
        uid: str,
        resource_version: str | None = None,
        propagation: Propagation = "Background",
    ) -> None:
        """Delete the object of that name, uid and, if given, version.

        Returns when that is under way: finalizers may hold it. Raises `NotFound` if the object of
        that name is gone or another one, `Conflict` if it has another version.
        """
        what = resource.label(namespace, name)
        conditions = {"uid": uid}
        if resource_version is not None:
            conditions["resourceVersion"] = resource_version
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": conditions,
            "propagationPolicy": propagation,
        }
        path = resource.path(namespace, name)
        answer = await self._asked("DELETE", path, body=body, accept=_METADATA)
        if answer.status == 409 and "uid" in answer.words[0].lower():
            raise NotFound(f"{what} is another one by now")
        if answer.status >= 400:
            raise error_of(answer, f"the deletion of {what}")

    @asynccontextmanager
    async def each(self) -> AsyncIterator[tuple["ApiServer", ...]]:
        """Every API server of the cluster, asked directly: by EndpointSlice `default/kubernetes`.

        That is where each API server announces itself (pkg/controlplane/reconcilers). Where none
        is announced, this one alone. Whether each can be reached from here, `trouble` says: from
        outside of the cluster they often can't.
        """
        async with AsyncExitStack() as opened:
            servers = []
            for address in await self._announced():
                client = self._client.at(address)
                opened.push_async_callback(client.aclose)
                servers.append(ApiServer(client))
            yield tuple(servers) or (self,)

    async def _announced(self) -> list[str]:
        answer = await self._ask(
            "GET",
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            query=_query(labelSelector="kubernetes.io/service-name=kubernetes"),
            what="the EndpointSlices of Service default/kubernetes",
        )
        return sorted({url for one in object_of(answer)["items"] or () for url in _addresses(one)})

    async def _ask(self, method: str, path: str, *, what: str, **parts: Unpack[_Parts]) -> Answer:
        """A good answer; else what is wrong with it, raised."""
        answer = await self._asked(method, path, **parts)
        if answer.status >= 400:
            raise error_of(answer, what)
        return answer

    async def _asked(self, method: str, path: str, **parts: Unpack[_Parts]) -> Answer:
        """An answer that is not 429, unless patience ends.

        One that is asked to wait holds the others back, too: they share a queue of the API server
        (API priority and fairness), and asking on would only keep it full. Those that were sent
        away come again one by one.
        """
        patience = Deadline.after(PATIENCE)
        answer = await self._sent(method, path, **parts)
        if answer.status != 429:
            return answer
        async with self._sent_away:
            while answer.status == 429 and patience.left() >= max(1.0, answer.retry_after):
                answer = await self._sent(method, path, **parts)
        return answer

    async def _sent(self, method: str, path: str, **parts: Unpack[_Parts]) -> Answer:
        """Any answer, once nobody is asked to wait any more."""
        await asyncio.sleep(self._quiet_until - time.monotonic())
        answer = await self._client.request(method, path, timeout=TIMEOUT, **parts)
        if answer.status == 429:
            wait = max(1.0, answer.retry_after)
            self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
        return answer


_PROTOBUF_MAGIC: Final = b"k8s\0"
_NO_DRY_RUN: Final = "does not support dry run"
"""Of k8s.io/apiserver/pkg/admission/plugin/webhook/errors: NewDryRunUnsupportedErr."""


def _type_of(body: Object | bytes) -> str:
    return PROTOBUF if isinstance(body, bytes) else JSON


def _query(**parts: str | None) -> Sequence[tuple[str, str]]:
    return [(name, value) for name, value in parts.items() if value is not None]


def _addresses(endpoint_slice: Object) -> Iterator[str]:
    """`https://…` of all endpoints; an IPv6 address stands in brackets."""
    ports = [port["port"] for port in endpoint_slice.get("ports") or ()]
    for endpoint in endpoint_slice.get("endpoints") or ():
        for address in endpoint["addresses"]:
            for port in ports:
                host = f"[{address}]" if ":" in address else address
                yield f"https://{host}:{port}"
