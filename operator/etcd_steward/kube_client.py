"""Requests to an API server, and what its answers and failures mean.

The only module that knows the `kubernetes` client (its asyncio half). Plain requests through the
client's own authentication are used rather than its generated methods, which know neither
metadata-only lists nor types that came after them.
"""

import asyncio
import copy
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTResponse
from pydantic import SecretStr

from etcd_steward.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    OutOfSpace,
    StewardError,
    Throttled,
    Unauthorized,
    Unavailable,
    Untrusted,
)

REQUEST_TIMEOUT = 10.0
"""Seconds for one request: few of ours are large. It bounds what a stalled connection costs."""

Object = dict[str, Any]


class Conflict(Unavailable):
    """Somebody else has changed the object meanwhile."""


class Answer(NamedTuple):
    """Of the API server, good or bad."""

    status: int
    body: bytes
    retry_after: float = 0.0
    """Seconds that it asks us to wait; 0 where it does not."""

    @property
    def words(self) -> tuple[str, str]:
        """Message and reason of a `Status`."""
        try:
            said = json.loads(self.body)
            return str(said.get("message", "")), str(said.get("reason", ""))
        except (ValueError, AttributeError):
            return self.body[:200].decode(errors="replace"), ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach the API server and who we are, as of now: tokens are renewed."""

    server: str
    ca_file: str | None
    ca_data: str | bytes | None
    insecure: bool
    cert_file: str | None
    key_file: str | None
    token: SecretStr | None = field(repr=False)


class Client:
    """Our connections to one API server."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._client = ApiClient(configuration)

    @classmethod
    async def connect(cls, kubeconfig: Path | None) -> Self:
        """Read the settings: the file given, or the pod's own, or those that kubectl would find.

        Sends nothing yet. Raises `InvalidInput` if there are none.
        """
        configuration = Configuration()
        try:
            if kubeconfig is None:
                await _load_default(configuration)
            else:
                await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=str(kubeconfig), client_configuration=configuration
                )
        except (kubernetes_config.ConfigException, OSError) as error:
            raise InvalidInput(
                f"no way to reach a Kubernetes API server is configured: {error}",
                hint="Name a kubeconfig with --kubeconfig or KUBECONFIG",
            ) from error
        return cls(configuration)

    @property
    def address(self) -> str:
        """`https://…`, as it was configured."""
        return str(self._configuration.host)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def credentials(self) -> Credentials:
        """What another client (kopf's) needs to do the same; a stale token is read again."""
        configuration = self._configuration
        auth = await configuration.auth_settings()
        header = auth["BearerToken"]["value"] if "BearerToken" in auth else None
        return Credentials(
            server=configuration.host,
            ca_file=configuration.ssl_ca_cert,
            ca_data=configuration.ca_cert_data,
            insecure=not configuration.verify_ssl,
            cert_file=configuration.cert_file,
            key_file=configuration.key_file,
            token=SecretStr(header.partition(" ")[2]) if header else None,  # `Bearer` or `bearer`
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        body: Object | None = None,
        query: Sequence[tuple[str, str]] = (),
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Object:
        """Send one request, and return the object of the answer. Raises what `error_of` finds."""
        answer = await self.request(
            method, path, body=body, query=query, content_type=content_type, accept=accept
        )
        if answer.status >= 400:
            raise error_of(answer, what)
        return object_of(answer)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Object | bytes | None = None,
        query: Sequence[tuple[str, str]] = (),
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = REQUEST_TIMEOUT,
    ) -> Answer:
        """Send one request, and return the answer whatever it says: `error_of` reads a bad one.

        Bytes are sent as they are, and not as JSON. Raises `Unavailable` and `Untrusted`.
        """
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list(query),
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(*request, _request_timeout=timeout)
            text = await response.read()  # type: ignore[no-untyped-call]
        except aiohttp.ClientConnectorCertificateError as error:
            raise Untrusted(
                f"the API server's certificate can't be verified: {error.certificate_error}"
            ) from error
        except (aiohttp.ClientError, ssl.SSLError, OSError, asyncio.TimeoutError) as error:  # noqa: UP041
            words = str(error) or f"no answer within {timeout:.0f} s"
            raise Unavailable(f"the API server can't be reached: {words}") from error
        return Answer(response.status, text, _seconds(response))

    def at(self, address: str) -> "Client":
        """The same cluster's API server at `address` (`https://…`), asked directly, as who we are.

        Its certificate must be for the name by which pods know it; no other is on all of them.
        """
        configuration = copy.copy(self._configuration)
        configuration.host = address
        configuration.tls_server_name = "kubernetes.default.svc"
        return Client(configuration)


def object_of(answer: Answer, *, managed_fields: bool = False) -> Object:
    """The object in an answer; its managedFields only for who gives it back as it is."""
    hook = None if managed_fields else _without_managed_fields
    found: Object = json.loads(answer.body, object_hook=hook)
    return found


def _without_managed_fields(part: Object) -> Object:
    """They are most of a list of thousands of objects."""
    part.pop("managedFields", None)
    return part


def _seconds(response: RESTResponse) -> float:
    """`Retry-After`: the API server sends whole seconds, and never a date."""
    after = response.headers.get("Retry-After", "")
    return float(after) if after.isdecimal() else 0.0


async def _load_default(configuration: Configuration) -> None:
    try:
        kubernetes_config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
    except kubernetes_config.ConfigException:
        await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )


def error_of(answer: Answer, what: str) -> StewardError:
    """Our error for an answer of the API server."""
    message, reason = answer.words
    if "database space exceeded" in message:
        return OutOfSpace(
            f"the API server can't write {what}: {message}",
            hint="etcd is full: compact, defragment and disarm its alarm",
        )
    words = f"the API server refused {what}: {message or f'HTTP {answer.status}'}"
    error = _class(answer.status, reason)(words)
    if isinstance(error, Throttled):
        error.after = answer.retry_after
    return error


def _class(status: int, reason: str) -> type[StewardError]:
    if status == 409:  # a conflict of versions goes away; a taken name does not
        return AlreadyExists if reason == "AlreadyExists" else Conflict
    if status >= 500:
        return Unavailable
    return {401: Unauthorized, 403: Unauthorized, 404: NotFound, 429: Throttled}.get(
        status, InvalidInput
    )
