"""`etcd-steward check`: the preflight."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Verb
from etcd_steward.cli.output import emit, output_option, sentence
from etcd_steward.cli.running import run
from etcd_steward.cli.store_flags import StoreFlags, spool_options, store_options
from etcd_steward.config import EtcdFlags
from etcd_steward.models.connection import LocalSettings, S3Settings
from etcd_steward.models.run import SpoolSettings

if TYPE_CHECKING:
    from etcd_steward.engine.findings import Finding

_PATIENCE = 10.0
"""Seconds that trouble of the store is ridden out: a backup waits longer, a person doesn't."""
_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red", "skipped": "bright_black"}
_EXIT = {"failure": 1, "warning": 4}


@click.command(
    "check",
    cls=Verb,
    examples="""
etcd-steward check --endpoints https://10.0.0.1:2379 \\
    --cacert ca.crt --cert client.crt --key client.key
etcd-steward check --store s3://etcd-backups/prod
etcd-steward check --endpoints 10.0.0.1:2379 --store file:///var/backups/etcd -o json
""",
)
@etcd_options(optional=True)
@store_options(writes=True)
@spool_options
@output_option
def check(etcd: EtcdFlags | None, store: StoreFlags, spool: SpoolSettings, output: str) -> int:
    """Look whether a backup would work: what does, what doesn't, what to do.

    With --endpoints etcd is looked at: certificates, members, leader, alarms, size, versions, and
    whether it sends snapshots. With --store each right is really tried, below PREFIX/_check/, and
    nothing stays. With neither, the etcd on this host is looked at. A failure ends with exit code
    1, a warning with 4.
    """
    settings = store.settings() if store.url else None
    if etcd is None and settings is None:
        etcd = EtcdFlags()
    findings = run(_look(etcd, settings, spool), stopping="Stopping.")
    if output == "table":
        _print(findings)
    else:
        emit([asdict(finding) for finding in findings], output)
    verdicts = {finding.verdict.value for finding in findings}
    return next((code for verdict, code in _EXIT.items() if verdict in verdicts), 0)


async def _look(
    etcd: EtcdFlags | None, settings: S3Settings | LocalSettings | None, spool: SpoolSettings
) -> "list[Finding]":
    from etcd_steward.app import open_etcd, open_store  # noqa: PLC0415  # grpc, boto3: slow
    from etcd_steward.engine import check as engine  # noqa: PLC0415
    from etcd_steward.engine.check_store import check_store  # noqa: PLC0415
    from etcd_steward.engine.findings import Finding, Verdict, answered  # noqa: PLC0415

    size: int | None = None

    async def look_at_etcd(flags: EtcdFlags) -> list[Finding]:
        nonlocal size
        connection = flags.connection()
        async with open_etcd(connection) as client:
            findings, size = await engine.check_etcd(client, connection)
        return findings

    async def look_at_store(settings: S3Settings | LocalSettings) -> list[Finding]:
        async with open_store(settings) as opened:
            return await check_store(opened)

    if etcd is None:
        findings = [Finding("etcd", Verdict.SKIPPED, "not looked at", "name it by --endpoints")]
    else:
        findings = await answered("etcd", look_at_etcd(etcd))
    findings += await engine.check_spool(spool, size)
    if settings is None:
        return [
            *findings, Finding("store", Verdict.SKIPPED, "not looked at", "name it by --store")
        ]  # fmt: skip
    if isinstance(settings, S3Settings):
        settings = settings.model_copy(update={"retry_seconds": _PATIENCE})
    return findings + await answered("store", look_at_store(settings))


def _print(findings: "list[Finding]") -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        verdict = finding.verdict.value
        mark = click.style(f"{verdict:<7}", fg=_COLOURS[verdict])
        click.echo(f"{mark}  {finding.check:<{width}}  {finding.message}")
        if finding.hint:
            click.echo(f"{'':<7}  {'':<{width}}  -> {sentence(finding.hint)}")
    counts = [
        f"{number} {word}"
        for word, number in (
            ("failed", sum(f.verdict.value == "failure" for f in findings)),
            ("need a look", sum(f.verdict.value == "warning" for f in findings)),
        )
        if number
    ]
    click.echo(f"\n{', '.join(counts)}" if counts else "\nAll is well")
