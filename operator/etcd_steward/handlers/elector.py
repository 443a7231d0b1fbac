"""Which of several operators acts: an election by a Lease of `coordination.k8s.io`.

client-go's algorithm (client-go, tools/leaderelection/leaderelection.go): the holder renews its
Lease; whoever sees one that has not changed for as long as it says takes it. Each judges by its own
monotonic clock alone, from when it saw the last change: clocks of two hosts are never compared.
Written by hand because the Python client's own LeaseLock can't create a Lease, runs in a thread,
and ends a leader that can't renew: ours loses the right to begin something, nothing else.

A leader stops believing in itself `renew_deadline` after it sent its last successful renewal, the
others wait for `lease_duration` after they saw it: in between nobody leads. A process that was
frozen knows on waking, before it does anything, that its time is over.
"""

import asyncio
import logging
import random
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from etcd_steward.deadline import Deadline
from etcd_steward.errors import (
    InvalidInput,
    NotFound,
    OutOfSpace,
    StewardError,
    Unauthorized,
)
from etcd_steward.kube import Key, Kube
from etcd_steward.kube_client import Object

log = logging.getLogger(__name__)

LEASE = "etcd-steward"
NEVER = float("-inf")
JITTER = 0.5
"""By this share candidates wait longer, at random, so that they don't all come at once."""


@dataclass(frozen=True, slots=True)
class Election:
    """Seconds; client-go's defaults."""

    lease_duration: int = 15
    """How long a Lease counts after its last change was seen. Whole, as in the Lease."""
    renew_deadline: float = 10.0
    """How long after its last renewal a leader believes in itself."""
    retry_period: float = 2.0
    """Between tries, and between renewals."""
    refusal_patience: float = 60.0
    """A 403 at the start is believed when it has lasted so long."""
    full_patience: float = 60.0
    """How long a Lease that has run out may be left to its holder while etcd takes no write."""

    @property
    def request(self) -> float:
        """How long one try may take: two fit into a renewal's deadline."""
        return self.renew_deadline / 2


class Elector:
    """One candidate: `run` stands for election and renews; `leads` says whether it may act."""

    def __init__(self, kube: Kube, namespace: str, election: Election) -> None:
        # The Pod's name is its host name, but where it uses the host's network.
        self.identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self.holder = ""
        """Whose name the Lease showed last; empty: nobody's."""
        self.answered_at = NEVER
        """When the API server last answered, in seconds of `time.monotonic()`."""
        self.turned_at = time.monotonic()
        self.words = "the API server has not been asked yet"
        self._kube = kube
        self._where = Key(namespace, LEASE)
        self._election = election
        self._until = NEVER
        self._seen: Object | None = None
        self._stale = True
        self._changed_at = NEVER
        self._led = False
        self._stands_in = False
        self._begun = time.monotonic()

    @property
    def leads(self) -> bool:
        """Whether this process may begin something."""
        return time.monotonic() < self._until

    @property
    def replaced(self) -> bool:
        """Whether somebody else was seen to hold the Lease, and may be alive."""
        return self.holder not in {"", self.identity} and not self._stands_in

    async def run(self) -> None:
        """Take the Lease when it is free, renew it, take it again if it was lost; for ever.

        Raises `StewardError` if it can't work at all: no such namespace, no right to its Leases.
        """
        while True:
            await self._turn()
            self.turned_at = time.monotonic()
            pause = self._election.retry_period
            if not self.leads:
                pause *= 1 + random.random() * JITTER  # noqa: S311, no secret
            await asyncio.sleep(pause)

    async def release(self) -> None:
        """Give the Lease up, so that the next one need not wait. Not while `run` runs."""
        self._until = NEVER
        self._say()
        if self.answered_at == NEVER:
            return
        try:
            async with Deadline.after(self._election.request).enforce("giving up the Lease"):
                found = await self._kube.lease(self._where)
                if found["spec"].get("holderIdentity") != self.identity:
                    return
                spec = {**found["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._kube.update_lease(self._where, found, spec)
        except StewardError as error:
            log.warning("Lease %s is not given up, it will run out: %s", self._where, error)

    async def _turn(self) -> None:
        """One try, whatever comes of it."""
        sent = time.monotonic()
        try:
            async with Deadline.after(self._election.request).enforce("the API server's answer"):
                await self._take_or_renew(sent)
        except StewardError as error:
            self._check_whether_hopeless(error)
            if str(error) != self.words:
                log.warning("Lease %s: %s", self._where, error)
            self.words = str(error)
        else:
            self.words = ""
        self._say()

    async def _take_or_renew(self, sent: float) -> None:
        if self._stale or not self.leads:  # a leader knows what it has written
            try:
                self._observe(await self._kube.lease(self._where))
            except NotFound:
                self._seen, self.holder = None, ""
        seen = self._seen
        self._stale = True  # until there is an answer: somebody may be faster
        if seen is None:
            self._won(sent, await self._kube.create_lease(self._where, self._spec({})))
        elif self.holder in {"", self.identity} or self._ran_out(seen):
            try:
                spec = self._spec(seen["spec"])
                self._won(sent, await self._kube.update_lease(self._where, seen, spec))
            except OutOfSpace:
                await self._hold_on(sent)
                raise

    async def _hold_on(self, sent: float) -> None:
        """Go on while etcd is full: the Lease can be neither renewed nor taken by anybody.

        A read that still shows our name tells that nobody has. The rescue of that very etcd needs
        a leader, so if its holder has died meanwhile, or was restarted and has another name now,
        somebody has to stand in for it. Should it live after all, two act: what either could begin
        is a rescue, which etcd itself fences; all else begins with a write, and there are none.
        """
        self._observe(await self._kube.lease(self._where))
        silent = time.monotonic() - self._changed_at
        if silent >= self._election.lease_duration + self._election.full_patience:
            self._stands_in = True
        if self._stands_in or self.holder == self.identity:
            self._until = sent + self._election.renew_deadline

    def _won(self, sent: float, lease: Object) -> None:
        self._observe(lease)
        self._stale = False
        self._until = sent + self._election.renew_deadline

    def _observe(self, lease: Object) -> None:
        self.answered_at = time.monotonic()
        if self._seen is None or self._seen["spec"] != lease["spec"]:
            self._changed_at = time.monotonic()
            self._stands_in = False
        self._seen = lease
        self.holder = lease["spec"].get("holderIdentity") or ""
        if self.replaced:
            self._until = NEVER

    def _ran_out(self, lease: Object) -> bool:
        duration = lease["spec"].get("leaseDurationSeconds") or self._election.lease_duration
        return time.monotonic() >= self._changed_at + float(duration)

    def _spec(self, before: Object) -> Object:
        """The Lease as ours, in the fields that client-go writes."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        renewed = before.get("holderIdentity") == self.identity
        transitions = int(before.get("leaseTransitions") or 0)
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._election.lease_duration,
            "acquireTime": before.get("acquireTime", now) if renewed else now,
            "renewTime": now,
            "leaseTransitions": transitions if renewed or not before else transitions + 1,
        }

    def _check_whether_hopeless(self, error: StewardError) -> None:
        """Raise what no waiting will change; once it has worked, everything may come back."""
        if self.answered_at > NEVER:
            return
        if isinstance(error, NotFound):
            raise InvalidInput(
                f"there is no namespace {self._where.namespace} for the operator's Lease",
                hint="Create it, name another one with --namespace, or start with "
                "--no-leader-elect if no other operator runs",
            ) from error
        lasted = time.monotonic() - self._begun
        if isinstance(error, Unauthorized) and lasted > self._election.refusal_patience:
            raise Unauthorized(
                f"the operator may not get, create and update Leases in namespace "
                f"{self._where.namespace}: {error.message}",
                hint="Apply the Role of deploy/, or start with --no-leader-elect if no other "
                "operator runs",
            ) from error

    def _say(self) -> None:
        leads = self.leads
        if leads and not self._led:
            if self._stands_in:
                log.warning("etcd is full, and %s is silent: it is stood in for", self.holder)
            log.info("this operator leads: Lease %s is held by %s", self._where, self.holder)
        if self._led and not leads:
            who = f"{self.holder} holds" if self.replaced else "nobody is known to hold"
            log.warning("this operator no longer leads: %s Lease %s", who, self._where)
        self._led = leads
