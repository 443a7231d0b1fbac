"""`--registry-prefix`, the API server's `--etcd-prefix`: wherever keys are read as objects."""

from typing import Final

import click

from etcd_steward.cli.framework import Option
from etcd_steward.cli.store_flags import Decorator

DEFAULT_PREFIX: Final = "/registry"
PREFIX_VARIABLE: Final = "ETCD_STEWARD_REGISTRY_PREFIX"


def registry_prefix_option(section: str = "Options", *, found: bool = False) -> Decorator:
    """Give a verb `registry_prefix`, with one slash before it and none behind.

    `found`: where none is given it is None, and the verb looks which one a snapshot has.
    """

    def read(_context: click.Context, _option: click.Parameter, given: str | None) -> str | None:
        return None if found and not given else "/" + (given or "").strip("/")

    unset = f"{DEFAULT_PREFIX}, then OpenShift's /kubernetes.io" if found else DEFAULT_PREFIX
    return click.option(
        "--registry-prefix",
        cls=Option,
        section=section,
        envvar=PREFIX_VARIABLE,
        default=None if found else DEFAULT_PREFIX,
        metavar="PREFIX",
        callback=read,
        help=f"The API server's --etcd-prefix.  [default: {unset}; env: {PREFIX_VARIABLE}]",
    )
