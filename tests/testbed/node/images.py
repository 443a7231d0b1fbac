"""Images without a registry and without a daemon: buildah, and a base that mmdebstrap makes.

All of it lies in the cache folder; a build takes from there what has not changed. `BASE` in the
environment names another base for the Dockerfile, which buildah then pulls.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import process
from tests.testbed.binaries import Progress, cache_directory, say
from tests.testbed.locks import locked_file
from tests.testbed.process import TestbedError

ROOT = Path(__file__).resolve().parents[3]
STEWARD = "localhost/etcd-steward:node-test"
PAUSE = "localhost/pause:node-test"
INPUTS = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml")
INPUT_FOLDERS = ("operator", "requirements")
# No priority decides what is in it, so it is named: a shell, Python with venv, trusted roots.
PACKAGES = "base-files,ca-certificates,coreutils,dash,libc-bin,libstdc++6,python3,python3-venv"
BUILD_TIMEOUT = 1800  # seconds; the first time everything is downloaded
TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
_BASE_FILE = """FROM scratch
ADD base.tar /
RUN cat /usr/share/ca-certificates/mozilla/*.crt > /etc/ssl/certs/ca-certificates.crt \\
    && echo 'root:x:0:0::/:/bin/sh' > /etc/passwd && echo 'root:x:0:' > /etc/group
"""
# What keeps a Pod's namespaces open; it never ends by itself.
_PAUSE_FILE = 'ARG BASE\nFROM ${BASE}\nENTRYPOINT ["sleep", "infinity"]\n'
# crun and systemd's cgroups are not for every machine; runc is there, for containerd.
_CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
"""


@dataclass(frozen=True, slots=True)
class Archives:
    """Images as files, for `ctr images import`."""

    steward: Path
    pause: Path


async def archives(*, progress: Progress = say) -> Archives:
    """Return the images' archives, building what is not there yet.

    Raises TestbedError with what mmdebstrap or buildah said.
    """
    folder = cache_directory() / "images"
    async with locked_file(
        folder / "build.lock",
        owner=f"process {os.getpid()} building images",
        waiting=lambda owner: progress(f"waiting for another build: {owner}"),
    ):
        builder = _Builder(folder, progress)
        base = os.environ.get("BASE") or await builder.base()
        pause = await builder.archive("pause", PAUSE, base, _digest(base, _PAUSE_FILE))
        steward = await builder.archive("steward", STEWARD, base, _digest(base, *_inputs()))
        return Archives(steward, pause)


def _inputs() -> list[str]:
    files = [ROOT / name for name in INPUTS]
    for folder in INPUT_FOLDERS:
        found = (ROOT / folder).rglob("*")
        files += sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts)
    return [f"{file.relative_to(ROOT)} {_digest(file.read_bytes().hex())}" for file in files]


def _sources() -> list[Path]:
    """Return where this machine's own packages come from; other vendors' are no concern of ours."""
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian*")]
    return [file for file in files if file.exists()]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class _Builder:
    folder: Path
    progress: Progress

    async def base(self) -> str:
        """Return the name of a Debian with Python, of this machine's own release."""
        release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        name = f"localhost/base:{release}-{_digest(PACKAGES, _BASE_FILE)}"
        if (await self._run("images", "--quiet", name, check=False)).strip():
            return name
        context = self.folder / "base"
        async with self._timed(f"putting a base image together from {release}'s packages"):
            context.mkdir(parents=True, exist_ok=True)
            await process.check_output(
                "mmdebstrap",
                "--quiet",
                "--variant=extract",  # unpacked is enough: seven times faster than set up
                "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                f"--include={PACKAGES}",
                release,
                context / "base.tar",
                *_sources(),
                env=dict(os.environ),
                timeout=BUILD_TIMEOUT,
            )
            (context / "Dockerfile").write_text(_BASE_FILE)
            await self._run("bud", "--isolation=chroot", f"--tag={name}", context)
            shutil.rmtree(context)
        return name

    async def archive(self, kind: str, name: str, base: str, digest: str) -> Path:
        """Return the archive of one image, which `digest` names."""
        target = self.folder / f"{kind}-{digest}.tar"
        if target.exists():
            return target
        async with self._timed(f"building the image {name}"):
            await (self._pause(base) if kind == "pause" else self._steward(base))
            part = target.with_suffix(".part")
            part.unlink(missing_ok=True)
            await self._run("push", "--quiet", name, f"docker-archive:{part}:{name}")
            for old in self.folder.glob(f"{kind}-*.tar"):
                old.unlink()
            part.rename(target)
        return target

    async def _pause(self, base: str) -> None:
        context = self.folder / "pause"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(_PAUSE_FILE)
        tag = f"--tag={PAUSE}"
        await self._run("bud", "--isolation=chroot", f"--build-arg=BASE={base}", tag, context)

    async def _steward(self, base: str) -> None:
        """Build the Dockerfile as it is; its first stage gets a name: `--prune` spares it then."""
        for stage in ("dependencies", ""):
            name = f"localhost/etcd-steward-{stage}:node-test" if stage else STEWARD
            await self._run(
                "bud",
                "--layers",
                "--isolation=chroot",
                "--network=host",
                f"--build-arg=BASE={base}",
                *self._volumes(),
                *([f"--target={stage}"] if stage else []),
                f"--tag={name}",
                ROOT,
            )
        await self._run("rm", "--all")  # what a build that failed has left holds its images
        await self._run("rmi", "--prune")

    def _volumes(self) -> list[str]:
        """Give the build a cache, and what leads this machine's own pip to its registry."""
        settings = self.folder / "uv.toml"
        settings.write_text('system-certs = true\ncache-dir = "/var/cache/uv"\n')
        cache = self.folder / "uv-cache"
        cache.mkdir(exist_ok=True)
        pip = self.folder / "pip.conf"
        own = Path("/etc/pip.conf")
        pip.write_text(own.read_text() if own.exists() else f"[global]\ncert = {TRUSTED}\n")
        trusted = Path(os.environ.get("SSL_CERT_FILE") or TRUSTED)
        pairs = {settings: "/etc/uv/uv.toml:ro", pip: "/etc/pip.conf:ro", trusted: f"{TRUSTED}:ro"}
        return [f"--volume={source}:{at}" for source, at in pairs.items()] + [
            f"--volume={cache}:/var/cache/uv"
        ]

    async def _run(self, *arguments: str | Path, check: bool = True) -> str:
        """Run buildah in a mount namespace, where nothing of a killed build stays mounted."""
        configuration = self.folder / "containers.conf"
        configuration.write_text(_CONTAINERS_CONF)
        output = await process.run(
            *("unshare", "--mount", "buildah", "--root", self.folder / "store"),
            *("--runroot", self.folder / "run", "--storage-driver=overlay"),
            *arguments,
            env={**os.environ, "CONTAINERS_CONF": str(configuration)},
            timeout=BUILD_TIMEOUT,
        )
        if output.status and check:
            said = (output.stderr or output.stdout).decode(errors="replace")
            raise TestbedError(f"buildah {arguments[0]} failed:\n{said[-3000:].rstrip()}")
        return output.stdout.decode()

    @contextlib.asynccontextmanager
    async def _timed(self, what: str) -> AsyncIterator[None]:
        begin = time.monotonic()
        self.progress(what)
        yield
        self.progress(f"{what}: done in {time.monotonic() - begin:.0f} s")
