"""Where backups lie, and where snapshots lie on their way there."""

# ruff: noqa: ANN401  # what click hands on has no narrower type

import base64
import functools
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

import click
from pydantic import SecretStr

from etcd_steward.cli.framework import Option
from etcd_steward.cli.values import SIZE
from etcd_steward.config import read_pem
from etcd_steward.errors import InvalidInput, Refused
from etcd_steward.models.connection import LocalSettings, S3Encryption, S3Settings

if TYPE_CHECKING:  # imported where it is needed: half of what starting takes
    from etcd_steward.models.run import SpoolSettings

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_STORE = "Store (S3 credentials are found as the AWS tools find them)"
_SPOOL = "Spool"
_FORMS = "write s3://bucket/prefix or file:///directory"
_MIN_BUCKET = 3
_RAW_KEY = 32
_LONGEST_KEY = 1024


class StoreFlags:
    """`--store` and the S3 flags, which also say how to reach a store that an argument names."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.url: str | None = given["store"] or None
        """What `--store` or ETCD_STEWARD_STORE says."""
        self._s3 = {name: value for name, value in given.items() if name.startswith("s3_")}

    def settings(self, url: str | None = None) -> S3Settings | LocalSettings:
        """Read a store's URL, by default `--store`'s. Raises `InvalidInput` in words."""
        url = url or self.url
        if url is None:
            raise click.UsageError(f"Missing option '--store': where backups lie; {_FORMS}")
        return parse_store(url, **self._s3)


def parse_store(  # one for each flag
    url: str,
    *,
    s3_endpoint: str | None = None,
    s3_region: str | None = None,
    s3_profile: str | None = None,
    s3_ca: Path | None = None,
    s3_path_style: bool = False,
    s3_storage_class: str | None = None,
    s3_sse: Literal["S3", "KMS", "C"] | None = None,
    s3_sse_kms_key_id: str | None = None,
    s3_sse_c_key_file: Path | None = None,
    s3_tag: tuple[str, ...] = (),
) -> S3Settings | LocalSettings:
    """Read `s3://bucket/prefix` or `file:///directory`. Raises `InvalidInput`."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(  # not repeated: it holds a secret
            "a store's URL must not hold a user or password",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if parts.query or parts.fragment:
        raise InvalidInput(f"store {url!r} has a query or fragment", hint=_FORMS)
    if parts.scheme == "file":
        return _local(url, parts.netloc, unquote(parts.path))
    if parts.scheme != "s3":
        what = f"the scheme {parts.scheme!r} is unknown" if parts.scheme else "it has no scheme"
        raise InvalidInput(f"store {url!r} can't be used: {what}", hint=_FORMS)
    if len(parts.netloc) < _MIN_BUCKET:
        raise InvalidInput(f"store {url!r} names no bucket", hint=_FORMS)
    return S3Settings(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint=s3_endpoint or None,
        region=s3_region or None,
        force_path_style=s3_path_style,
        ca=read_pem(s3_ca, "the CA file of S3") if s3_ca else None,
        profile=s3_profile or None,
        storage_class=s3_storage_class or None,
        sse=_encryption(s3_sse, s3_sse_kms_key_id or None, s3_sse_c_key_file),
        tags=_tags(s3_tag),
    )


def _encryption(
    kind: Literal["S3", "KMS", "C"] | None, kms_key_id: str | None, key_file: Path | None
) -> S3Encryption | None:
    """What the flags say of encryption; a key says of itself which kind it is for."""
    if kind is None:
        kind = "C" if key_file else "KMS" if kms_key_id else None
    if kind is None:
        return None
    if kind == "C" and key_file is None:
        raise InvalidInput(
            "encryption of type C needs a key", hint="name it by --s3-sse-c-key-file"
        )
    key = _customer_key(key_file) if key_file else None
    return S3Encryption(type=kind, kms_key_id=kms_key_id, customer_key=key)


def _customer_key(path: Path) -> SecretStr:
    """A key of 32 bytes, as they are or in base64, in base64."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_KEY + 1)
    except OSError as error:
        raise InvalidInput(f"the key file {path} can't be read: {error.strerror}") from error
    if len(content) == _RAW_KEY:
        return SecretStr(base64.b64encode(content).decode("ascii"))
    return SecretStr(content.decode("ascii", errors="replace").strip())


def _tags(given: tuple[str, ...]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for tag in given:
        name, equals, value = tag.partition("=")
        if not equals:
            raise InvalidInput(f"tag {tag!r} has no value", hint="write --s3-tag name=value")
        if name in tags:
            raise InvalidInput(f"tag {name!r} is given twice")
        tags[name] = value
    return tags


def _local(url: str, host: str, path: str) -> LocalSettings:
    if host not in ("", "localhost"):
        raise InvalidInput(
            f"store {url!r} is not an absolute path",
            hint=f"write file:///{host}{path} with three slashes" if path else _FORMS,
        )
    if not path.startswith("/"):
        raise InvalidInput(f"store {url!r} is not an absolute path", hint=_FORMS)
    return LocalSettings(path=Path(path))


_STORE_OPTIONS = (
    click.option(
        "--store",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_STORE",
        metavar="URL",
        help="Where backups lie: s3://bucket/prefix or file:///directory.  "
        "[env: ETCD_STEWARD_STORE]",
    ),
    click.option(
        "--s3-endpoint",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_S3_ENDPOINT",
        metavar="URL",
        help="Another S3 server than AWS.  [env: ETCD_STEWARD_S3_ENDPOINT]",
    ),
    click.option(
        "--s3-region",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_S3_REGION",
        metavar="REGION",
        help="Region of the bucket.  [env: ETCD_STEWARD_S3_REGION]",
    ),
    click.option(
        "--s3-profile",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_S3_PROFILE",
        metavar="NAME",
        help="Profile in ~/.aws/config and ~/.aws/credentials; wins over AWS_ACCESS_KEY_ID.  "
        "[default: AWS_PROFILE; env: ETCD_STEWARD_S3_PROFILE]",
    ),
    click.option(
        "--s3-ca",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_S3_CA",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="CA of that server, instead of the public ones.  [env: ETCD_STEWARD_S3_CA]",
    ),
    click.option(
        "--s3-path-style",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_S3_PATH_STYLE",
        is_flag=True,
        help="Put the bucket into the path; most S3 servers of your own need it.  "
        "[env: ETCD_STEWARD_S3_PATH_STYLE]",
    ),
    click.option(
        "--s3-sse-c-key-file",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_S3_SSE_C_KEY_FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Key of your own that the server encrypts with (SSE-C), for reading too: 32 bytes, "
        "as they are or in base64.  [env: ETCD_STEWARD_S3_SSE_C_KEY_FILE]",
    ),
)
_WRITE_OPTIONS = (
    click.option(
        "--s3-storage-class",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_S3_STORAGE_CLASS",
        metavar="CLASS",
        help="Storage class of what is stored.  [env: ETCD_STEWARD_S3_STORAGE_CLASS]",
    ),
    click.option(
        "--s3-sse",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_S3_SSE",
        type=click.Choice(["S3", "KMS", "C"]),
        help="What the server encrypts with: keys of its own, of its key service, or yours.  "
        "[default: as the bucket says; env: ETCD_STEWARD_S3_SSE]",
    ),
    click.option(
        "--s3-sse-kms-key-id",
        cls=Option,
        section=_STORE,
        envvar="ETCD_STEWARD_S3_SSE_KMS_KEY_ID",
        metavar="ID",
        help="Which key of the key service.  [env: ETCD_STEWARD_S3_SSE_KMS_KEY_ID]",
    ),
    click.option(
        "--s3-tag",
        cls=Option,
        section=_STORE,
        multiple=True,
        metavar="NAME=VALUE",
        help="Tag of every object that is written; may be given up to ten times.",
    ),
)


def store_options(*, writes: bool = False) -> Decorator:
    """Give a verb the store's flags; it receives them as `store: StoreFlags`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(**kwargs: Any) -> Any:
            given = {
                name: kwargs.pop(name)
                for name in list(kwargs)
                if name == "store" or name.startswith("s3_")
            }
            return function(store=StoreFlags(given), **kwargs)

        wrapped: Callable[..., Any] = wrapper
        for option in reversed((*_STORE_OPTIONS, *(_WRITE_OPTIONS if writes else ()))):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def default_spool() -> Path:
    """Make the spool of a caller who named none: a folder below `$TMPDIR`, for this user alone.

    The snapshot in it holds every Secret of the cluster. Raises `Refused` if somebody else made it.
    """
    directory = Path(tempfile.gettempdir()) / f"etcd-steward-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Refused(
            f"{directory} belongs to somebody else", hint="name another directory by --spool-dir"
        )
    return directory


def spool_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the spool's flags; it receives them as `spool: SpoolSettings`."""

    @functools.wraps(function)
    def wrapper(*, spool_dir: Path | None, spool_limit: int | None, **kwargs: Any) -> Any:
        return function(spool=spool_settings(spool_dir, spool_limit), **kwargs)

    return spool_flags(wrapper)


def spool_settings(directory: Path | None, limit: int | None) -> "SpoolSettings":
    """What the spool's flags say. Raises what `default_spool` raises."""
    from etcd_steward.models.run import SpoolSettings  # noqa: PLC0415  # slow

    return SpoolSettings(directory=(directory or default_spool()).absolute(), limit=limit)


def spool_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the spool's flags as they are, `spool_dir` and `spool_limit`."""
    directory = click.option(
        "--spool-dir",
        cls=Option,
        section=_SPOOL,
        envvar="ETCD_STEWARD_SPOOL_DIR",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Where a snapshot lies between etcd and the store; it must hold a whole one.  "
        "[default: $TMPDIR/etcd-steward-UID; env: ETCD_STEWARD_SPOOL_DIR]",
    )
    limit = click.option(
        "--spool-limit",
        cls=Option,
        section=_SPOOL,
        envvar="ETCD_STEWARD_SPOOL_LIMIT",
        type=SIZE,
        metavar="SIZE",
        help="How much the spool may hold, such as 2Gi.  "
        "[default: what the disk has, less 5 %; env: ETCD_STEWARD_SPOOL_LIMIT]",
    )
    return directory(limit(function))
