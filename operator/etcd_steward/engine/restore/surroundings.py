"""What is live around the keys that are restored: all that the checks must know, read once."""

import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from etcd_steward.engine.restore.checks import collector, tokens
from etcd_steward.engine.restore.checks.definitions import DEFINITIONS, custom
from etcd_steward.engine.restore.drafts import Draft, written
from etcd_steward.engine.restore.facts import (
    ClaimFacts,
    DefinitionFacts,
    Facts,
    NamespaceFacts,
    QuotaFacts,
    ServiceFacts,
    VolumeFacts,
    facts_of,
)
from etcd_steward.engine.restore.live import Live
from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import KeyPath, Record
from etcd_steward.registry import objectmeta, paths
from etcd_steward.registry.envelope import ENCRYPTED
from etcd_steward.registry.nicknames import BUILTIN_WORDS
from etcd_steward.registry.objectmeta import ObjectMeta

_CRDS: Final = b"apiextensions.k8s.io/customresourcedefinitions/"


@dataclass(slots=True)
class Surroundings:
    """What is there now, of what restored objects meet."""

    namespaces: dict[str, tuple[NamespaceFacts, ObjectMeta] | None] = field(default_factory=dict)
    """None: it is not there."""
    services: dict[bytes, ServiceFacts] = field(default_factory=dict)
    volumes: dict[str, VolumeFacts] = field(default_factory=dict)
    claims: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """Their uids."""
    accounts: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """Uids of the ServiceAccounts that tokens in the plan are of."""
    definitions: dict[str, DefinitionFacts] = field(default_factory=dict)
    quotas: dict[tuple[str, str], QuotaFacts] = field(default_factory=dict)
    controllers_since: datetime | None = None
    """When the controller manager that runs now began."""
    unreadable: int = 0
    """Objects that checks would have needed, and that are encrypted or damaged."""


async def look_around(drafts: Iterable[Draft], live: Live, prefix: str) -> Surroundings:
    """Read it, as little as the plan needs."""
    every = [one for one in drafts if not one.settled]
    found = Surroundings()
    reader = _Reader(live, prefix, found)
    names = {one.namespace for one in every if one.namespace is not None}
    names |= {one.name for one in every if one.resource == "namespaces"}
    await reader.namespaces(names)
    await reader.services(every)
    await reader.volumes(every)
    await reader.accounts(every)
    await reader.definitions(every)
    for name in sorted(name for name, there in found.namespaces.items() if there is not None):
        async for _, path, facts in reader.below(f"resourcequotas/{name}/".encode()):
            if isinstance(facts, QuotaFacts):
                found.quotas[name, path.name] = facts
    await reader.controllers()
    return found


class _Reader:
    def __init__(self, live: Live, prefix: str, found: Surroundings) -> None:
        self._live = live
        self._prefix = prefix
        self._found = found

    async def below(
        self, folder: bytes, meant: Callable[[bytes], object] = bool
    ) -> AsyncIterator[tuple[bytes, KeyPath, Facts]]:
        """The objects of a folder, with their facts: those whose values are `meant`."""
        async with aclosing(self._live.below(self._live.root + folder)) as pages:
            async for records in pages:
                for record in records:
                    read = self._read(record) if meant(record.value) else None
                    if read is not None:
                        yield record.key, *read

    def _read(self, record: Record) -> tuple[KeyPath, Facts] | None:
        path = paths.parse(record.key, self._prefix)
        try:
            facts = facts_of(path, record.value) if path is not None else None
        except Undecodable:
            facts = None
        if path is None or facts is None:
            self._found.unreadable += 1
            return None
        return path, facts

    async def services(self, drafts: Iterable[Draft]) -> None:
        """Every Service that may hold what those in the plan had; the others are not decoded."""
        wanted = [
            one.facts for one in written(drafts, "services") if isinstance(one.facts, ServiceFacts)
        ]
        words = {re.escape(word.encode()) for facts in wanted for word in facts.addresses}
        if any(facts.node_ports for facts in wanted):
            words |= {b"NodePort", b"LoadBalancer"}
        if not words:
            return
        words.add(re.escape(ENCRYPTED))
        meant = re.compile(b"|".join(sorted(words))).search
        async for key, _, facts in self.below(b"services/specs/", meant):
            if isinstance(facts, ServiceFacts):
                self._found.services[key] = facts

    async def namespaces(self, names: Iterable[str]) -> None:
        """Those of these names."""
        keys = {self._live.root + f"namespaces/{name}".encode(): name for name in sorted(names)}
        there = await self._live.get(keys)
        for key, name in keys.items():
            self._found.namespaces[name] = None
            if key in there:
                read = self._read(there[key])
                if read is not None and isinstance(read[1], NamespaceFacts):
                    self._found.namespaces[name] = read[1], objectmeta.read(there[key].value)
                else:  # it is there, and that is all that can be told
                    self._found.namespaces[name] = NamespaceFacts(terminating=False), ObjectMeta()

    async def volumes(self, drafts: Iterable[Draft]) -> None:
        """The volumes of the claims in the plan, and the claims of its volumes."""
        every = list(drafts)
        root = self._live.root
        wanted = {
            root + f"persistentvolumes/{one.facts.volume}".encode()
            for one in every
            if isinstance(one.facts, ClaimFacts) and one.facts.volume
        }
        for record in (await self._live.get(sorted(wanted))).values():
            read = self._read(record)
            if read is not None and isinstance(read[1], VolumeFacts):
                self._found.volumes[read[0].name] = read[1]
        claims = {
            root + f"persistentvolumeclaims/{'/'.join(one.facts.claim)}".encode(): one.facts.claim
            for one in every
            if isinstance(one.facts, VolumeFacts) and one.facts.claim
        }
        for key, seen in (await self._live.look(sorted(claims))).items():
            self._found.claims[claims[key]] = seen.uid

    async def accounts(self, drafts: Iterable[Draft]) -> None:
        """The ServiceAccounts of token Secrets."""
        wanted = {
            self._live.root + f"serviceaccounts/{one.namespace}/{name}".encode(): (
                one.namespace or "",
                name,
            )
            for one in written(drafts, "secrets")
            if one.meta is not None and (name := one.meta.annotations.get(tokens.ACCOUNT))
        }
        for key, seen in (await self._live.look(sorted(wanted))).items():
            self._found.accounts[wanted[key]] = seen.uid

    async def definitions(self, drafts: Iterable[Draft]) -> None:
        """Those of the custom resources in the plan and of their owners, live or in the plan."""
        every = list(drafts)
        names = {one.resource for one in every if custom(one)}
        groups = {
            owner.api_version.rpartition("/")[0]
            for one in every
            for owner in (one.meta.owner_references if one.meta else ())
            if owner.kind.lower() not in BUILTIN_WORDS and "/" in owner.api_version
        }
        if names or groups:
            await self._definitions(names, groups)
        for one in every:
            if one.resource == DEFINITIONS and isinstance(one.facts, DefinitionFacts):
                self._found.definitions.setdefault(one.name, one.facts)

    async def _definitions(self, names: set[str], groups: set[str]) -> None:
        async with aclosing(self._live.below(self._live.root + _CRDS)) as pages:
            async for records in pages:
                for record in records:
                    name = record.key.rpartition(b"/")[2].decode(errors="replace")
                    if name not in names and name.partition(".")[2] not in groups:
                        continue
                    read = self._read(record)
                    if read is not None and isinstance(read[1], DefinitionFacts):
                        self._found.definitions[name] = read[1]

    async def controllers(self) -> None:
        """Since when the controller manager runs, as its Lease has it."""
        key = self._live.root + collector.LEASE
        self._found.controllers_since = collector.began((await self._live.get([key])).get(key))
