"""An etcd that is full, and rescues of it."""

import asyncio
import itertools
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from etcd_steward.app import open_etcd
from etcd_steward.engine.maintenance import token
from etcd_steward.engine.maintenance.rescue import Rescue
from etcd_steward.engine.report import Tracker
from etcd_steward.etcd.stubs import PutRequest, RequestOp, TxnRequest
from etcd_steward.models.maintenance import MaintenanceOptions, RescueReport
from etcd_steward.models.maintenance_run import (
    MaintenanceRequest,
    MemberDone,
    MemberTurn,
    RescueBackup,
)
from etcd_steward.models.manifest import BackupRef, RunRef
from etcd_steward.models.run import SpoolSettings
from tests.support.runs import Heard, connection
from tests.testbed import EtcdCluster
from tests.testbed.rpc import connected

QUOTA = 16 << 20
VALUE = 10_000
BATCH = 10
PREFIX = "/registry/configmaps/full/"
EMPTIED = "/emptied"


async def fill(etcd: EtcdCluster, *, live: int = 50, first: int = 0) -> None:
    """Write until etcd refuses: over and over the same `live` keys, whose history fills it."""
    value = secrets.token_bytes(VALUE)
    async with connected(etcd) as connection:
        for number in itertools.count(first, BATCH):
            keys = (f"{PREFIX}{(number + one) % live:04}".encode() for one in range(BATCH))
            puts = (RequestOp(request_put=PutRequest(key=key, value=value)) for key in keys)
            request = TxnRequest(success=puts)
            try:
                await connection.kv.Txn(request, metadata=connection.metadata, timeout=30)
            except grpc.RpcError as error:
                if "database space exceeded" not in str(error):
                    raise
                return


async def count(etcd: EtcdCluster) -> int:
    """How many keys `fill` has left."""
    said = await etcd.etcdctl("get", "--prefix", PREFIX, "--keys-only", "--limit=1", "-w", "json")
    return int(json.loads(said)["count"])


async def stand(etcd: EtcdCluster) -> None:
    """Put the tokens, as maintenance of a healthy etcd does."""
    async with open_etcd(connection(etcd)) as client:
        await token.stand(client)


async def empty(etcd: EtcdCluster) -> None:
    """Take away what others have left: a rescue keeps as much history as it can."""
    await etcd.etcdctl("del", "--prefix", PREFIX)
    await etcd.etcdctl("del", EMPTIED)
    await etcd.etcdctl("compact", str(await etcd.revision()), "--physical")
    await etcd.etcdctl("defrag")
    await etcd.etcdctl("alarm", "disarm")
    await stand(etcd)
    await etcd.etcdctl("put", EMPTIED, "no revision is compacted twice")


async def alarms(etcd: EtcdCluster) -> set[str]:
    """As etcdctl lists them."""
    return set((await etcd.etcdctl("alarm", "list")).split("\n")[:-1])


async def sizes(etcd: EtcdCluster) -> list[int]:
    """Of the members' files."""
    said = json.loads(await etcd.etcdctl("endpoint", "status", "-w", "json"))
    return [one["Status"]["dbSize"] for one in said]


async def left_by_rescues(etcd: EtcdCluster) -> list[str]:
    """Our own keys, whoever has put them."""
    return (await etcd.etcdctl("get", "--prefix", "/etcdsteward.io/", "--keys-only")).split()


TOKENS = [token.key(number).decode() for number in range(1, token.TOKENS + 1)]


@dataclass
class Rescuer:
    """One rescue, in this process."""

    etcd: EtcdCluster
    spool: Path
    options: MaintenanceOptions = field(
        default_factory=lambda: MaintenanceOptions(settle_seconds=0.5)
    )
    quiet: float = 3.0
    told: list[MemberTurn | MemberDone] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    saved: int = 0

    def request(self, *, taken: str = "") -> MaintenanceRequest:
        """What is asked for; without a store."""
        return MaintenanceRequest(
            task="rescue",
            etcd=connection(self.etcd),
            options=self.options,
            holder="a test",
            run=secrets.token_hex(4),
            backup=RescueBackup(
                spool=SpoolSettings(directory=self.spool),
                backup=BackupRef(namespace="_cli", name="before-rescue"),
                requester=RunRef(),
                taken=taken,
            ),
        )

    async def rescue(self) -> RescueReport:
        """Do it; the snapshot is only counted."""
        request = self.request()
        async with open_etcd(request.etcd) as client:
            rescue = Rescue(
                client,
                request,
                Tracker(self.heard),
                self.told.append,
                self.stop,
                self._save,
                quiet=self.quiet,
            )
            return await rescue.rescue()

    async def _save(self) -> str:
        self.saved += 1
        return "nowhere"
