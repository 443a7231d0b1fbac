"""Values that the API server could not read: one of them breaks its whole resource.

The list of a whole resource fails at the first value that can't be decoded, and every watch with it
(apiserver `storage/etcd3/store.go`). How an API server is set up nobody tells, but what lies in
etcd now does: it reads that, or it would be broken already.
"""

from collections.abc import Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from etcd_steward.engine.restore.defaults import folder_of
from etcd_steward.engine.restore.drafts import Draft, form_of
from etcd_steward.engine.restore.live import Live
from etcd_steward.errors import Undecodable
from etcd_steward.registry import builtin, envelope, objectmeta
from etcd_steward.registry.paths import BUILTINS

if TYPE_CHECKING:  # aiohttp: slow
    from etcd_steward.kube_discovery import Served

_PLAIN: Final = {"protobuf", "json"}
"""Every API server reads both, if it reads what is not encrypted."""
_LOOKED_AT: Final = 5000
"""Keys of one resource, at most."""
_OWN_FINALIZERS: Final = {"foregroundDeletion", "orphan", "kubernetes"}
_OWN_DOMAINS: Final = ("kubernetes.io/", "k8s.io/")


async def check(drafts: Iterable[Draft], live: Live, *, live_source: bool) -> None:
    """Block values that are written as nothing live is, and tell of strange finalizers."""
    folders: dict[bytes, list[Draft]] = {}
    for one in drafts:
        if one.path is not None and one.write:
            folders.setdefault(folder_of(one.path, one.key), []).append(one)
    everywhere: set[str] = set()
    left: list[tuple[list[Draft], set[str]]] = []
    for folder, some in sorted(folders.items()):
        forms, finalizers = await _survey(live, folder, some)
        everywhere |= forms
        left.append((some, forms))
        for one in some:
            _finalizers(one, finalizers)
    for some, forms in left:
        for one in some:
            _form(one, forms, everywhere, live_source=live_source)


async def _survey(live: Live, folder: bytes, drafts: list[Draft]) -> tuple[set[str], set[str]]:
    """How values in a folder are written, and with which finalizers, as far as it matters."""
    wanted = {_class(one.form) for one in drafts}
    strange = {word for one in drafts for word in _strange(one)}
    forms: set[str] = set()
    finalizers: set[str] = set()
    count = 0
    async with aclosing(live.below(folder)) as pages:
        async for records in pages:
            for record in records:
                forms.add(_class(form_of(record.value, envelope.header(record.value))))
                if not strange <= finalizers:
                    finalizers.update(_finalizers_of(record.value))
            count += len(records)
            if count >= _LOOKED_AT or (wanted <= forms and strange <= finalizers):
                break
    return forms, finalizers


def _class(form: str) -> str:
    return "plain" if form in _PLAIN else form


def _form(draft: Draft, forms: set[str], everywhere: set[str], *, live_source: bool) -> None:
    form = _class(draft.form)
    if form == "other":
        draft.block("Undecodable", "its value is no API object: no API server could read it")
    elif form == "plain":
        if forms and "plain" not in forms:
            draft.block(
                "EncodingNotInUse",
                f"it is not encrypted, and all other {draft.resource} are: an API server without "
                "the provider `identity` could not read it. Restore it through the API (via: API)",
            )
    elif form not in everywhere:
        if live_source:
            draft.notes.append(f"nothing that is there now is written as it is ({draft.form})")
        elif form == "cbor":
            draft.block("EncodingNotInUse", "it is written as CBOR, and nothing live is")
        else:
            draft.block(
                "KeyNotInUse",
                f"it is encrypted at rest ({draft.form}), and nothing live is with that key: if "
                f"the API server has it no more, all {draft.resource} become unreadable. If it has "
                "it, write any object of this resource anew and plan again; else take a backup "
                "that was made with the key of today",
            )


def _finalizers(draft: Draft, known: set[str]) -> None:
    for word in sorted(_strange(draft) - known):
        draft.notes.append(
            f"finalizer {word}: nothing live carries it. If its controller is gone, the object "
            "can't be deleted until it is taken off"
        )


def _strange(draft: Draft) -> set[str]:
    return set(draft.meta.finalizers if draft.meta else ()) - {
        word
        for word in (draft.meta.finalizers if draft.meta else ())
        if word in _OWN_FINALIZERS or _domain(word).endswith(_OWN_DOMAINS)
    }


def _domain(finalizer: str) -> str:
    return finalizer.partition("/")[0] + "/"


def _finalizers_of(value: bytes) -> tuple[str, ...]:
    try:
        return objectmeta.read(value).finalizers
    except Undecodable:
        return ()


def versions(drafts: Iterable[Draft], served: "Served | None") -> None:
    """Block built-in objects in a version that this API server has no more."""
    known: dict[tuple[str, str], bool] = {}
    for one in drafts:
        if not one.write or one.path is None or one.path.resource not in BUILTINS:
            continue
        _, api_version, kind, _ = one.header
        if api_version is None or kind is None:
            continue
        if (api_version, kind) not in known:
            known[api_version, kind] = (
                builtin.type_of(api_version, kind) is not None
                if served is None
                else served.of_kind(api_version, kind) is not None
            )
        if not known[api_version, kind]:
            who = "the API server" if served is not None else f"Kubernetes {builtin.VERSION}"
            one.block(
                "VersionNotServed",
                f"it is written as {kind} of {api_version}, which {who} does not know; take a "
                "backup that was made after the upgrade",
            )
