"""A run's child process, real ones: what becomes of each way to end."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from etcd_steward.handlers.child import Limits, Listener, Lost, Outcome, Stopped, run_child
from etcd_steward.models.connection import EtcdConnection, LocalSettings
from etcd_steward.models.manifest import BackupRef, RunRef
from etcd_steward.models.run import (
    Failure,
    Journal,
    Progress,
    Settled,
    SettleRequest,
    SnapshotRequest,
    SpoolSettings,
)

LIMITS = Limits(silence=5.0, grace=5.0)
PREAMBLE = """
import json, os, signal, sys, time
def say(**event): print(json.dumps(event), flush=True)
request = json.loads(sys.stdin.readline())
"""


STORE = LocalSettings(path=Path("/nowhere"))
SPOOL = SpoolSettings(directory=Path("/nowhere"))
SETTLE = SettleRequest(store=STORE, spool=SPOOL, run="0a1b2c3d")
SNAPSHOT = SnapshotRequest(
    etcd=EtcdConnection(endpoints=("http://127.0.0.1:1",)),
    store=STORE,
    spool=SPOOL,
    backup=BackupRef(namespace="ns", name="nightly"),
    requester=RunRef(),
    run="0a1b2c3d",
    tick=datetime(2026, 11, 22, tzinfo=UTC),
)


class Ear(Listener):
    """Remembers what a child says."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.heard = asyncio.Event()
        self.hold = 0.0

    def progress(self, progress: Progress) -> None:
        self.said.append(progress)
        self.heard.set()

    def warning(self, message: str) -> None:
        self.said.append(message)

    async def journal(self, journal: Journal) -> None:
        await asyncio.sleep(self.hold)
        self.said.append(journal)


async def outcome(
    script: str,
    ear: Ear | None = None,
    stop: asyncio.Event | None = None,
    limits: Limits = LIMITS,
    request: SettleRequest | SnapshotRequest = SETTLE,
) -> Outcome:
    command = (sys.executable, "-I", "-S", "-c", PREAMBLE + script)
    return await run_child(command, request, ear or Ear(), stop or asyncio.Event(), limits)


async def test_events_are_heard_in_order_and_the_last_one_counts() -> None:
    ear = Ear()
    found = await outcome(
        "say(event='progress', step=request['run'])\n"
        "say(event='warning', message='w')\n"
        "say(event='settled', aborted=2)\n",
        ear,
    )
    assert found == Settled(aborted=2)
    assert ear.said == [Progress(step="0a1b2c3d"), "w"]


async def test_a_child_waits_until_its_journal_is_written() -> None:
    ear = Ear()
    ear.hold = 0.3
    found = await outcome(
        "begin = time.monotonic()\n"
        "say(event='journal', folder='f', key='k', uploadID='u')\n"
        "answer = sys.stdin.readline()\n"
        "assert answer == 'ok\\n'\n"
        "say(event='settled', aborted=int(time.monotonic() - begin >= 0.29))\n",
        ear,
    )
    assert found == Settled(aborted=1)
    assert ear.said == [Journal(folder="f", key="k", upload_id="u")]


async def test_a_failure_keeps_its_words() -> None:
    found = await outcome("say(event='failure', reason='NoLeader', message='m', transient=True)")
    assert found == Failure(reason="NoLeader", message="m", transient=True)


@pytest.mark.parametrize(
    ("script", "reason", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "Died", "was killed by signal 9"),
        ("sys.exit(3)", "Died", "ended with code 3"),
        ("print('hello'); sys.stdout.flush(); time.sleep(60)", "Internal", "can't be understood"),
    ],
)
async def test_a_child_that_dies_without_a_word_is_lost(
    script: str, reason: str, words: str
) -> None:
    found = await outcome(script)
    assert isinstance(found, Lost)
    assert found.failure.reason == reason
    assert words in found.failure.message
    assert found.failure.transient


async def test_a_child_that_can_not_be_started_is_lost() -> None:
    found = await run_child(["/nowhere"], SETTLE, Ear(), asyncio.Event(), LIMITS)
    assert isinstance(found, Lost)
    assert "no process could be started for the run: No such file" in found.failure.message
    assert found.failure.transient


async def test_a_silent_child_is_killed() -> None:
    ear = Ear()
    found = await outcome(
        "say(event='progress', step=str(os.getpid())); time.sleep(60)",
        ear,
        limits=Limits(silence=0.5, grace=1.0),
    )
    assert isinstance(found, Lost)
    assert found.failure.reason == "Silent"
    (progress,) = ear.said
    assert isinstance(progress, Progress)
    with pytest.raises(ProcessLookupError):
        os.kill(int(progress.step), 0)


async def stopped(
    script: str, grace: float = 5.0, request: SettleRequest | SnapshotRequest = SNAPSHOT
) -> Outcome:
    ear, stop = Ear(), asyncio.Event()
    limits = Limits(silence=20.0, grace=grace)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(outcome(script, ear, stop, limits, request))
        await ear.heard.wait()
        stop.set()
    return task.result()


@pytest.mark.parametrize(
    ("last_word", "clean"),
    [
        ("say(event='settled', aborted=1)", True),
        ("sys.exit(130)", False),  # it could not look, or could not abort
        ("sys.exit(0)", False),
        ("sys.exit(1)", False),
    ],
)
async def test_only_a_stopped_child_that_says_so_has_left_nothing(
    last_word: str, clean: bool
) -> None:
    found = await stopped(f"say(event='progress', step='s'); sys.stdin.read(); {last_word}")
    assert found == Stopped(clean=clean)


async def test_a_child_that_does_not_mind_is_killed() -> None:
    found = await stopped("say(event='progress', step='s'); time.sleep(60)", grace=0.3)
    assert found == Stopped(clean=False)


async def test_an_outcome_that_comes_while_stopping_counts() -> None:
    found = await stopped(
        "say(event='progress', step='s'); sys.stdin.read(); say(event='settled', aborted=0)",
        request=SETTLE,
    )
    assert found == Settled(aborted=0)


async def test_cancelling_leaves_no_child() -> None:
    ear = Ear()
    task = asyncio.create_task(
        outcome("say(event='progress', step=str(os.getpid())); time.sleep(60)", ear)
    )
    await ear.heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (progress,) = ear.said
    assert isinstance(progress, Progress)
    with pytest.raises(ProcessLookupError):
        os.kill(int(progress.step), 0)


def test_the_operator_imports_none_of_the_heavy_libraries() -> None:
    script = "import json, sys, etcd_steward.handlers; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"boto3", "botocore", "numpy", "grpc", "etcd3", "pyarrow"}
