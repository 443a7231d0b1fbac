"""A boto3 client for one bucket, made from settings."""

import contextlib
import ipaddress
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from botocore.httpsession import get_cert_path  # type: ignore[import-untyped]
from pydantic import SecretStr

from etcd_steward.errors import InvalidInput, Refused
from etcd_steward.models.connection import S3Settings
from etcd_steward.store.keys import check_key
from etcd_steward.store.s3_answers import Place
from etcd_steward.store.s3_errors import translate
from etcd_steward.store.s3_list import moment

if TYPE_CHECKING:
    from botocore.credentials import Credentials  # type: ignore[import-untyped]
    from types_boto3_s3 import S3Client

_SLOW_CLASSES: Final = {"GLACIER", "DEEP_ARCHIVE"}
"""Classes whose objects must be thawed for hours before anybody can read them."""
_DEFAULT_REGION: Final = "us-east-1"


def check_settings(settings: S3Settings) -> None:
    """Raise `InvalidInput` or `Refused` for what can't work, before anything is sent."""
    if settings.prefix:
        check_key(settings.prefix)
    if settings.storage_class in _SLOW_CLASSES:
        raise Refused(
            f"objects of storage class {settings.storage_class} can't be read for hours, so that"
            " a backup could be neither proven nor restored when it is needed",
            hint="Use STANDARD_IA or GLACIER_IR",
        )
    if settings.endpoint is not None:
        _check_endpoint(settings.endpoint)
    if (settings.access_key is None) != (settings.secret_key is None):
        raise InvalidInput("the store needs both an access key and a secret key, or neither")
    if settings.session_token is not None and settings.access_key is None:
        raise InvalidInput("a session token needs an access key and a secret key beside it")
    keys = {
        "access key": settings.access_key,
        "secret key": _revealed(settings.secret_key),
        "session token": _revealed(settings.session_token),
    }
    for name, key in keys.items():
        if key is not None and (not key or not key.isprintable() or not key.isascii()):
            raise InvalidInput(
                f"the store's {name} is empty, or holds a line break or another character that no "
                "key has",
                hint="Write it again; `echo` without `-n` adds a line break",
            )


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def place_of(settings: S3Settings) -> Place:
    """How messages name the bucket's whereabouts."""
    return Place(
        settings.bucket,
        settings.endpoint or "AWS",
        in_host_name=_in_host_name(settings),
        sse=None if settings.sse is None else settings.sse.type,
        session=settings.session_token is not None,
        tagged=bool(settings.tags),
    )


def _in_host_name(settings: S3Settings) -> bool:
    """Whether the bucket goes into the host name of a server that may not understand it there."""
    if settings.endpoint is None or settings.force_path_style or "." in settings.bucket:
        return False
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(urlsplit(settings.endpoint).hostname or "")
        return False
    return True


@dataclass(frozen=True, slots=True)
class Connection:
    """A client, and the credentials that it signs with; None if nobody has given any."""

    client: "S3Client"
    credentials: "Credentials | None"


def connect(settings: S3Settings, resources: contextlib.ExitStack, connections: int) -> Connection:
    """A client that leaves retries and checksums to us; `resources` closes it.

    The CA lies in a private file as long as the client lives, because botocore wants a path; given
    as `verify` it wins over AWS_CA_BUNDLE and REQUESTS_CA_BUNDLE.
    """
    verify = None if settings.ca is None else _ca_file(settings.ca, resources)
    try:
        session = boto3.session.Session(
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=_revealed(settings.secret_key),
            aws_session_token=_revealed(settings.session_token),
            region_name=settings.region,
            profile_name=settings.profile,
        )
        _parse_times_quickly(session)
        if settings.ca is not None and settings.access_key is None:
            _trust_for_identity(session, settings.ca, resources)
        region = session.region_name or (_DEFAULT_REGION if settings.endpoint else None)
        client: S3Client = session.client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=region,
            verify=verify,
            config=_config(settings, connections),
        )
        # Finds out where they come from; asks nobody for them yet.
        credentials = session.get_credentials()
    except (BotoCoreError, ValueError) as error:
        raise translate(error, "Setting up the S3 client", place_of(settings)) from error
    resources.callback(client.close)
    return Connection(client, credentials)


def _parse_times_quickly(session: "boto3.session.Session") -> None:
    """Read the times in answers by `fromisoformat` where it can.

    botocore's own way takes 85 % of a listing's CPU: 0.2 s for each page of a thousand keys.
    """
    factory = session._session.get_component("response_parser_factory")  # noqa: SLF001  # as the AWS CLI does
    factory.set_parser_defaults(timestamp_parser=moment)


def _trust_for_identity(
    session: "boto3.session.Session", ca: str, resources: contextlib.ExitStack
) -> None:
    """Let the clients that boto3 makes by itself (STS for web identity) trust the CA, too.

    `verify` does not reach them. Beside the public roots, because the server that gives out
    identities may be AWS' own; where AWS_CA_BUNDLE is set it is left to that.
    """
    core = session._session  # noqa: SLF001  # boto3 itself has no such setting
    if core.get_config_variable("ca_bundle") is None:
        public = Path(get_cert_path(True)).read_text(encoding="utf-8")
        core.set_config_variable("ca_bundle", _private_file(f"{ca}\n{public}", resources))


def _config(settings: S3Settings, connections: int) -> Config:
    return Config(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        max_pool_connections=connections,
        tcp_keepalive=True,
        # One attempt: `Calls` retries. One checksum: ours, given with each call.
        retries={"mode": "standard", "total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            # Over TLS a signed body proves nothing more, and hashing it costs half the upload.
            "payload_signing_enabled": False,
            # Not "auto", which means "path" for every endpoint but AWS' own. Buckets that can't be
            # host names, and endpoints that are addresses, are put into the path in any case.
            "addressing_style": "path" if settings.force_path_style else "virtual",
        },
    )


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
        parts = urlsplit("")
    if parts.username or parts.password:
        raise InvalidInput(
            "the store's endpoint holds a user name or password",
            hint="Give the keys as access key and secret key",
        )
    if not usable or parts.query or parts.fragment:
        raise InvalidInput(
            f"{endpoint!r} is no endpoint of a store", hint="Write it as https://host[:port]"
        )


def _ca_file(pem: str, resources: contextlib.ExitStack) -> str:
    try:
        ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            "the store's CA holds no certificate", hint="Give it as PEM: -----BEGIN CERTIFICATE…"
        ) from error
    return _private_file(pem, resources)


def _private_file(pem: str, resources: contextlib.ExitStack) -> str:
    descriptor, name = tempfile.mkstemp(prefix="etcd-steward-ca-", suffix=".pem")
    resources.callback(Path(name).unlink, missing_ok=True)
    with os.fdopen(descriptor, "w", encoding="ascii", errors="ignore") as file:
        file.write(pem)
    return name
