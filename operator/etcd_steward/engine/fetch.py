"""Bringing a snapshot back to this host, as the file that `etcdutl snapshot restore` takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from etcd_steward.deadline import Deadline
from etcd_steward.engine.download import TIMEOUT, download
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.errors import AlreadyExists, InvalidInput
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import Store


async def fetch(
    store: Store,
    manifest: Manifest,
    target: Path,
    report: Report,
    *,
    force: bool = False,
    timeout: float = TIMEOUT,
) -> None:
    """Write the uncompressed snapshot to `target`, mode 0600, once all its digests agree.

    Raises `AlreadyExists` if `target` is there and `force` is not set, `InvalidInput` if it can't
    be written, `TimedOut` after `timeout` seconds. A file of that name is either whole or as it
    was.
    """
    tracker = Tracker(report)
    tracker.step = "Fetching"
    try:
        with _replacing(target, force=force) as file:
            async with Deadline.after(timeout).enforce("fetching the backup"), tracker.reporting():
                await download(store, manifest, file.write, tracker)
    except OSError as error:
        raise InvalidInput(
            f"{target} can't be written: {error.strerror}",
            hint=f"{manifest.raw_size / 2**20:,.0f} MiB are needed there",
        ) from error


@contextmanager
def _replacing(target: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file beside `target` that takes its name once the body has succeeded."""
    if target.exists() and not force:
        raise AlreadyExists(
            f"{target} is there already", hint="name another file, or overwrite it with --force"
        )
    partial = target.with_name(f"{target.name}.part")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
