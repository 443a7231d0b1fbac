"""What is shipped works with its locked runtime dependencies alone, and holds nothing else."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.testbed.process import clean_environment

ROOT = Path(__file__).resolve().parents[2]

IMPORT_ALL = """
import importlib, pkgutil, etcd_steward
for module in pkgutil.walk_packages(etcd_steward.__path__, "etcd_steward."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def uv(*arguments: str | Path) -> None:
    """Run the uv that tools/setup installed; its cache has everything since then."""
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "uv is not there: run tools/setup"
    env = clean_environment({"UV_PYTHON_DOWNLOADS": "never", "UV_OFFLINE": "1"})
    done = subprocess.run(
        [program, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stderr}\n(uv's cache was emptied? make clean setup)"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", "--wheel", "--out-dir", directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install as the Dockerfile does: locks by hash, then the wheel without dependencies."""
    directory = tmp_path_factory.mktemp("venv") / "etcd-steward"
    uv("venv", "--quiet", "--python", sys.executable, directory)
    install = ("pip", "install", "--quiet", "--python", directory / "bin" / "python")
    constraints = "requirements/build-constraints.txt"
    locks = ("--require-hashes", "--build-constraints", constraints)
    uv(*install, *locks, "-r", "requirements/runtime.txt")
    uv(*install, "--no-deps", wheel)
    return directory


def test_installed_program_runs_away_from_the_checkout(venv: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [venv / "bin" / "etcd-steward", "--help"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "snapshot" in done.stdout
    assert "run" in done.stdout


def test_every_module_imports_without_test_dependencies(venv: Path, tmp_path: Path) -> None:
    subprocess.run(
        [venv / "bin" / "python", "-I", "-c", IMPORT_ALL],
        cwd=tmp_path,
        env=clean_environment(),
        check=True,
    )


def test_locks_are_consistent(venv: Path) -> None:
    uv("pip", "check", "--quiet", "--python", venv / "bin" / "python")


def test_wheel_holds_the_package_and_its_licence_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert {top for top in tops if not top.endswith(".dist-info")} == {"etcd_steward"}
    assert len(licences) == 1


def test_image_is_built_with_the_uv_that_developers_use() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    setup = (ROOT / "tools" / "setup").read_text()
    (image,) = re.findall(r"^ARG UV_VERSION=(\S+)$", dockerfile, re.MULTILINE)
    (developers,) = re.findall(r"^uv_version=(\S+)$", setup, re.MULTILINE)
    assert image == developers
