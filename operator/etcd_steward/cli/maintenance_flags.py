"""What maintenance may do, and what it can't find out by itself: the flags of its verbs."""

# ruff: noqa: ANN401  # what click hands on has no narrower type

import functools
import os
import socket
from collections.abc import Callable
from typing import Any

import click

from etcd_steward.cli.framework import Option
from etcd_steward.cli.values import DURATION, SIZE
from etcd_steward.models.maintenance import DefragmentationRule, MaintenanceOptions

_SAFETY = "What can't be found out"
_WORTH = "Which members are worth it"
_DEFAULTS = MaintenanceOptions()
_RULE = DefragmentationRule()
_OF_RULE = tuple(DefragmentationRule.model_fields)
_OURS = "maintenance_"


def _option(flag: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    name = f"{_OURS}{flag.removeprefix('--').replace('-', '_')}"
    return click.option(flag, name, cls=Option, **kwargs)


_RULE_OPTIONS = (
    _option(
        "--min-reclaim",
        section=_WORTH,
        type=SIZE,
        default=_RULE.min_reclaim,
        metavar="SIZE",
        help="Leave a member alone that gives back less.  [default: 256Mi]",
    ),
    _option(
        "--min-fragmentation-percent",
        section=_WORTH,
        type=click.IntRange(0, 100),
        default=_RULE.min_fragmentation_percent,
        metavar="PERCENT",
        help="Take a member if so much of its file is free pages.  "
        f"[default: {_RULE.min_fragmentation_percent}]",
    ),
    _option(
        "--quota-usage-percent-above",
        section=_WORTH,
        type=click.IntRange(0, 100),
        default=_RULE.quota_usage_percent_above,
        metavar="PERCENT",
        help="Take it also if its file takes more than that of its quota.  "
        f"[default: {_RULE.quota_usage_percent_above}]",
    ),
    _option(
        "--always",
        section=_WORTH,
        is_flag=True,
        help="Take every member, whatever it gives back.",
    ),
)
_SAFETY_OPTIONS = (
    _option(
        "--disk-room",
        section=_SAFETY,
        type=SIZE,
        metavar="SIZE",
        help="What is surely free on each member's volume: the copy must fit.  [default: what its "
        "quota leaves room for]",
    ),
    _option(
        "--quota",
        section=_SAFETY,
        type=SIZE,
        metavar="SIZE",
        help="The members' --quota-backend-bytes.  [default: as etcd 3.6.6 and later say, or the "
        "metrics]",
    ),
    _option(
        "--metrics-endpoints",
        section=_SAFETY,
        metavar="URL,...",
        help="Where the members' metrics are (kubeadm: http://127.0.0.1:2381 on each host).",
    ),
    _option(
        "--liveness",
        section=_SAFETY,
        type=DURATION,
        default=_DEFAULTS.etcd_liveness_seconds,
        metavar="DURATION",
        help="How long a member, or the API server beside it, may be silent before the kubelet "
        f"kills it.  [default: {_DEFAULTS.etcd_liveness_seconds:.0f}s, as kubeadm sets it]",
    ),
    _option(
        "--no-liveness",
        section=_SAFETY,
        is_flag=True,
        help="Nobody kills a silent member: neither has a liveness probe.",
    ),
    _option(
        "--allow-single-member",
        section=_SAFETY,
        is_flag=True,
        help="Defragment an etcd of one member: nobody can read or write meanwhile.",
    ),
    _option(
        "--settle",
        section=_SAFETY,
        type=DURATION,
        default=_DEFAULTS.settle_seconds,
        metavar="DURATION",
        help="How long all must be well before the next member's turn.  "
        f"[default: {_DEFAULTS.settle_seconds:.0f}s]",
    ),
)


def maintenance_options(*, rule: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb the flags; it receives them as `options: MaintenanceOptions`.

    Without `rule` every member is taken, whatever it gives back.
    """
    offered = (*(_RULE_OPTIONS if rule else ()), *_SAFETY_OPTIONS)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(**kwargs: Any) -> Any:
            ours = [name for name in kwargs if name.startswith(_OURS)]
            given = {name.removeprefix(_OURS): kwargs.pop(name) for name in ours}
            return function(options=_options(given, rule=rule), **kwargs)

        wrapped: Callable[..., Any] = wrapper
        for option in reversed(offered):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _options(given: dict[str, Any], *, rule: bool) -> MaintenanceOptions:
    liveness = None if given["no_liveness"] else given["liveness"]
    metrics = (given["metrics_endpoints"] or "").split(",")
    wanted = DefragmentationRule(always=True)
    if rule:
        wanted = DefragmentationRule(**{name: given[name] for name in _OF_RULE})
    return MaintenanceOptions(
        defragmentation=wanted,
        allow_single_member=given["allow_single_member"],
        quota_bytes=given["quota"],
        disk_room_bytes=given["disk_room"],
        etcd_liveness_seconds=liveness,
        api_server_liveness_seconds=liveness,
        settle_seconds=given["settle"],
        metrics_endpoints=tuple(url.strip() for url in metrics if url.strip()),
    )


def holder() -> str:
    """Who we are, for whoever meets our lock."""
    return f"etcd-steward on {socket.gethostname()} (process {os.getpid()})"
