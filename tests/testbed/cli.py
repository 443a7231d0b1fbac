"""The test bed at the shell: `python -m tests.testbed --help`."""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tests.testbed.binaries import binary, build_all, missing, optional_missing, say
from tests.testbed.bulk import load as load_keys
from tests.testbed.certs import KeyPair
from tests.testbed.demo import demo as tell_story
from tests.testbed.docs import check as check_pages
from tests.testbed.docs import pages as all_pages
from tests.testbed.etcd import DEFAULT_VERSION, Auth, EtcdAddress, EtcdCluster
from tests.testbed.kubernetes import ControlPlane, Kubectl
from tests.testbed.process import TestbedError
from tests.testbed.seaweedfs import SeaweedFS
from tests.testbed.seed import seed as seed_registry

BUCKET = "etcd-backups"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run real etcd, a Kubernetes control plane and S3 on loopback, for etcd-steward.

    \b
    python -m tests.testbed build                  build every server once (about eight minutes)
    python -m tests.testbed demo                   the story of `make demo`
    python -m tests.testbed up                     a whole sandbox; Ctrl-C takes it down
    python -m tests.testbed up --members 3 --mtls --seed
    python -m tests.testbed up --etcd 3.7 --no-kubernetes --keys 1000000
    """  # noqa: D301  # click wants a real backspace: "don't fill the next paragraph"


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end; SIGTERM ends it as orderly as Ctrl-C does."""

    async def interruptible() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    try:
        asyncio.run(interruptible())
    except TestbedError as error:
        raise click.ClickException(str(error)) from error
    except ExceptionGroup as group:
        ours, others = group.split(TestbedError)
        if ours is None or others is not None:
            raise
        raise click.ClickException("\n".join(map(str, _leaves(ours)))) from group
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def _leaves(group: ExceptionGroup[TestbedError]) -> Iterator[TestbedError]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


@main.command()
def build() -> None:
    """Find or build every program now. An interrupted build goes on where it was."""

    async def work() -> None:
        lacking = await missing()
        say(f"to build: {', '.join(lacking) or 'nothing'}")
        for name, path in (await build_all()).items():
            print(f"{name:<32} {path}")
        for sentence in await optional_missing():
            print(f"optional, and not here: {sentence}")

    _run(work())


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What `up` has started."""

    etcd: EtcdCluster
    s3: SeaweedFS
    kubernetes: ControlPlane | None


@main.command()
@click.option("--members", type=click.Choice(["1", "3"]), default="1", help="Size of the etcd.")
@click.option("--mtls", is_flag=True, help="etcd with mutual TLS.")
@click.option("--auth", is_flag=True, help="etcd with users; the API server can't log in there.")
@click.option(
    "--etcd",
    "version",
    type=click.Choice(["3.4", "3.5", "3.6", "3.7"]),
    default=DEFAULT_VERSION,
    show_default=True,
    help="etcd's version.",
)
@click.option("--kubernetes/--no-kubernetes", default=True, help="With or without control plane.")
@click.option("--s3-tls", is_flag=True, help="S3 over HTTPS.")
@click.option("--seed", "seeded", is_flag=True, help="Create a few hundred Kubernetes objects.")
@click.option("--keys", type=int, default=0, help="Load so many keys of 1 kB into etcd.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where data, logs and keys go; a temporary folder unless given. It must be empty.",
)
def up(
    *,
    members: str,
    mtls: bool,
    auth: bool,
    version: str,
    kubernetes: bool,
    s3_tls: bool,
    seeded: bool,
    keys: int,
    directory: Path | None,
) -> None:
    """Start a whole sandbox and keep it until Ctrl-C."""
    if auth and kubernetes:
        raise click.UsageError("--auth needs --no-kubernetes: the API server can't log in to etcd")
    if seeded and not kubernetes:
        raise click.UsageError("--seed goes through the API server: leave out --no-kubernetes")
    if directory and directory.exists() and any(directory.iterdir()):
        raise click.UsageError(f"{directory} is not empty")

    async def work(root: Path) -> None:
        etcd = EtcdCluster(
            root / "etcd",
            members=int(members),
            version=version,
            mtls=mtls,
            auth=Auth() if auth else None,
            flags={"quota-backend-bytes": str(8 * 1024**3)},  # room to try things
        )
        async with _sandbox(root, etcd, kubernetes=kubernetes, s3_tls=s3_tls) as sandbox:
            if sandbox.kubernetes and seeded:
                say("creating objects …")
                say(f"{(await seed_registry(sandbox.kubernetes)).objects} objects created")
            if keys:
                await _load(etcd.address, keys)
            await _describe(sandbox, root)
            await asyncio.Event().wait()

    with contextlib.ExitStack() as stack:
        root = directory or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="testbed-"))
        )
        _run(work(root.absolute()))


@contextlib.asynccontextmanager
async def _sandbox(
    root: Path, etcd: EtcdCluster, *, kubernetes: bool, s3_tls: bool
) -> AsyncIterator[Sandbox]:
    async with contextlib.AsyncExitStack() as stack:
        say("starting etcd …")
        await stack.enter_async_context(etcd)
        say("starting SeaweedFS …")
        s3 = await stack.enter_async_context(SeaweedFS(root / "s3", tls=s3_tls))
        await s3.create_bucket(BUCKET)
        control_plane = None
        if kubernetes:
            say("starting kube-apiserver and kube-controller-manager …")
            control_plane = ControlPlane(root / "kubernetes", etcd)
            await stack.enter_async_context(control_plane)
        try:
            yield Sandbox(etcd, s3, control_plane)
        finally:
            say("taking everything down …")


async def _describe(sandbox: Sandbox, root: Path) -> None:
    etcd, s3, kubernetes = sandbox.etcd, sandbox.s3, sandbox.kubernetes
    etcdctl = shlex.join([str(await binary("etcdctl", etcd.version)), *etcd.connection_flags()])
    bundle = f" --s3-ca={s3.ca_file}" if s3.ca_file else ""
    lines = ["", f"data and logs   {root}", f"etcd endpoints  {','.join(etcd.endpoints)}"]
    if etcd.tls:
        lines.append(f"etcd CA, cert   {etcd.tls.ca_file} {etcd.tls.client.cert}")
    lines += [f"S3 endpoint     {s3.endpoint_url}  bucket {BUCKET}", ""]
    if kubernetes:
        lines.append(f"export KUBECONFIG={kubernetes.kubeconfig}")
    lines += [f"export {name}={value}" for name, value in s3.environment().items()]
    if "AWS_CA_BUNDLE" in os.environ:  # it would replace the sandbox's CA
        lines.append("unset AWS_CA_BUNDLE")
    lines += ["", "try:"]
    if kubernetes:
        lines.append(f"  {await binary('kubectl')} get all --all-namespaces")
    steward = f"{Path(sys.executable).with_name('etcd-steward')} snapshot save"
    store = f"--store=s3://{BUCKET} --s3-endpoint={s3.endpoint_url}{bundle}"
    lines.append(f"  {etcdctl} endpoint status -w table")
    lines.append(f"  {steward} {store} {shlex.join(etcd.connection_flags())}")
    lines += ["", "Ctrl-C takes it all down."]
    print("\n".join(lines), flush=True)


@main.command()
def demo() -> None:
    """Tell the whole story: a declared backup, restored, and every key compared."""
    matched = False

    async def work(root: Path) -> None:
        nonlocal matched
        matched = await tell_story(root)

    with tempfile.TemporaryDirectory(prefix="demo-") as root:
        _run(work(Path(root)))
    sys.exit(0 if matched else 1)


@main.command()
@click.option("--write", is_flag=True, help="Put the real output into the pages.")
@click.argument("pages", nargs=-1, type=click.Path(path_type=Path, exists=True, resolve_path=True))
def docs(*, write: bool, pages: tuple[Path, ...]) -> None:
    """Run the commands in README.md and docs/, or in PAGES only."""
    good = False

    async def work() -> None:
        nonlocal good
        good = await check_pages(pages or all_pages(), write=write)

    _run(work())
    sys.exit(0 if good else 1)


@main.command()
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    default=lambda: os.environ.get("KUBECONFIG"),
    required=True,
    help="The sandbox's, as `up` printed it; default $KUBECONFIG.",
)
def seed(kubeconfig: Path) -> None:
    """Create a few hundred objects of many kinds in a running sandbox."""

    async def work() -> None:
        seeded = await seed_registry(Kubectl(kubeconfig))
        print(f"{seeded.objects} objects of {len(seeded.kinds)} kinds, and what controllers add")

    _run(work())


@main.command()
@click.argument("count", type=int)
@click.option("--endpoints", required=True, help="As `up` printed them.")
@click.option("--cacert", type=click.Path(path_type=Path, exists=True))
@click.option("--cert", type=click.Path(path_type=Path, exists=True))
@click.option("--key", type=click.Path(path_type=Path, exists=True))
@click.option("--user", default="", help="NAME:PASSWORD")
@click.option("--value-size", type=int, default=1000, show_default=True, help="Bytes.")
@click.option("--namespaces", type=int, default=100, show_default=True)
def load(
    *,
    count: int,
    endpoints: str,
    cacert: Path | None,
    cert: Path | None,
    key: Path | None,
    user: str,
    value_size: int,
    namespaces: int,
) -> None:
    """Load COUNT keys straight into a running etcd: a million take half a minute."""
    name, _, password = user.partition(":")
    client = KeyPair(cert, key) if cert and key else None
    address = EtcdAddress(tuple(endpoints.split(",")), cacert, client, name, password)
    _run(_load(address, count, value_size=value_size, namespaces=namespaces))


async def _load(
    address: EtcdAddress, count: int, *, value_size: int = 1000, namespaces: int = 100
) -> None:
    said = time.monotonic()

    def progress(written: int) -> None:
        nonlocal said
        if time.monotonic() - said > 2:
            said = time.monotonic()
            say(f"{written:,} of {count:,} keys")

    loaded = await load_keys(
        address, count, value_size=value_size, namespaces=namespaces, progress=progress
    )
    say(f"{loaded.keys:,} keys in {loaded.seconds:.1f} s, revision {loaded.revision}")
