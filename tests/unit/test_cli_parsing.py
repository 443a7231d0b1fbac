"""The command line's shape: verbs, flags before and after them, help, exit codes of wrong usage."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from etcd_steward.cli.completion import VARIABLE
from etcd_steward.cli.framework import Verb, Verbs
from etcd_steward.cli.main import etcd_steward, main


def commands() -> Iterator[tuple[list[str], click.Command]]:
    """Every command with the words that lead to it."""

    def walk(path: list[str], command: click.Command) -> Iterator[tuple[list[str], click.Command]]:
        yield path, command
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for name in command.list_commands(ctx):
                found = command.get_command(ctx, name)
                assert found is not None
                yield from walk([*path, name], found)

    return walk([], etcd_steward)


EVERY = [pytest.param(path, command, id=" ".join(path) or "-") for path, command in commands()]
VERBS = {" ".join(path) for path, command in commands() if not isinstance(command, click.Group)}


def test_there_are_just_these_verbs() -> None:
    assert {
        "run",
        "check",
        "snapshot save",
        "snapshot list",
        "snapshot show",
        "snapshot verify",
        "snapshot fetch",
        "snapshot delete",
        "snapshot prune",
        "snapshot import",
        "snapshot index",
        "registry export",
        "registry get",
        "registry ls",
        "registry tree",
        "registry keys",
        "registry diff",
        "registry log",
        "registry top",
        "registry report",
        "restore namespace",
        "restore object",
        "restore undo",
        "restore cluster",
        "hashkv",
        "completion",
        "version",
        "alarm disarm",
        "alarm list",
        "alarm rescue",
        "compact",
        "compaction",
        "defrag",
        "del",
        "get",
        "lease grant",
        "lease keep-alive",
        "lease list",
        "lease revoke",
        "lease timetolive",
        "maintenance compact",
        "put",
        "status",
        "watch",
    } == VERBS


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_every_help_says_what_it_does_and_shows_an_example(
    path: list[str], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*path, "--help"]) == 0

    shown = capsys.readouterr().out
    assert isinstance(command, Verb | Verbs)
    examples = shown.partition("Examples:\n")[2]
    assert "etcd-steward " + " ".join(path) in examples
    assert command.help
    assert command.help.splitlines()[0] in " ".join(shown.split())


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_examples_use_flags_that_exist(path: list[str], command: click.Command) -> None:
    assert isinstance(command, Verb | Verbs)
    known = {"--help", "--data-dir", "-r", "-fsSL", "-"}  # etcdutl's, jq's, curl's; and stdin
    for _, one in commands():
        for param in one.params:
            known |= {*param.opts, *param.secondary_opts}
    ours = " ".join(line.partition(" -- ")[0] for line in command.examples.splitlines())
    used = {word.partition("=")[0] for word in ours.split() if word.startswith("-")}
    assert used <= known, path


def test_the_help_of_the_program_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "130 "):
        assert f"\n  {code}" in shown


def test_flags_stand_in_sections(capsys: pytest.CaptureFixture[str]) -> None:
    main(["snapshot", "save", "--help"])
    shown = capsys.readouterr().out
    places = [shown.index(f"\n{name}") for name in ("etcd (", "Store (", "Spool:", "Options:")]
    assert places == sorted(places)
    assert places[0] < shown.index("--endpoints") < places[1] < shown.index("--s3-ca") < places[2]


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("etcd-steward 0.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frob", "snapshot", "list"], "No such option '--frob'"),
        (["snapshot", "list", "--frob"], "No such option '--frob'"),
        (["snapshot", "list", "--endpoints=a"], "No such option '--endpoints'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["snapshot", "remove"], "No such command 'remove'"),
        (["snapshot", "delete"], "Missing argument 'URL...'"),
        (["snapshot", "prune", "--keep-within=5x", "--store=s3://bkt"], "'5x' is no duration"),
        (["snapshot", "prune", "--keep-last=-1", "--store=s3://bkt"], "not in the range"),
        (["snapshot", "prune", "--orphans", "--keep-last=1", "--store=s3://b"], "can't be comb"),
        (["--store", "s3://b"], "Missing command"),
        (["snapshot", "list"], "Missing option '--store'"),
        (["snapshot", "save", "--emergency=perhaps"], "'perhaps' is neither true nor false"),
        (["snapshot", "save", "--command-timeout=5"], "'5' is no duration"),
        (["snapshot", "save", "--spool-limit=lots"], "'lots' is no size"),
        (["snapshot", "save", "--name=Up/Down", "--store=s3://bkt"], "--name 'Up/Down'"),
        (["snapshot", "list", "-o", "xml"], "'xml' is not one of"),
        (["snapshot", "verify", "--level=Faith", "--store=s3://bkt"], "'Faith' is not one of"),
        (["snapshot", "fetch", "s3://bucket"], "Missing argument 'TARGET'"),
    ],
)
def test_wrong_usage_shows_the_usage_and_ends_with_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2

    told = capsys.readouterr()
    assert said in told.err
    assert "Usage: etcd-steward" in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "json", "--store", "file:///no/such", "snapshot", "list"],
        ["--store=file:///no/such", "snapshot", "-o=json", "list"],
        ["snapshot", "--store", "file:///no/such", "list", "-ojson"],
        ["snapshot", "list", "--store=file:///no/such", "--output=json"],
    ],
)
def test_flags_stand_before_or_after_the_verb(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1

    told = capsys.readouterr()
    error = json.loads(told.out)["error"]
    assert error["reason"] == "NotFound"
    assert error["exitCode"] == 1
    assert "/no/such" in error["message"]
    assert f"Error: {error['message']}" in told.err


def test_the_later_of_two_flags_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store=x://", "snapshot", "list", "--store=file:///no/such"]) == 1
    assert "/no/such" in capsys.readouterr().err


def test_an_error_is_followed_by_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", "list", "--store=ftp://somewhere"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "Error: store 'ftp://somewhere' can't be used: the scheme 'ftp' is unknown"
    assert second == "Write s3://bucket/prefix or file:///directory"


def test_a_mistyped_verb_is_met_with_a_guess(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", "lst"]) == 2
    assert "list" in capsys.readouterr().err


def test_help_waits_for_no_heavy_import() -> None:
    code = (
        "import sys; from etcd_steward.cli.main import main; main({words}); "
        "print(sorted({{'grpc', 'boto3', 'numpy', 'kopf', 'kubernetes'{more}}} & set(sys.modules)))"
    )
    for words, more in ((["--help"], ", 'pydantic', 'rich'"), (["snapshot", "save", "--help"], "")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(words=words, more=more)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "[]"


def test_output_that_nobody_reads_ends_without_a_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "etcd_steward", "completion", "bash"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def complete(words: str) -> set[str]:
    """What bash offers for the last of `words`, with the script that `completion bash` prints."""
    script = f"""
        source <(etcd-steward completion bash)
        COMP_WORDS=({words}) COMP_CWORD={len(words.split()) - 1 + words.endswith(" ")}
        {'COMP_WORDS+=("")' if words.endswith(" ") else ""}
        COMP_LINE='{words}' COMP_POINT={len(words)}
        _etcd_steward_completion etcd-steward
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_bash_completes_verbs_and_flags() -> None:
    assert {"save", "list", "fetch"} <= complete("etcd-steward snapshot ")
    assert complete("etcd-steward snapshot save --end") == {"--endpoints"}
    assert complete("etcd-steward --store s3://b snapshot li") == {"list"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert VARIABLE in capsys.readouterr().out
