"""What botocore raises, in this program's own words: one table, most specific first."""

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import urllib3.exceptions
from botocore import exceptions as boto  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from urllib3.util.ssl_match_hostname import CertificateError

from etcd_steward.errors import (
    AlreadyExists,
    InvalidInput,
    NoSuchStore,
    NotFound,
    OutOfSpace,
    StewardError,
    Throttled,
    TransientError,
    Unauthorized,
    Unavailable,
    Unsupported,
    Untrusted,
)

TRANSLATED: Final = (
    boto.BotoCoreError,
    boto.ClientError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
    OSError,
)
"""All that a call of boto3 may raise when something is wrong outside this program."""


class UploadGone(NotFound):
    """The store knows no such multipart upload, or has lost a part of it.

    Completed already, aborted, or expired: this upload is over, and another one may succeed.
    """


class DigestRefused(TransientError):
    """The bytes changed on their way to the store. Worth a few more tries, and no more."""

    reason = "IntegrityError"


@dataclass(frozen=True, slots=True)
class Place:
    """The bucket, as messages name it."""

    bucket: str
    endpoint: str
    in_host_name: bool = False
    """Whether the bucket goes into the host name of a server that is not AWS."""
    sse: str | None = None
    """The kind of encryption that is asked for: S3, KMS or C."""
    tagged: bool = False
    """Whether what is written has tags."""


_ACTIONS: Final = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "CompleteMultipartUpload": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "GetObject": "s3:GetObject",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject and s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectsV2": "s3:ListBucket",
    "ListParts": "s3:ListMultipartUploadParts",
    "PutObject": "s3:PutObject",
    "UploadPart": "s3:PutObject",
}

_THROTTLED: Final = {
    "BandwidthLimitExceeded",
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
}
_AGAIN: Final = {
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
}
_FULL: Final = {
    "InsufficientStorage",
    "QuotaExceeded",
    "QuotaExceededException",
    "StorageFull",
    "XMinioStorageFull",
}
_CREDENTIALS: Final = {
    "AccountProblem",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_REGION: Final = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
}
_DIGEST: Final = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}
_LONGEST_WAIT: Final = 60.0
_OF_UPLOADS: Final = {
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "ListParts",
    "UploadPart",
}
_READS: Final = {"GetObject", "HeadObject"}
_KEYS_HINT: Final = "Correct the access key and secret key of the store"
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
        return _answered(_Answer.of(error), failed, place)
    if holds_credential(error):
        return Unauthorized(
            f"{failed}: the store's keys can't be sent, because one holds a line break or another "
            "character that no key has",
            hint=_KEYS_HINT,
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
            hint=_or_path_style(
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
            hint=_or_path_style("Correct the store's endpoint", place),
        )
    if any("WRONG_VERSION_NUMBER" in str(link) for link in _chain(error)):
        return InvalidInput(
            f"{failed}: {place.endpoint} does not speak TLS",
            hint="Correct the store's endpoint, or begin it with http://",
        )
    return None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server said, without the headers and fields that may hold a credential."""

    operation: str
    code: str
    status: int
    text: str
    region: str

    @classmethod
    def of(cls, error: boto.ClientError) -> "_Answer":
        told = error.response.get("Error", {})
        meta = error.response.get("ResponseMetadata", {})
        region = meta.get("HTTPHeaders", {}).get("x-amz-bucket-region") or told.get("Region", "")
        return cls(
            operation=error.operation_name,
            code=str(told.get("Code", "")),
            status=meta.get("HTTPStatusCode", 0),
            text=" ".join(str(told.get("Message", "")).split())[:300],
            region=region,
        )


def _answered(answer: _Answer, failed: str, place: Place) -> StewardError:
    for judge in (
        _no_identity,
        _misdirected,
        _encryption,
        _unauthorized,
        _missing,
        _unable,
        _again,
    ):
        if error := judge(answer, failed, place):
            return error
    return InvalidInput(
        f"{failed}: {place.endpoint} answered {answer.code}: {answer.text}",
        hint="Check the store's endpoint, region, bucket, storage class and tags",
    )


def _no_identity(answer: _Answer, failed: str, _place: Place) -> StewardError | None:
    """STS, asked by boto3 for temporary keys, has answered; its text may quote the token."""
    if not answer.operation.startswith("Assume"):
        return None
    if answer.code in _THROTTLED or answer.status == 429 or answer.status >= 500:
        return Unavailable(f"{failed}: no identity can be had now ({answer.code})")
    if "Expired" in answer.code:
        why, hint = "the web identity token has expired", "Is it still mounted and renewed?"
    else:
        why = f"{answer.operation} is denied ({answer.code})"
        hint = (
            "Check AWS_ROLE_ARN, the role's trust policy (this service account? the token's "
            "audience?) and AWS_ENDPOINT_URL_STS"
        )
    return Unauthorized(f"{failed}: {why}", hint=hint)


def _encryption(answer: _Answer, failed: str, place: Place) -> StewardError | None:
    """What the server says of keys, its own and ours."""
    if answer.code.startswith("KMS."):
        return InvalidInput(
            f"{failed}: {place.endpoint} can't use the KMS key ({answer.code}: {answer.text})",
            hint="Check sse.kmsKeyID (--s3-sse-kms-key-id), and that the key is enabled",
        )
    if answer.operation in _READS and answer.status in {400, 403}:
        if place.sse == "C":
            return Unauthorized(
                f"{failed}: {answer.operation} is denied ({answer.code})",
                hint="Was the object written with another encryption key, or with none? If the key "
                f"is right, check that the store's keys allow {_ACTIONS[answer.operation]}",
            )
        if answer.status == 400 and answer.code in {"400", "InvalidArgument", "InvalidRequest"}:
            return Unauthorized(
                f"{failed}: {place.endpoint} answered {answer.code}: {answer.text}",
                hint="If it was encrypted with a key of yours, give it: sse.customerKeySecretName "
                "(--s3-sse-c-key-file)",
            )
    return None


def _misdirected(answer: _Answer, failed: str, place: Place) -> StewardError | None:
    if answer.code in _REGION or answer.status in {301, 307}:
        to = f" to {answer.region}" if answer.region else ""
        return InvalidInput(
            f"{failed}: the bucket {place.bucket} lies in another region ({answer.code})",
            hint=f"Set the store's region{to}",
        )
    return None


def _unauthorized(answer: _Answer, failed: str, place: Place) -> StewardError | None:
    if answer.code == "RequestTimeTooSkewed":
        return Unauthorized(
            f"{failed}: this host's clock and that of {place.endpoint} differ too much",
            hint="Set the clock of this host",
        )
    if answer.code in {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}:
        return Unauthorized(
            f"{failed}: the session token has expired ({answer.code})",
            hint="Renew the store's keys with their session token",
        )
    if answer.code in _CREDENTIALS:
        return Unauthorized(f"{failed}: {place.endpoint} says {answer.code}", hint=_KEYS_HINT)
    if answer.status in {401, 403} and answer.code not in _FULL | _THROTTLED:
        action = _ACTIONS.get(answer.operation, answer.operation)
        if place.tagged and action == "s3:PutObject":
            action += " and s3:PutObjectTagging"
        return Unauthorized(
            f"{failed}: {answer.operation} is denied ({answer.code})",
            hint=f"Check the store's keys, and that they allow {action}",
        )
    return None


def _missing(answer: _Answer, failed: str, place: Place) -> StewardError | None:
    if answer.code == "NoSuchBucket":
        return no_bucket(failed, place)
    # radosgw says NoSuchKey where it is asked for the parts of an upload that is gone.
    gone = answer.code == "NoSuchKey" and answer.operation in _OF_UPLOADS
    if answer.code == "NoSuchUpload" or gone:
        return UploadGone(
            f"{failed}: the store no longer knows this upload",
            hint="It was aborted by somebody else or by a lifecycle rule; try again",
        )
    if answer.code == "InvalidPart":
        return UploadGone(f"{failed}: the store has lost a part of the upload", hint="Try again")
    if answer.code == "NoSuchKey" or (answer.status == 404 and answer.operation == "HeadObject"):
        return NotFound(f"{failed}: there is no such object")
    if answer.status == 404:  # a web server, or a proxy, that knows no buckets
        return NoSuchStore(
            f"{failed}: {place.endpoint} knows no such address, and does not say what is missing",
            hint=_or_path_style("Correct the store's endpoint and bucket", place),
        )
    return None


def _unable(answer: _Answer, failed: str, _place: Place) -> StewardError | None:
    if answer.status == 412:
        return AlreadyExists(f"{failed}: the object is there already, with other content")
    if answer.code in _FULL or answer.status == 507:
        return OutOfSpace(
            f"{failed}: the store is full ({answer.code}: {answer.text})",
            hint="Free space, raise its quota, or keep fewer backups",
        )
    if answer.code == "NotImplemented" or answer.status == 501:
        return Unsupported(
            f"{failed}: the store can't do {answer.operation} as asked ({answer.text})",
            hint="Leave out what it may not know: encryption, tags, storage class",
        )
    return None


def _again(answer: _Answer, failed: str, place: Place) -> StewardError | None:
    if answer.code in _DIGEST:
        return DigestRefused(
            f"{failed}: what arrived at {place.endpoint} is not what was sent ({answer.code})",
            hint="Look for a faulty network device, proxy or memory between here and the store",
        )
    told = f"{answer.code}: {answer.text}"
    if answer.code in _THROTTLED or answer.status in {429, 503}:
        return Throttled(f"{failed}: {place.endpoint} asks to slow down ({told})")
    # An error inside an answer of status 200 is how S3 fails after it has begun to answer.
    if answer.code in _AGAIN or answer.status in {200, 408, 409} or answer.status >= 500:
        kms = place.sse == "KMS" and answer.status == 500
        return Unavailable(
            f"{failed}: {place.endpoint} answered {told}",
            hint="Some servers say so of a KMS key that they don't know" if kms else "",
        )
    return None


def asked_to_wait(error: BaseException) -> float | None:
    """Seconds after which the server wants to be asked again (Retry-After), if it says so.

    At most a minute: some proxies send an hour, and the time for retries is ours to spend.
    """
    cause = error.__cause__
    if not isinstance(cause, boto.ClientError):
        return None
    headers = cause.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    told = headers.get("retry-after", "")
    return min(float(told), _LONGEST_WAIT) if told.isdecimal() else None


def holds_credential(error: BaseException) -> bool:
    """Whether the texts of `error` quote a header, and with it a credential."""
    return any("Invalid header value" in str(link) for link in _chain(error))


def no_bucket(failed: str, place: Place) -> NoSuchStore:
    """The bucket itself is missing; `failed` is how the message begins."""
    return NoSuchStore(
        f"{failed}: bucket {place.bucket} does not exist at {place.endpoint}",
        hint=_or_path_style(
            "Create it, or correct the store's bucket (spec.store.s3.bucket)", place
        ),
    )


def no_listing(place: Place) -> Unsupported:
    """What was asked for a listing has answered with something else."""
    return Unsupported(
        f"{place.endpoint} does not answer as S3 does",
        hint=_or_path_style("Correct the store's endpoint", place),
    )


def _or_path_style(hint: str, place: Place) -> str:
    if not place.in_host_name:
        return hint
    return (
        f"{hint}; if the server does not look for buckets in host names, use path style "
        "(forcePathStyle, --s3-path-style)"
    )


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
