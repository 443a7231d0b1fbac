"""etcdctl's global flags, and what they say: how to reach etcd, how to print.

As in etcdctl each is also a variable `ETCDCTL_<FLAG>`, and a variable beside its flag is an error.
Defaults are etcdctl's, also where the other verbs of this program are more patient.
"""

# ruff: noqa: ANN401  # what click hands on has no narrower type

import functools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.etcd_flags import credentials, refuse_insecure, warn_of_unknown_variables
from etcd_steward.cli.etcdctl.errors import (
    BAD_ARGS,
    BAD_CONNECTION,
    BAD_FEATURE,
    EtcdctlError,
    told,
)
from etcd_steward.cli.etcdctl.govalues import go_bool, go_duration, go_int, go_strings
from etcd_steward.cli.etcdctl.pflag import Flag, flag
from etcd_steward.cli.etcdctl.printers import FORMATS, Printer, printer
from etcd_steward.config import EtcdFlags
from etcd_steward.models.connection import EtcdConnection

if TYPE_CHECKING:  # grpc is imported where it is needed
    from etcd_steward.etcd.client import EtcdClient

_OUTPUT = "Output"
_ETCD = "etcd (also as variables ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ...)"
_NO_EFFECT = "Taken for etcdctl's sake; of no effect here."


def _global(*names: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    name = (
        next(one for one in names if one.startswith("--"))
        .removeprefix("--")
        .partition("/")[0]
        .replace("-", "_")
    )
    kwargs.setdefault("section", _ETCD)
    return flag(*names, f"ctl_{name}", variable=f"ETCDCTL_{name.upper()}", **kwargs)


_OPTIONS = (
    _global(
        "-w",
        "--write-out",
        unset="simple",
        section=_OUTPUT,
        metavar="FORMAT",
        help=f"How to print: {', '.join(FORMATS)}.  [default: simple]",
    ),
    _global("--hex", go=go_bool, unset=False, section=_OUTPUT, help="Bytes as hexadecimal digits."),
    _global(
        "--endpoints",
        go=go_strings,
        unset=["127.0.0.1:2379"],
        metavar="HOST:PORT,...",
        help="Client addresses of the members.  [default: 127.0.0.1:2379]",
    ),
    _global("--cacert", metavar="FILE", help="CA that signed the members' certificates."),
    _global("--cert", metavar="FILE", help="Our client certificate."),
    _global("--key", metavar="FILE", help="Its private key."),
    _global(
        "--user",
        metavar="NAME[:PASSWORD]",
        help="User; the password is asked for on a terminal if it is given nowhere.",
    ),
    _global("--password", metavar="PASSWORD", help="The user's password."),
    _global(
        "--dial-timeout",
        go=go_duration,
        unset=2.0,
        metavar="DURATION",
        help="How long to wait for a connection.  [default: 2s]",
    ),
    _global(
        "--command-timeout",
        go=go_duration,
        unset=5.0,
        metavar="DURATION",
        help="How long to wait for each answer.  [default: 5s]",
    ),
    flag(
        "--server-name",
        "ctl_server_name",
        section=_ETCD,
        metavar="NAME",
        help="Name that the members' certificates are made for, where it isn't the endpoint's.",
    ),
    flag(
        "--use-proxy",
        "ctl_use_proxy",
        go=go_bool,
        unset=False,
        section=_ETCD,
        help="Obey https_proxy and its like for etcd; without this they are ignored.",
    ),
    _global("--insecure-transport/--no-insecure-transport", go=go_bool, unset=True, hidden=True),
    _global("--insecure-skip-tls-verify", go=go_bool, unset=False, hidden=True),
    _global("-d", "--discovery-srv", hidden=True),
    _global("--auth-jwt-token", hidden=True),
    _global("--debug", go=go_bool, unset=False, hidden=True, help=_NO_EFFECT),
    _global("--discovery-srv-name", hidden=True, help=_NO_EFFECT),
    _global("--insecure-discovery", go=go_bool, unset=False, hidden=True, help=_NO_EFFECT),
    _global("--keepalive-time", go=go_duration, unset=2.0, hidden=True, help=_NO_EFFECT),
    _global("--keepalive-timeout", go=go_duration, unset=6.0, hidden=True, help=_NO_EFFECT),
    _global("--max-recv-bytes", go=go_int, unset=0, hidden=True, help=_NO_EFFECT),
    _global("--max-request-bytes", go=go_int, unset=0, hidden=True, help=_NO_EFFECT),
)


class Ctl:
    """What the global flags say; looked at when it is asked for, as etcdctl does."""

    def __init__(self, ctx: click.Context, given: dict[str, Any]) -> None:
        self._ctx = ctx
        self._given = given

    def printer(self) -> Printer:
        """How to print. Raises `EtcdctlError`."""
        return printer(self._value("write_out"), hexed=self._value("hex"))

    @property
    def write_out(self) -> str:
        """The value of `-w`."""
        return str(self._value("write_out"))

    def refuse_unknown_format(self) -> None:
        """Look at `-w` where it has no effect, as etcdctl does. Raises `EtcdctlError`."""
        if self.write_out not in FORMATS:
            raise EtcdctlError("unsupported output format", BAD_FEATURE)

    @property
    def patience(self) -> float:
        """Seconds that etcd's client waits for a lease whose time to live it does not know yet."""
        return float(self._value("dial_timeout")) + 1.0

    def connection(self) -> EtcdConnection:
        """How to reach etcd; reads the files. Raises `EtcdctlError`."""
        warn_of_unknown_variables()
        flags = self._flags()
        if (flags.cert is None) != (flags.key is None):
            key, cert = self._value("key"), self._value("cert")
            raise EtcdctlError(
                f"KeyFile and CertFile must both be present[key: {key}, cert: {cert}]", BAD_ARGS
            )
        for path in (flags.cacert, flags.cert, flags.key):
            if path is not None:
                _look_at(path)
        with told(BAD_ARGS):
            return flags.connection()

    @asynccontextmanager
    async def connect(self) -> "AsyncIterator[EtcdClient]":
        """A client; nothing is dialled before the first call. Raises `EtcdctlError`."""
        from etcd_steward.etcd.client import EtcdClient  # noqa: PLC0415  # grpc: slow

        async with AsyncExitStack() as stack:
            with told(BAD_ARGS):
                client = EtcdClient.connect(self.connection())
                opened = await stack.enter_async_context(client)
            yield opened

    def _flags(self) -> EtcdFlags:
        for name in ("cert", "key", "cacert"):
            if not self._value(name) and self._is_given(name):
                raise EtcdctlError(f"empty string is passed to --{name} option", BAD_ARGS)
        if not self._value("endpoints"):
            raise EtcdctlError("etcdclient: no available endpoints", BAD_CONNECTION)
        if self._value("auth_jwt_token"):
            raise EtcdctlError("--auth-jwt-token is not supported: log in with --user", BAD_ARGS)
        try:
            refuse_insecure(
                skip_verify=self._value("insecure_skip_tls_verify"),
                discovery=self._value("discovery_srv"),
            )
            user = self._value("user")
            user, password = credentials(user, self._value("password") if user else None)
        except click.UsageError as error:
            raise EtcdctlError(error.message, BAD_ARGS) from error
        secure = not self._value("insecure_transport")
        trimmed = filter(None, map(_endpoint, self._value("endpoints")))
        return EtcdFlags(
            endpoints=tuple(f"https://{e}" if secure and "://" not in e else e for e in trimmed),
            cacert=_path(self._value("cacert")),
            cert=_path(self._value("cert")),
            key=_path(self._value("key")),
            user=user,
            password=password,
            server_name=self._value("server_name") or None,
            dial_timeout=self._value("dial_timeout"),
            command_timeout=self._value("command_timeout"),
            use_proxy=self._value("use_proxy"),
        )

    def _is_given(self, name: str) -> bool:
        source = self._ctx.get_parameter_source(f"ctl_{name}")
        return source is click.core.ParameterSource.COMMANDLINE

    def _value(self, name: str) -> Any:
        """The flag's value, else the variable's, else the default."""
        option = self._option(f"ctl_{name}")
        text = os.environ.get(option.variable, "") if option.variable else ""
        if not text:
            return self._given[option.name or ""]
        if self._is_given(name):
            raise EtcdctlError(
                f"conflicting environment variable {option.variable!r} is shadowed by the flag "
                f"{option.opts[-1]!r}: unset the variable or leave out the flag"
            )
        try:
            return option.go(text)
        except ValueError as error:
            raise EtcdctlError(f"invalid value for {option.variable}: {error}", BAD_ARGS) from None

    def _option(self, name: str) -> Flag:
        params = self._ctx.command.get_params(self._ctx)
        return next(one for one in params if isinstance(one, Flag) and one.name == name)


def etcdctl_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb etcdctl's global flags; it receives them as `ctl: Ctl`."""

    @functools.wraps(function)
    def wrapper(**kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in list(kwargs) if name.startswith("ctl_")}
        return function(ctl=Ctl(click.get_current_context(), given), **kwargs)

    wrapped: Callable[..., Any] = wrapper
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def words_argument(metavar: str, **kwargs: Any) -> Callable[..., Any]:
    """Give a verb all words that are no flags, as `words: tuple[str, ...]`.

    How many there may be, the verb says itself, in etcdctl's words.
    """
    return click.argument("words", nargs=-1, metavar=metavar, **kwargs)


def as_bytes(word: str) -> bytes:
    """A word of the command line as the bytes that the shell gave."""
    return os.fsencode(word)


def _endpoint(text: str) -> str:
    """An endpoint as Go's client takes it: a path behind a URL says nothing, no host is our own."""
    scheme, separator, rest = text.strip().rpartition("://")
    if separator:
        rest = rest.partition("/")[0]
    return f"{scheme}{separator}{f'localhost{rest}' if rest.startswith(':') else rest}"


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _look_at(path: Path) -> None:
    """Go's words for a file that can't be opened."""
    try:
        path.open("rb").close()
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise EtcdctlError(f"open {path}: {reason}", BAD_ARGS) from error
