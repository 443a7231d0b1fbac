"""Fixtures for every test: real servers, started once per worker and only if asked for."""

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from unittest import mock

import pytest
from hypothesis import settings

from tests.testbed import ControlPlane, EtcdCluster, SeaweedFS
from tests.testbed.binaries import build_all, missing, optional_missing
from tests.testbed.node.images import archives
from tests.testbed.node.needs import absent as absent_for_a_node
from tests.testbed.process import TestbedError, foreign_variables

HERMETIC = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
PROGRAMS = {"fish": "completion", "zsh": "completion", "chromium": "pages in a browser"}
"""What `make packages` brings, and what can't be tested without it."""
FORGOTTEN = {name: os.environ[name] for name in foreign_variables()}


def pytest_configure(config: pytest.Config) -> None:
    """Forget what this shell says about etcd, AWS, Kubernetes and proxies: tests say it."""
    settings.register_profile("etcd-steward", deadline=None)  # how busy a machine is, is no fault
    settings.load_profile("etcd-steward")
    config.addinivalue_line("markers", "etcd34: needs etcd 3.4; left out where there is none")
    config.addinivalue_line("markers", "node: needs a Kubernetes node; left out where none can be")
    config.addinivalue_line("markers", "program(name): needs Debian's; left out where it is not")
    for name in FORGOTTEN:
        del os.environ[name]
    os.environ.update(HERMETIC)


def pytest_unconfigure() -> None:
    """Leave the environment as it was, for whoever runs pytest inside a program."""
    for name in HERMETIC:
        del os.environ[name]
    os.environ.update(FORGOTTEN)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs an optional part that is absent; the summary says so."""
    for marker, absent in (("etcd34", _no_etcd34), ("node", absent_for_a_node)):
        optional = [item for item in items if item.get_closest_marker(marker)]
        if optional and absent():
            config.hook.pytest_deselected(items=optional)
            items[:] = [item for item in items if item not in optional]
    absent_programs = _absent_programs()
    lacking = [item for item in items if _program_of(item) in absent_programs]
    if lacking:
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in lacking]


def _program_of(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("program")
    return None if marker is None else str(marker.args[0])


def _absent_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


def _no_etcd34() -> list[str]:
    return asyncio.run(optional_missing())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing now, shown and outside any test's time limit."""
    config = session.config
    if config.option.collectonly or all("unit" in item.path.parts for item in session.items):
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    # Go needs the proxy variables that tests must not see.
    with capture.global_and_fixture_disabled(), mock.patch.dict(os.environ, FORGOTTEN):
        if asyncio.run(missing()):
            asyncio.run(build_all())
        if any(item.get_closest_marker("node") for item in session.items):
            with contextlib.suppress(TestbedError):  # a fixture says it again, of its tests alone
                asyncio.run(archives())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what this machine could not test."""
    without = [f"{PROGRAMS[name]}: no {name} on PATH" for name in _absent_programs()]
    if absent := [*_no_etcd34(), *absent_for_a_node(), *without]:
        terminalreporter.section("NOT RUN", yellow=True)
        for sentence in absent:
            terminalreporter.line(sentence)


@pytest.fixture(scope="session")
async def etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """One member, plaintext. Shared: keep to `key_prefix`, and start your own to break it."""
    async with EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
async def etcd_mtls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """Three members with mutual TLS. Shared: whoever stops a member starts it again."""
    async with EtcdCluster(tmp_path_factory.mktemp("etcd-mtls"), members=3, mtls=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
async def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SeaweedFS]:
    """S3 without TLS. Shared: keep to `bucket`."""
    async with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
async def control_plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """API server and controller manager over an mTLS etcd of their own (`control_plane.etcd`)."""
    directory = tmp_path_factory.mktemp("kubernetes")
    async with (
        EtcdCluster(directory / "etcd", mtls=True) as cluster,
        ControlPlane(directory / "control-plane", cluster) as plane,
    ):
        yield plane


@pytest.fixture
async def bucket(seaweedfs: SeaweedFS) -> AsyncIterator[str]:
    """A bucket of this test's own, gone with all its objects afterwards."""
    name = await seaweedfs.create_bucket(f"test-{secrets.token_hex(6)}")
    yield name
    await seaweedfs.delete_bucket(name)


@pytest.fixture
def key_prefix() -> str:
    """A prefix in etcd that no other test uses."""
    return f"/test/{secrets.token_hex(6)}/"


@pytest.fixture
async def namespace(control_plane: ControlPlane) -> AsyncIterator[str]:
    """A Kubernetes namespace of this test's own."""
    name = f"test-{secrets.token_hex(6)}"
    await control_plane.kubectl("create", "namespace", name)
    yield name
    await control_plane.kubectl("delete", "namespace", name, "--wait=false")
