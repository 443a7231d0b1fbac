"""`python -m tests.testbed`, as a person uses it."""

import asyncio
import contextlib
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from tests.testbed import wait_until
from tests.testbed.process import check_output, clean_environment

ROOT = Path(__file__).parents[3]
TESTBED = (sys.executable, "-m", "tests.testbed")


async def test_help_shows_examples() -> None:
    text = await check_output(*TESTBED, "--help", cwd=ROOT)
    for verb in ("build", "up", "seed", "load"):
        assert re.search(rf"^  {verb} ", text, re.MULTILINE)
    assert "python -m tests.testbed up --members 3 --mtls --seed" in text


async def test_up_prints_commands_that_work_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        *(*TESTBED, "up", "--mtls", "--keys", "200", "--dir", tmp_path / "sandbox"),
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert up.stdout
        text = (
            await asyncio.wait_for(up.stdout.readuntil(b"Ctrl-C takes it all down."), 120)
        ).decode()
        exported = dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))
        assert exported.keys() == {"KUBECONFIG", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        kubectl, etcdctl, steward = (
            shlex.split(line) for line in text.partition("try:\n")[2].splitlines()[:3]
        )
        environment = clean_environment(exported)
        assert "service/kubernetes" in await check_output(*kubectl, env=environment)
        assert "3.6." in await check_output(*etcdctl, env=environment)
        assert steward[1:3] == ["snapshot", "save"]

        up.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(up.communicate(), 60)
        assert up.returncode == 130
        assert "200 keys" in errors.decode()
        assert errors.decode().endswith("taking everything down …\n")
    finally:
        with contextlib.suppress(ProcessLookupError):
            up.kill()

    async def silent() -> bool:
        ps = await check_output("ps", "-eo", "args")
        return str(tmp_path) not in ps

    await wait_until(silent, "no process of the sandbox is left")


async def test_contradictions_are_refused() -> None:
    for arguments, words in (
        (["--auth"], "--auth needs --no-kubernetes"),
        (["--seed", "--no-kubernetes"], "--seed goes through the API server"),
        (["--dir", str(ROOT)], "is not empty"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(*TESTBED, "up", *arguments), cwd=ROOT, stderr=subprocess.PIPE
        )
        _, errors = await process.communicate()
        assert process.returncode == 2
        assert words in errors.decode()
