"""Which keys a selection means: said of one key at a time, and beforehand of whole ranges."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from etcd_steward.errors import InvalidInput
from etcd_steward.models.registry import Filter, KeyPath, Selection
from etcd_steward.registry.nicknames import BUILTIN_WORDS
from etcd_steward.registry.paths import BUILTINS, FORMER_GROUPS, root_of

Labels = Mapping[str, str]
ReadLabels = Callable[[], Labels | None]
"""Decodes a value's labels; None where they can't be read. Only called where they decide."""


class Chosen:
    """A `Selection` over the keys of one API server, those below its `--etcd-prefix`.

    An empty filter counts as one that is not there: `exclude: {}` takes nothing out. Raises
    `InvalidInput` for a label selector that can't be meant, and for a built-in resource by another
    word than its plural: that would select nothing, silently.
    """

    def __init__(self, selection: Selection, prefix: str = "/registry") -> None:
        self._root = root_of(prefix)
        self._include = _filter(selection.include)
        self._in = _Fits(self._include)
        excluded = _filter(selection.exclude)
        self._out = _Fits(excluded) if excluded != _EVERYTHING else None

    def wants(self, path: KeyPath | None, key: bytes, labels: ReadLabels) -> bool:
        """Whether this key is meant. `path` is None where it belongs to no API object."""
        return self._in(path, key, labels) and not (self._out and self._out(path, key, labels))

    @property
    def by_labels(self) -> bool:
        """Whether `wants` may ask for labels, for which values must be read."""
        return self._in.by_labels or (self._out is not None and self._out.by_labels)

    def namespaces(self) -> frozenset[str] | None:
        """The only namespaces that are meant; None where that can't be said by their names."""
        names = self._include.namespaces
        return frozenset(names) if names and not any("*" in name for name in names) else None

    def cluster_scoped(self) -> bool:
        """Whether only what belongs to no namespace can be meant, by the resources' names."""
        known = [BUILTINS.get(word.partition(".")[0]) for word in self._include.resources]
        return bool(known) and all(
            one is not None and not one.namespaced and _folders(word) == [one.path]
            for one, word in zip(known, self._include.resources, strict=True)
        )

    def ranges(self) -> list[tuple[bytes, bytes]] | None:
        """Key ranges, sorted and apart, that hold all that is meant; None if all keys may be."""
        prefixes = self._prefixes()
        if prefixes is None:
            return None
        kept: list[bytes] = []
        for prefix in sorted(set(prefixes)):
            if not kept or not prefix.startswith(kept[-1]):
                kept.append(prefix)
        return [(prefix, end_of(prefix)) for prefix in kept]

    def _prefixes(self) -> list[bytes] | None:
        if self._include.key_prefixes:
            return [prefix.encode() for prefix in self._include.key_prefixes]
        folders: list[str] = []
        for word in self._include.resources:
            found = _folders(word)
            if found is None:
                return None
            folders += found
        if not folders:
            return None
        namespaces = self.namespaces()
        below = [f"{name}/" for name in namespaces] if namespaces else [""]
        return [self._root + f"{folder}/{name}".encode() for folder in folders for name in below]


def end_of(prefix: bytes) -> bytes:
    """The end of the range of all keys with this prefix, as etcd wants it."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def selected_by(selector: str) -> Callable[[Labels], bool]:
    """What a label selector says of labels, in kubectl's words (apimachinery `labels.Parse`).

    Raises `InvalidInput` where it is none.
    """
    text, rules = selector, []
    while text.strip():
        match = _REQUIREMENT.match(text)
        if match is None:
            raise InvalidInput(
                f"the label selector {selector!r} can't be read from {text.strip()!r} on",
                hint="Write it as for `kubectl get -l`: app=shop,tier!=cache,env in (a,b),!old",
            )
        rules.append(_requirement(match))
        text = text[match.end() :]
    return lambda labels: all(rule(labels) for rule in rules)


_KEY: Final = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_REQUIREMENT: Final = re.compile(
    rf"""\s*(?: !\s*(?P<absent>{_KEY})
    | (?P<key>{_KEY}) (?: \s*(?P<operator>==|=|!=|>|<)\s*(?P<value>[A-Za-z0-9._-]*)
                       | \s+(?P<set>in|notin)\s*\((?P<values>[A-Za-z0-9._,\s-]*)\) )? )
    \s*(?: $ | ,(?=\s*\S) )""",
    re.VERBOSE,
)


def _requirement(match: re.Match[str]) -> Callable[[Labels], bool]:
    """One requirement as a question. A label that is absent differs from every value."""
    if absent := match["absent"]:
        return lambda labels: absent not in labels
    key, operator = match["key"], match["operator"] or match["set"]
    values = {value.strip() for value in (match["value"] or match["values"] or "").split(",")}
    match operator:
        case "=" | "==" | "in":
            return lambda labels: labels.get(key) in values
        case "!=" | "notin":
            return lambda labels: labels.get(key) not in values
        case ">" | "<":
            (text,) = values
            bound = _integer(text)
            if bound is None:
                raise InvalidInput(f"the label selector compares {key!r} with {text!r}, no integer")
            sign = 1 if operator == ">" else -1
            return lambda labels: (
                (found := _integer(labels.get(key))) is not None and (found - bound) * sign > 0
            )
        case _:
            return lambda labels: key in labels


def _integer(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,19}", text) else None


_EVERYTHING: Final = Filter()


def _filter(given: Filter | None) -> Filter:
    return given or _EVERYTHING


class _Fits:
    """One filter, compiled."""

    def __init__(self, given: Filter) -> None:
        self._namespaces = _matcher(given.namespaces)
        self._names = _matcher(given.names)
        self._resources = given.resources
        for word in given.resources:
            _check_plural(word)
        self._known: dict[tuple[str, str], bool] = {}
        self._prefixes = tuple(prefix.encode() for prefix in given.key_prefixes)
        self._selects = None if given.label_selector is None else selected_by(given.label_selector)
        self._objects_only = bool(
            given.namespaces or given.names or given.resources or self._selects
        )

    @property
    def by_labels(self) -> bool:
        return self._selects is not None

    def __call__(self, path: KeyPath | None, key: bytes, labels: ReadLabels) -> bool:
        if self._prefixes and not key.startswith(self._prefixes):
            return False
        if not self._objects_only:
            return True
        if path is None or not self._fits_path(path):
            return False
        if self._selects is None:
            return True
        found = labels()
        return found is not None and self._selects(found)

    def _fits_path(self, path: KeyPath) -> bool:
        if self._namespaces and (path.namespace is None or not self._namespaces(path.namespace)):
            return False
        if self._resources and not self._fits_resource(path.resource, path.api_group):
            return False
        return self._names is None or self._names(path.name)

    def _fits_resource(self, resource: str, group: str) -> bool:
        known = self._known.get((resource, group))
        if known is None:
            known = any(_means(word, resource, group) for word in self._resources)
            self._known[resource, group] = known
        return known


def _check_plural(word: str) -> None:
    plural, dot, group = word.partition(".")
    known = BUILTIN_WORDS.get(plural)
    if known is None or plural == known.resource or (dot and group != known.api_group):
        return
    meant = f"{known.resource}{dot}{group}"
    raise InvalidInput(f"a filter takes plurals: {word!r} is none", hint=f"Write {meant!r}")


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool] | None:
    """Whether a text is one of these, with `*` for any characters; None for no patterns."""
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
    globs = [_glob(pattern) for pattern in patterns if "*" in pattern]
    if not exact and not globs:
        return None
    return lambda text: text in exact or any(glob.fullmatch(text) for glob in globs)


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


def _means(word: str, resource: str, group: str) -> bool:
    """Whether a resource is what this word names.

    Without a group the word is a built-in resource's; where none has that name, that of any custom
    resource. With one, it may also be a group which the resource has left (`ingresses.extensions`).
    """
    plural, dot, wanted = word.partition(".")
    if "*" in word:
        return _glob(word).fullmatch(f"{resource}.{group}" if dot else resource) is not None
    if plural != resource:
        return False
    known = BUILTINS.get(plural)
    if not dot:
        return known is None or known.api_group == group
    if known and known.api_group == group and wanted in FORMER_GROUPS:
        return True
    return wanted == group


def _folders(word: str) -> list[str] | None:
    """Where below the prefix the resources lie that a word names; None if anywhere."""
    plural, _, group = word.partition(".")
    if "*" in word:
        return None
    known = BUILTINS.get(plural)
    if known and (not group or group == known.api_group or group in FORMER_GROUPS):
        return [known.path]
    if not group:
        return None
    # A custom resource's folder; and that of a built-in one which is newer than our table.
    return [f"{group}/{plural}", plural]
