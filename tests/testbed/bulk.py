"""Big registries, written straight into etcd: a million keys of 1 kB in well under a minute.

Values are Kubernetes objects in JSON, which an API server reads as well as its own protobuf. They
compress about fourfold, like real ones. What is written depends on the arguments alone, so two
loads can be compared.
"""

import asyncio
import base64
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio

from etcd_steward.etcd.stubs import PutRequest, RequestOp, TxnRequest
from tests.testbed.etcd import EtcdAddress, EtcdCluster
from tests.testbed.process import wait_until
from tests.testbed.rpc import Connection, connected

BATCH = 100  # puts in a transaction; etcd's default limit is 128
RANDOM_BYTES = 220  # of each value: what zstd can't shrink

# Path below /registry, apiVersion and kind of resources whose objects need no more than metadata.
RESOURCES = (
    ("configmaps", "v1", "ConfigMap"),
    ("secrets", "v1", "Secret"),
    ("serviceaccounts", "v1", "ServiceAccount"),
    ("leases", "coordination.k8s.io/v1", "Lease"),
    ("roles", "rbac.authorization.k8s.io/v1", "Role"),
    ("limitranges", "v1", "LimitRange"),
    ("podtemplates", "v1", "PodTemplate"),
    ("services/endpoints", "v1", "Endpoints"),
)

_HEAD = (
    '{"apiVersion":"%s","kind":"%s","metadata":{"name":"%s","namespace":"%s","uid":"%s",'
    '"creationTimestamp":"2026-11-22T02:17:00Z","labels":{"app.kubernetes.io/name":"bulk",'
    '"app.kubernetes.io/managed-by":"testbed"},"annotations":{"etcdsteward.io/random":"%s",'
    '"etcdsteward.io/filler":"'
)
_TAIL = '"}}}'
_FILLER = "the quick brown fox jumps over the lazy dog; " * 200


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load wrote and how long it took."""

    keys: int
    seconds: float
    revision: int


def entries(
    batch: int,
    *,
    value_size: int = 1000,
    namespaces: int = 100,
    seed: int = 0,
    root: str = "/registry",
    resources: Sequence[tuple[str, str, str]] = RESOURCES,
) -> Iterator[tuple[bytes, bytes]]:
    """Make the keys and values of one batch; each depends only on the arguments."""
    source = random.Random(f"{seed}:{batch}")  # noqa: S311  # reproducible, not secret
    for index in range(batch * BATCH, (batch + 1) * BATCH):
        path, api_version, kind = resources[index % len(resources)]
        namespace = f"team-{index // len(resources) % namespaces:04d}"
        name = f"{kind.lower()}-{index:08d}"
        noise = source.randbytes(RANDOM_BYTES)
        digits = noise[:16].hex()
        uid = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        text = base64.b64encode(noise[16:]).decode()
        head = _HEAD % (api_version, kind, name, namespace, uid, text)
        value = head + _FILLER[: value_size - len(head) - len(_TAIL)] + _TAIL
        yield f"{root}/{path}/{namespace}/{name}".encode(), value.encode()


def _transaction(pairs: Iterator[tuple[bytes, bytes]]) -> TxnRequest:
    puts = (RequestOp(request_put=PutRequest(key=key, value=value)) for key, value in pairs)
    return TxnRequest(success=puts)


async def load(
    etcd: EtcdCluster | EtcdAddress,
    count: int,
    *,
    value_size: int = 1000,
    namespaces: int = 100,
    seed: int = 0,
    root: str = "/registry",
    resources: Sequence[tuple[str, str, str]] = RESOURCES,
    in_flight: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Loaded:
    """Write `count` keys (rounded up to full transactions of 100).

    `progress` is told the sum so far after each transaction. An API server serves what lies below
    /registry; another `root` keeps it out of its sight.

    A million of 1 kB make a database of 1.4 GB: past that, give the cluster `quota-backend-bytes`.
    """
    begin = time.monotonic()
    batches = iter(range(-(-count // BATCH)))
    written = revision = 0

    async def worker(connection: Connection) -> None:
        nonlocal written, revision
        for batch in batches:
            pairs = entries(
                batch,
                value_size=value_size,
                namespaces=namespaces,
                seed=seed,
                root=root,
                resources=resources,
            )
            answer = await connection.kv.Txn(_transaction(pairs), metadata=connection.metadata)
            written += BATCH
            revision = max(revision, answer.header.revision)
            if progress:
                progress(written)

    async with connected(etcd) as connection, asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker(connection))
    return Loaded(written, time.monotonic() - begin, revision)


@dataclass(slots=True)
class Churn:
    """Counts of a background load, while it runs and after."""

    writes: int = 0
    failures: int = 0

    async def reached(self, writes: int, *, timeout: float = 60) -> None:
        """Wait until so many writes have succeeded."""

        async def enough() -> bool:
            return self.writes >= writes

        await wait_until(enough, f"{writes} writes in the background", timeout=timeout)


@contextlib.asynccontextmanager
async def churn(
    etcd: EtcdCluster | EtcdAddress,
    *,
    prefix: str = "/registry/churn/",
    keys: int = 1000,
    value_size: int = 1000,
    writers: int = 4,
) -> AsyncIterator[Churn]:
    """Overwrite `keys` keys round and round in the background until the block ends.

    A write that fails because a member is away is counted and tried again elsewhere.
    """
    counts = Churn()
    turns = iter(range(2**62))

    async def writer(connection: Connection) -> None:
        for turn in turns:
            value = f"{turn:012d}".encode().ljust(value_size, b".")
            request = PutRequest(key=f"{prefix}{turn % keys:06d}".encode(), value=value)
            try:
                await connection.kv.Put(request, metadata=connection.metadata, timeout=5)
            except grpc.aio.AioRpcError as error:
                if error.code() not in {
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                }:
                    raise
                counts.failures += 1
                await asyncio.sleep(0.05)
            else:
                counts.writes += 1

    async with connected(etcd) as connection, asyncio.TaskGroup() as group:
        tasks = [group.create_task(writer(connection)) for _ in range(writers)]
        try:
            yield counts
        finally:
            for task in tasks:
                task.cancel()
