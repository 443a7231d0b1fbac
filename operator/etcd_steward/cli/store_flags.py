"""Where backups lie, and where snapshots lie on their way there."""

# ruff: noqa: ANN401  # what click hands on has no narrower type

import functools
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click

from etcd_steward.cli.framework import Option
from etcd_steward.cli.values import SIZE
from etcd_steward.config import read_pem
from etcd_steward.errors import InvalidInput, Refused
from etcd_steward.models.connection import LocalSettings, S3Settings
from etcd_steward.models.run import SpoolSettings

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_STORE = "Store (S3 credentials are found as the AWS tools find them)"
_SPOOL = "Spool"
_FORMS = "write s3://bucket/prefix or file:///directory"
_MIN_BUCKET = 3


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


def parse_store(
    url: str,
    *,
    s3_endpoint: str | None = None,
    s3_region: str | None = None,
    s3_ca: Path | None = None,
    s3_path_style: bool = False,
    s3_storage_class: str | None = None,
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
        storage_class=s3_storage_class or None,
    )


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
)
_STORAGE_CLASS = click.option(
    "--s3-storage-class",
    cls=Option,
    section=_STORE,
    envvar="ETCD_STEWARD_S3_STORAGE_CLASS",
    metavar="CLASS",
    help="Storage class of what is stored.  [env: ETCD_STEWARD_S3_STORAGE_CLASS]",
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
        for option in reversed((*_STORE_OPTIONS, *((_STORAGE_CLASS,) if writes else ()))):
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
        directory = (spool_dir or default_spool()).absolute()
        return function(spool=SpoolSettings(directory=directory, limit=spool_limit), **kwargs)

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
    return directory(limit(wrapper))
