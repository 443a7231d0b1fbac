"""What botocore raises, in this program's own words: one table, most specific first."""

import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import urllib3.exceptions
from botocore import exceptions as boto  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from urllib3.util.ssl_match_hostname import CertificateError

from etcd_steward.errors import (
    InvalidInput,
    StewardError,
    Unauthorized,
    Unavailable,
    Unsupported,
    Untrusted,
)
from etcd_steward.store.s3_answers import KEYS_HINT, Place, answered, or_path_style

TRANSLATED: Final = (
    boto.BotoCoreError,
    boto.ClientError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
    OSError,
)
"""All that a call of boto3 may raise when something is wrong outside this program."""

_NO_CREDENTIALS: Final = (
    boto.LoginError,
    boto.NoAuthTokenError,
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.SSOError,
)
_INVALID: Final = (
    boto.BaseEndpointResolverError,
    boto.ConfigNotFound,
    boto.ConfigParseError,
    boto.EndpointProviderError,
    boto.InvalidConfigError,
    boto.InvalidHostLabelError,
    boto.InvalidProxiesConfigError,
    boto.ParamValidationError,
    boto.ProfileNotFound,
    boto.ValidationError,
)


def translate(error: Exception, doing: str, place: Place) -> StewardError:
    """The error of ours that `error` stands for; `doing` says what was tried, with the key.

    Texts of servers are passed on only where they can't hold a credential.
    """
    failed = f"{doing} failed"
    if isinstance(error, boto.ClientError):
        return answered(error, failed, place)
    if holds_credential(error):
        return Unauthorized(
            f"{failed}: the store's keys can't be sent, because one holds a line break or another "
            "character that no key has",
            hint=KEYS_HINT,
        )
    if final := _unanswered(error, failed, place):
        return final
    return Unavailable(f"{failed}: {_one_line(error)}", hint=_connection_hint(error, place))


def _connection_hint(error: Exception, place: Place) -> str:
    """What else may be the matter with a connection that fails, in settings that look right."""
    if any(isinstance(link, socket.gaierror) for link in _chain(error)):
        return "Check the endpoint's name; a server of your own may need path style addressing"
    broken = any(isinstance(link, urllib3.exceptions.ProtocolError) for link in _chain(error))
    if broken and place.endpoint.startswith("http://"):
        return "If the store speaks TLS, begin its endpoint with https://"
    return ""


def _unanswered(error: Exception, failed: str, place: Place) -> StewardError | None:
    """What went wrong before the server could answer, where that will not pass by itself."""
    if certificate := _certificate_problem(error):
        return Untrusted(
            f"{failed}: the certificate of {place.endpoint} can't be trusted: {certificate}",
            hint=or_path_style(
                "Give the authority that signed it as the store's CA, or have it renewed", place
            ),
        )
    if isinstance(error, _NO_CREDENTIALS):
        return Unauthorized(
            f"{failed}: {_one_line(error)}",
            hint="Give the store an access key and secret key, or an ambient identity",
        )
    if isinstance(error, _INVALID):
        return InvalidInput(f"{failed}: {_one_line(error)}")
    if isinstance(error, ResponseParserError):
        return Unsupported(
            f"{failed}: {place.endpoint} does not answer as S3 does",
            hint=or_path_style("Correct the store's endpoint", place),
        )
    if any("WRONG_VERSION_NUMBER" in str(link) for link in _chain(error)):
        return InvalidInput(
            f"{failed}: {place.endpoint} does not speak TLS",
            hint="Correct the store's endpoint, or begin it with http://",
        )
    return None


def holds_credential(error: BaseException) -> bool:
    """Whether the texts of `error` quote a header, and with it a credential."""
    return any("Invalid header value" in str(link) for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps: botocore and urllib3 each keep theirs elsewhere."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        link = waiting.pop()
        if not isinstance(link, BaseException) or link in seen:
            continue
        seen.append(link)
        yield link
        kept = getattr(link, "kwargs", {}).get("error")
        waiting += [kept, link.__cause__, link.__context__, *link.args]


def _certificate_problem(error: Exception) -> str | None:
    """What is wrong with the server's certificate, where that is what went wrong.

    OpenSSL checks who signed it and until when; the name is compared by urllib3 itself.
    """
    for link in _chain(error):
        if isinstance(link, ssl.SSLCertVerificationError):
            return link.verify_message
        if isinstance(link, CertificateError):
            return str(link)
    return None


def _one_line(error: Exception) -> str:
    """The text of a library's error, short, on one line, and without its Python names."""
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?", "", str(error) or type(error).__name__)
    return " ".join(text.split())[:400].rstrip(".")
