"""What S3 servers answer when they refuse, in this program's own words."""

from dataclasses import dataclass
from typing import Final

from botocore import exceptions as boto  # type: ignore[import-untyped]

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
)


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
    session: bool = False
    """Whether the keys that were given hold for a session only."""
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
KEYS_HINT: Final = "Correct the access key and secret key of the store"


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


def answered(error: boto.ClientError, failed: str, place: Place) -> StewardError:
    """The error that an answer stands for, most specific judge first."""
    answer = _Answer.of(error)
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
        hint = (
            f"{KEYS_HINT}, or renew them if their session is over" if place.session else KEYS_HINT
        )
        return Unauthorized(f"{failed}: {place.endpoint} says {answer.code}", hint=hint)
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
            hint=or_path_style("Correct the store's endpoint and bucket", place),
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


def no_bucket(failed: str, place: Place) -> NoSuchStore:
    """The bucket itself is missing; `failed` is how the message begins."""
    return NoSuchStore(
        f"{failed}: bucket {place.bucket} does not exist at {place.endpoint}",
        hint=or_path_style(
            "Create it, or correct the store's bucket (spec.store.s3.bucket)", place
        ),
    )


def no_listing(place: Place) -> Unsupported:
    """What was asked for a listing has answered with something else."""
    return Unsupported(
        f"{place.endpoint} does not answer as S3 does",
        hint=or_path_style("Correct the store's endpoint", place),
    )


def or_path_style(hint: str, place: Place) -> str:
    """A hint, and another one where the bucket in the host name may be what is wrong."""
    if not place.in_host_name:
        return hint
    return (
        f"{hint}; if the server does not look for buckets in host names, use path style "
        "(forcePathStyle, --s3-path-style)"
    )
