"""How the documentation's pages are read, and when they are wrong."""

import pytest

from tests.testbed.pages import Aliases, Command, Deed, File, Ran, Unrun, rewritten, steps

PAGE = """\
# Title

```console exit=3 head=2
$ first \\
    --flag
shown
$ second <<EOF
> body
> EOF
```

<!-- sandbox: stop-etcd-0 -->

```yaml
# nightly.yaml
kind: EtcdBackup
```

```sh
never
```
"""


def test_steps_come_in_the_pages_order() -> None:
    assert list(steps(PAGE)) == [
        Command(4, "first \\\n    --flag", ("shown",), 0, 2),
        Command(7, "second <<EOF\nbody\nEOF", (), 3, 2),
        Deed(12, "stop-etcd-0"),
        File(15, "nightly.yaml", "# nightly.yaml\nkind: EtcdBackup\n"),
        Unrun(20, "sh", "never"),
    ]


@pytest.mark.parametrize(
    "text", ["```console\nls\n```", "```console\n```", "```console a=1\n$ ls\n```"]
)
def test_a_console_block_that_says_nothing_useful_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="console block"):
        list(steps(text))


def test_a_block_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="no end"):
        list(steps("```console\n$ ls"))


def test_real_output_takes_the_place_of_what_the_page_shows() -> None:
    first, second = (step for step in steps(PAGE) if isinstance(step, Command))
    text = rewritten(PAGE, [Ran(first, 0, ("new", "lines")), Ran(second, 3, ("more",))])
    assert "    --flag\nnew\nlines\n$ second <<EOF\n> body\n> EOF\nmore\n```" in text


def test_output_may_differ_in_figures_but_not_in_words() -> None:
    command = Command(1, "ls", ("revision 17 in deadbeef",))
    assert Ran(command, 0, ("revision 42 in 1e7bbef1",)).faults() == []
    assert "revision" in Ran(command, 0, ("version 42",)).faults()[0]
    assert "exits with 1" in Ran(command, 1, ("revision",)).faults()[0]
    assert Ran(Command(1, "ls", ()), 0, ("something",)).faults()


def test_aliases_lead_there_and_back() -> None:
    aliases = Aliases((("10.0.0.11:2379", "127.0.0.1:4001"), ("/root", "/tmp/docs")))
    text = "etcdctl --endpoints 10.0.0.11:2379 get /root/x"
    assert aliases.real(text) == "etcdctl --endpoints 127.0.0.1:4001 get /tmp/docs/x"
    assert aliases.page(aliases.real(text)) == text
