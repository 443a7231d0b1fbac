"""How to reach etcd: etcdctl's flags and variables, with etcdctl's meanings.

Names and rules are those of `etcdctl` 3.6 (etcdctl/ctlv3/command/global.go and
pkg/flags/flag.go): each flag is also a variable `ETCDCTL_<FLAG>`, and a variable beside its flag
is an error. What can't be honoured is refused in words, never ignored.
"""

# ruff: noqa: ANN401  # what click hands on has no narrower type

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from etcd_steward.cli.framework import Option
from etcd_steward.cli.values import DURATION
from etcd_steward.config import EtcdFlags

SECTION = "etcd (also as variables ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ...)"
_DEFAULTS = EtcdFlags()

# etcdctl's other global flags: their variables are no misspellings, and say nothing to us.
_NOT_OURS = frozenset(
    {
        "API",
        "AUTH_JWT_TOKEN",
        "CLUSTER",
        "DEBUG",
        "DISCOVERY_SRV_NAME",
        "HEX",
        "INSECURE_DISCOVERY",
        "KEEPALIVE_TIME",
        "KEEPALIVE_TIMEOUT",
        "MAX_RECV_BYTES",
        "MAX_REQUEST_BYTES",
        "WATCH_KEY",
        "WATCH_RANGE_END",
        "WRITE_OUT",
    }
)


def _etcd_option(flag: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    name = flag.split("/", maxsplit=1)[0].removeprefix("--").replace("-", "_")
    return click.option(
        flag,
        f"etcd_{name}",
        cls=Option,
        section=SECTION,
        envvar=f"ETCDCTL_{name.upper()}",
        exclusive_env=True,
        **kwargs,
    )


def _path_option(flag: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return _etcd_option(
        flag, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=text
    )


_OPTIONS = (
    _etcd_option(
        "--endpoints",
        metavar="HOST:PORT,...",
        help="Client addresses of the members, or virtual IPs before them.  "
        f"[{_DEFAULTS.endpoints[0]} if etcd is needed and this is left out]",
    ),
    _path_option("--cacert", "CA that signed the members' certificates."),
    _path_option("--cert", "Our client certificate."),
    _path_option("--key", "Its private key."),
    _etcd_option(
        "--user",
        metavar="NAME[:PASSWORD]",
        help="User; the password is asked for on a terminal if it is given nowhere.",
    ),
    _etcd_option("--password", metavar="PASSWORD", help="The user's password."),
    _etcd_option(
        "--dial-timeout",
        type=DURATION,
        metavar="DURATION",
        help=f"How long to wait for a connection.  [default: {_DEFAULTS.dial_timeout:.0f}s]",
    ),
    _etcd_option(
        "--command-timeout",
        type=DURATION,
        metavar="DURATION",
        help="How long to wait for an answer; the snapshot itself has a limit of its own.  "
        f"[default: {_DEFAULTS.command_timeout:.0f}s]",
    ),
    click.option(
        "--server-name",
        "etcd_server_name",
        cls=Option,
        section=SECTION,
        metavar="NAME",
        help="Name that the members' certificates are made for, where it isn't the endpoint's.",
    ),
    click.option(
        "--use-proxy",
        "etcd_use_proxy",
        cls=Option,
        section=SECTION,
        is_flag=True,
        help="Obey https_proxy and its like for etcd; without this they are ignored.",
    ),
    _etcd_option("--insecure-transport/--no-insecure-transport", default=True, hidden=True),
    _etcd_option("--insecure-skip-tls-verify", is_flag=True, hidden=True),
    _etcd_option("--discovery-srv", hidden=True),
)


def etcd_options(*, optional: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb etcd's flags; it receives them as `etcd: EtcdFlags`.

    With `optional` it receives None unless `--endpoints` or its variable is set; without, the
    default endpoint is etcdctl's.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(**kwargs: Any) -> Any:
            given = {
                name.removeprefix("etcd_"): kwargs.pop(name)
                for name in list(kwargs)
                if name.startswith("etcd_")
            }
            warn_of_unknown_variables()
            return function(etcd=_flags(given, optional=optional), **kwargs)

        wrapped: Callable[..., Any] = wrapper
        for option in reversed(_OPTIONS):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def warn_of_unknown_variables() -> None:
    """Say which variables look like etcdctl's and are none: they may be misspelt."""
    known = _NOT_OURS | {
        "ENDPOINTS", "CACERT", "CERT", "KEY", "USER", "PASSWORD", "DIAL_TIMEOUT",
        "COMMAND_TIMEOUT", "INSECURE_TRANSPORT", "INSECURE_SKIP_TLS_VERIFY", "DISCOVERY_SRV",
    }  # fmt: skip
    for variable in sorted(os.environ):
        if variable.startswith("ETCDCTL_") and variable.removeprefix("ETCDCTL_") not in known:
            click.echo(f"Warning: the variable {variable} is unknown, and ignored", err=True)


def _flags(given: dict[str, Any], *, optional: bool) -> EtcdFlags | None:
    refuse_insecure(skip_verify=given["insecure_skip_tls_verify"], discovery=given["discovery_srv"])
    if not given["endpoints"]:
        lone = [n for n in ("cacert", "cert", "key", "user", "server_name") if given[n]]
        if optional and lone:
            raise click.UsageError(
                f"--{lone[0].replace('_', '-')} says how to reach etcd, but not where it is: "
                "give --endpoints as well"
            )
        if optional:
            return None
    endpoints = _endpoints(given["endpoints"], secure=not given["insecure_transport"])
    user, password = credentials(given["user"], given["password"])
    return EtcdFlags(
        endpoints=endpoints,
        cacert=given["cacert"],
        cert=given["cert"],
        key=given["key"],
        user=user,
        password=password,
        server_name=given["server_name"],
        dial_timeout=given["dial_timeout"] or _DEFAULTS.dial_timeout,
        command_timeout=given["command_timeout"] or _DEFAULTS.command_timeout,
        use_proxy=given["use_proxy"],
    )


def refuse_insecure(*, skip_verify: bool, discovery: str | None) -> None:
    """Refuse what would find members, or trust them, without proof. Raises `click.UsageError`."""
    if skip_verify:
        raise click.UsageError(
            "--insecure-skip-tls-verify can't be honoured: the members' certificates are always "
            "verified. Give the CA that signed them by --cacert (kubeadm: "
            "/etc/kubernetes/pki/etcd/ca.crt), and --server-name if they are made for another name"
        )
    if discovery:
        raise click.UsageError(
            "--discovery-srv is not supported: name the members by --endpoints "
            f"(`dig +short SRV _etcd-client-ssl._tcp.{discovery}` lists them)"
        )


def _endpoints(text: str | None, *, secure: bool) -> tuple[str, ...]:
    """Split the list; `--insecure-transport=false` asks for TLS where no scheme says otherwise."""
    endpoints = tuple(e.strip() for e in (text or "").split(",")) if text else _DEFAULTS.endpoints
    if not all(endpoints):
        raise click.UsageError(f"--endpoints {text!r} holds an empty endpoint")
    if not secure:
        return endpoints
    return tuple(e if "://" in e else f"https://{e}" for e in endpoints)


def credentials(user: str | None, password: str | None) -> tuple[str | None, SecretStr | None]:
    """User and password by etcdctl's rule: with a password, a colon belongs to the user's name.

    Raises `click.UsageError` if the password is missing and can't be asked for.
    """
    if not user:
        if password:
            raise click.UsageError("--password needs --user")
        return None, None
    if password:
        return user, SecretStr(password)
    name, colon, rest = user.partition(":")
    if colon:
        return name, SecretStr(rest)
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(
            f"the password of user {name!r} is missing, and there is no terminal to ask on: "
            "set ETCDCTL_PASSWORD"
        )
    return name, SecretStr(click.prompt("Password", hide_input=True, err=True))
