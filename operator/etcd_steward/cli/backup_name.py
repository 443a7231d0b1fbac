"""What the command line calls its backups: without Kubernetes there is no EtcdBackup."""

import re
from typing import Any

import click

from etcd_steward.models.manifest import BackupRef

NAMESPACE = "_cli"
"""Stands where the namespace of an EtcdBackup would: Kubernetes has none of this name."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,50}[a-z0-9])?")


class _BackupName(click.ParamType[BackupRef]):
    """The name of a backup."""

    name = "name"

    def convert(
        self,
        value: Any,  # noqa: ANN401  # text, or what was converted before
        param: click.Parameter | None,  # noqa: ARG002
        ctx: click.Context | None,
    ) -> BackupRef:
        """Return the backup of that name."""
        if isinstance(value, BackupRef):
            return value
        if not _NAME.fullmatch(str(value)):
            raise click.UsageError(
                f"--name {value!r}: at most 52 lower-case letters, digits, '-' and '.', beginning "
                "and ending with a letter or digit",
                ctx,
            )
        return BackupRef(namespace=NAMESPACE, name=str(value))


BACKUP_NAME = _BackupName()
