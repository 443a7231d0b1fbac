"""Every reason that a plan may give is told in the docs, and no other."""

import ast
import re
from collections.abc import Iterator

from tests.testbed.steward import ROOT

SOURCE = ROOT / "operator/etcd_steward/engine/restore"
WORD = re.compile(r"[A-Z][A-Za-z]+")


def given(node: ast.AST) -> Iterator[str]:
    """The reason that one node of a syntax tree gives, if it gives one."""
    match node:
        case (
            ast.Call(func=ast.Attribute(attr="exclude" | "block"), args=[reason, *_])
            | ast.Call(func=ast.Name(id="_without"), args=[_, _, reason, *_])
            | ast.Return(value=ast.Tuple(elts=[reason, _]))
            | ast.Assign(targets=[ast.Attribute(attr="reason")], value=reason)
            | ast.Assign(
                targets=[ast.Tuple(elts=[ast.Name(id="reason") | ast.Attribute(attr="reason"), _])],
                value=ast.Tuple(elts=[reason, _]),
            )
        ):
            match reason:
                case ast.Constant(value=str(text)) if WORD.fullmatch(text):
                    yield text
        case _:
            pass


def test_the_docs_tell_each_reason() -> None:
    reasons = {
        reason
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for reason in given(node)
    }
    page = (ROOT / "docs/etcdrestore.md").read_text(encoding="utf-8")
    section = page.partition("## Reasons")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([A-Z][A-Za-z]+)`", section)) - {"Skip"}
    assert told == reasons
