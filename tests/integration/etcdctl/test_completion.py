"""Shells complete keys of the live etcd, one level at a time."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from etcd_steward.cli.etcdctl import key_levels
from etcd_steward.cli.etcdctl.key_levels import Levels
from etcd_steward.etcd.client import EtcdClient
from tests.integration.etcd_connections import connection_to
from tests.support.terminal import terminal
from tests.testbed import EtcdCluster
from tests.testbed.process import clean_environment, run

QUOTED = tuple(
    f"/quoted/{number}/$(touch run)`touch run`\\\"'!!; touch run;" for number in range(9)
)
OTHERS = ("/quoted/comma,a,", "~tilde")
KEYS = (
    "/registry/configmaps/shop/settings",
    "/registry/configmaps/shop/tls:ca",
    "/registry/configmaps/stage/settings",
    "/registry/clusterroles/system:node",
    "/registry/clusterroles/system:masters",
    "/odd/a b$c",
    "/odd/ü",
    "/odd/line\nbreak",
    "plain",
    *QUOTED,
    *OTHERS,
)


@pytest.fixture
async def etcd_with_keys(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """An etcd of our own for each test: completion shows all that it has."""
    async with EtcdCluster(tmp_path / "etcd") as cluster:
        async with EtcdClient.connect(connection_to(cluster)) as client:
            for key in KEYS:
                await client.put(key.encode(), f"value of {key}".encode())
        yield cluster


def environment(etcd: EtcdCluster) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{clean_environment()['PATH']}"
    said = {"PATH": path, "TERM": "dumb", "ETCDCTL_ENDPOINTS": etcd.endpoints[0]}
    return clean_environment(said | {"LC_ALL": "C.UTF-8", "PS1": "$ ", "INPUTRC": "/dev/null"})


async def test_bash_completes_keys_level_by_level(etcd_with_keys: EtcdCluster) -> None:
    env = environment(etcd_with_keys)
    async with terminal(["bash", "--norc", "--noprofile", "-i"], env) as shell:
        for setting in ("bell-style none", "page-completions off", "enable-bracketed-paste off"):
            await shell.type(f"bind 'set {setting}'\n", "$ ")
        await shell.type("source <(etcd-steward completion bash); echo so''urced\n", "sourced")

        assert "get " in await shell.type("etcd-steward ge\t", "etcd-steward get ")
        await shell.type("/reg\t", "/registry/")
        await shell.type("co\t", "configmaps/")
        await shell.type("sh\t", "shop/")
        shown = await shell.type("\t\t", "settings", "tls:ca")
        assert "stage" not in shown
        await shell.type("s\t", "settings ")
        await shell.type("\n", "value of /registry/configmaps/shop/settings")

        # bash splits words at colons and equal signs.
        flag = f"--endpoints={etcd_with_keys.endpoints[0]}"
        await shell.type("unset ETCDCTL_ENDPOINTS; echo un''set\n", "unset")
        await shell.type(f"etcd-steward {flag} get /registry/cl\t", "clusterroles/")
        await shell.type("s\t", "system:")
        await shell.type("no\t", "de ")
        await shell.type("\n", "value of /registry/clusterroles/system:node")

        await shell.type(f"etcd-steward del {flag} /odd/a\t", "a\\ b\\$c")
        await shell.type("\n", "1\n")
        await shell.type(f"etcd-steward get {flag} '/odd/\t", "ü")
        await shell.type("\n", "value of /odd/ü")


async def test_bash_runs_no_key(
    etcd_with_keys: EtcdCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever a quote is open, a key is inserted as text; what it names is what is asked for."""
    env, empty = environment(etcd_with_keys), tmp_path_factory.mktemp("empty")
    async with terminal(["bash", "--norc", "--noprofile", "-i"], env) as shell:
        for setting in ("bell-style none", "enable-bracketed-paste off"):
            await shell.type(f"bind 'set {setting}'\n", "$ ")
        await shell.type(f"cd {empty}; echo en''tered\n", "entered")
        await shell.type("source <(etcd-steward completion bash); echo so''urced\n", "sourced")
        for key, typed in zip(
            (*QUOTED, *OTHERS),
            (
                *("/quoted/0/", "'/quoted/1/", '"/quoted/2/', "/quoted/'3/", '/quoted/"4/'),
                *("'/quoted'/5/", "'/quoted/6/$(touch run)`t", '"/quoted/7/\\$(t'),
                *(r"/quoted/8/\$\(t", "/quoted/com", "~t"),
            ),
            strict=True,
        ):
            await shell.type(f"etcd-steward get {typed}\t\n", f"value of {key}")
    assert not os.listdir(empty)  # noqa: PTH208  # of one directory, at once


async def test_nothing_is_offered_where_no_etcd_is(etcd_with_keys: EtcdCluster) -> None:
    env = environment(etcd_with_keys)
    for line in (
        "etcd-steward get --endpoints=127.0.0.1:1 /reg",
        "etcd-steward get --user=somebody /reg",
        "etcd-steward get --from=etcd.db /reg",
        "etcd-steward watch /a -- /reg",
        "etcd-steward put /a /reg",
    ):
        asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_WORDBREAKS": " :="}
        done = await run(
            *(sys.executable, "-m", "etcd_steward"),
            env=env | asked | {"_ETCD_STEWARD_COMPLETE": "bash_complete"},
            stdin=b"",
        )
        assert (done.status, done.stdout.strip()) == (0, b""), line


@pytest.mark.program("zsh")
async def test_zsh_completes_keys_level_by_level(etcd_with_keys: EtcdCluster) -> None:
    async with terminal(["zsh", "-f", "-i"], environment(etcd_with_keys)) as opened:
        await opened.type("autoload -Uz compinit; compinit -u -D; echo rea''dy\n", "ready")
        await opened.type("source <(etcd-steward completion zsh); echo so''urced\n", "sourced")
        await opened.type("etcd-steward ge\t", "etcd-steward get ")
        await opened.type("/reg\t", "istry/")
        await opened.type("co\t", "nfigmaps/")
        await opened.type("sh\t", "op/")
        await opened.type("se\t", "ttings ")
        await opened.type("\n", "value of /registry/configmaps/shop/settings")
        await opened.type("etcd-steward get /odd/a\t", "\\ b\\$c")
        await opened.type("\n", "value of /odd/a b$c")
        await opened.type("etcd-steward get /registry/cl\t", "usterroles/")
        await opened.type("s\t", "ystem:")
        await opened.type("no\t", "de ")
        await opened.type("\n", "value of /registry/clusterroles/system:node")


@pytest.mark.program("fish")
async def test_fish_is_offered_keys_level_by_level(etcd_with_keys: EtcdCluster) -> None:
    for word, offered in (
        ("/reg", ["/registry/"]),
        ("/registry/", ["/registry/clusterroles/", "/registry/configmaps/"]),
        ("/registry/clusterroles/system:n", ["/registry/clusterroles/system:node"]),
    ):
        script = f"etcd-steward completion fish | source; complete -C 'etcd-steward get {word}'"
        command = ("fish", "--no-config", "-c", script)
        done = await run(*command, env=environment(etcd_with_keys), stdin=b"")
        assert done.stdout.decode().split() == offered, done.stderr


async def test_levels_of_many_keys(
    etcd_with_keys: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EtcdClient.connect(connection_to(etcd_with_keys)) as client:
        for folder in range(12):
            for number in range(10):
                await client.put(b"/many/%02d/%d" % (folder, number), b"")
        await client.put(b"/many/", b"")
        await client.put(b"/many/03", b"")
        folders = [b"/many/%02d/" % folder for folder in range(12)]
        expected = sorted([*folders, b"/many/", b"/many/03"])

        async def read(typed: bytes) -> tuple[list[bytes], bool]:
            levels = Levels(client, typed)
            return list(await levels.read()), levels.complete

        assert await read(b"/many/") == (expected, True)
        assert await read(b"/many/0") == ([key for key in expected if key[6:7] == b"0"], True)
        assert await read(b"/many/03/1") == ([b"/many/03/1"], True)
        assert await read(b"/none") == ([], True)
        assert (await read(b""))[0] == [
            *(b"/many/", b"/odd/", b"/quoted/", b"/registry/", b"plain", b"~tilde")
        ]

        monkeypatch.setattr(key_levels, "_PAGE", 3)
        assert await read(b"/many/") == (expected, True)
        monkeypatch.setattr(key_levels, "_MUCH", 50)  # then it is cut by bytes
        assert await read(b"/many/") == (expected, True)
        monkeypatch.setattr(key_levels, "MOST", 5)
        found, complete = await read(b"/many/")
        assert not complete
        assert set(found) <= set(expected)
