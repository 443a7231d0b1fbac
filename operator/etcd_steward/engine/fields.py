"""What differs between two objects, field by field, in the words that kubectl's users know.

Lists of named things (containers, ports, conditions) are compared by name: one that was put in
front is an addition, not a change of all that follow.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from enum import Enum
from typing import Any, Final

_WORD: Final = re.compile(r"[A-Za-z0-9_-]+")
_NAMES: Final = ("name", "type", "uid", "key", "ip", "containerPort", "port")
"""What tells the members of a list apart, most telling first."""
_MANY: Final = 1000
"""Longer lists are compared place by place: finding what moved takes the square of their length."""
_NOISE: Final = ("metadata.managedFields", "metadata.resourceVersion", "metadata.generation")
_SECRET: Final = ("data", "stringData")
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


class Absent(Enum):
    """Where one of two objects has nothing."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Hidden:
    """A text that can be compared, and that nobody is shown."""

    text: str = field(repr=False)

    def __str__(self) -> str:
        return f"(hidden, {len(self.text)} characters)"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field that is not the same. Values are as JSON has them, `ABSENT`, or `Hidden`."""

    path: str
    """`spec.template.spec.containers[api].image`."""
    before: Any
    after: Any


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    """Every field that differs, in the order of their names."""
    return tuple(_changes(before, after, ""))


def without_noise(found: Sequence[FieldChange]) -> tuple[FieldChange, ...]:
    """Those that somebody meant: without the API server's own book-keeping."""
    return tuple(one for one in found if not one.path.startswith(_NOISE))


def concealed(found: dict[str, Any]) -> dict[str, Any]:
    """The same object, what a Secret holds wrapped so that it compares, and never shows."""
    if found.get("kind") != "Secret":
        return found
    return {
        name: _hide(value) if name in _SECRET else _hide_applied(value)
        for name, value in found.items()
    }


def _hide(value: Any) -> Any:  # noqa: ANN401  # JSON
    if isinstance(value, Mapping):
        return {name: _hide(inner) for name, inner in value.items()}
    return Hidden(value) if isinstance(value, str) else value


def _hide_applied(metadata: Any) -> Any:  # noqa: ANN401  # JSON
    """`kubectl apply` leaves all of a Secret in an annotation."""
    if not (isinstance(metadata, Mapping) and isinstance(metadata.get("annotations"), Mapping)):
        return metadata
    annotations = {
        name: _hide(value) if name == _LAST_APPLIED else value
        for name, value in metadata["annotations"].items()
    }
    return {**metadata, "annotations": annotations}


def _changes(before: Any, after: Any, path: str) -> Iterator[FieldChange]:  # noqa: ANN401  # JSON
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            yield from _changes(
                before.get(name, ABSENT), after.get(name, ABSENT), _inside(path, name)
            )
    elif isinstance(before, list) and isinstance(after, list):
        yield from _list_changes(before, after, path)
    elif type(before) is not type(after) or before != after:
        yield FieldChange(path, before, after)


def _inside(path: str, name: str) -> str:
    if not _WORD.fullmatch(name):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def _list_changes(before: list[Any], after: list[Any], path: str) -> Iterator[FieldChange]:
    name = next((name for name in _NAMES if _tells(name, before) and _tells(name, after)), None)
    if name is not None:
        named = {str(one[name]): one for one in before}, {str(one[name]): one for one in after}
        for which in dict.fromkeys([*named[0], *named[1]]):
            inner = named[0].get(which, ABSENT), named[1].get(which, ABSENT)
            yield from _changes(*inner, f"{path}[{which}]")
        return
    for from_before, from_after in _pairs(before, after):
        at = from_after if from_after is not None else from_before
        yield from _changes(
            ABSENT if from_before is None else before[from_before],
            ABSENT if from_after is None else after[from_after],
            f"{path}[{at}]",
        )


def _tells(name: str, items: list[Any]) -> bool:
    """Whether every item has that name, each another one."""
    if not all(isinstance(item, Mapping) and name in item for item in items):
        return False
    return len({str(item[name]) for item in items}) == len(items)


def _pairs(before: list[Any], after: list[Any]) -> Iterator[tuple[int | None, int | None]]:
    """Which item of one list is which of the other."""
    blocks: list[tuple[str, int, int, int, int]] = [("replace", 0, len(before), 0, len(after))]
    if max(len(before), len(after)) <= _MANY:
        one, other = ([_text(item) for item in side] for side in (before, after))
        blocks = list(SequenceMatcher(None, one, other, autojunk=False).get_opcodes())
    for tag, start, end, other_start, other_end in blocks:
        if tag == "equal":
            continue
        for step in range(max(end - start, other_end - other_start)):
            yield (
                start + step if start + step < end else None,
                other_start + step if other_start + step < other_end else None,
            )


def _text(item: Any) -> str:  # noqa: ANN401  # JSON
    return json.dumps(item, sort_keys=True, default=str)


def as_data(change: FieldChange) -> dict[str, Any]:
    """A change for JSON and YAML: what is absent is left out, what is hidden is a text."""
    data = {"path": change.path, "before": change.before, "after": change.after}
    present = {name: value for name, value in data.items() if value is not ABSENT}
    plain: dict[str, Any] = json.loads(json.dumps(present, default=str))
    return plain


def shown(value: Any, *, width: int = 120) -> str:  # noqa: ANN401  # JSON
    """A value on one line, as JSON; long ones are cut."""
    if value is ABSENT:
        return "(nothing)"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= width else f"{text[: width - 3]}..."
