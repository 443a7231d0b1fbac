"""lease grant, revoke, keep-alive, timetolive and list as etcdctl has them, byte for byte."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.stubs import ResponseHeader
from tests.support.etcdctl import VERSIONS, Both, Case
from tests.support.watching import OURS, Side, beside
from tests.testbed import EtcdCluster, wait_until

HEX = {"3.5": "etcdctl 3.5 prints `-w fields` without regard to `--hex`"}
HELD = "grant 77aa 600; put /k/a 1 77aa; put /k/b 2 77aa; put /k/c 3"
ONE = "grant 77aa 600; put /k/a 1 77aa"  # etcd lists several in no order
NEW = r'(?:lease |"ID" ?: ?)([0-9a-f]+)'
TTL = 6
LEFT = r'remaining\((\d+)s\)|"(?:ttl|TTL)" ?: ?(\d+)'

GRANT = (
    Case("lease grant 600", volatile=NEW),
    Case("lease grant 600 -w json", volatile=NEW),
    Case("lease grant 600 -w fields", volatile=NEW),
    Case("lease grant 600 -w fields --hex", volatile=NEW, unlike=HEX),
    Case("lease grant 600 -w protobuf", message=ResponseHeader),
    Case("lease grant 1 -w xml"),
    Case("lease grant"),
    Case("lease grant 600 600"),
    Case("lease grant ten"),
    Case("lease grant 0x10"),
    Case("lease grant 99999999999999999999"),
    Case("lease grant 9000000001"),
    Case("lease grant -- -5", volatile=NEW),
    Case("lease grant -5", usage=True),
)

REVOKE = (
    Case("lease revoke 77aa", before=HELD),
    Case("lease revoke 77AA", before=HELD),
    Case("lease revoke 77aa -w json", before=HELD),
    Case("lease revoke 77aa -w fields", before=HELD),
    Case("lease revoke 77ab", before=HELD),
    Case("lease revoke 77ab -w json", before=HELD),
    Case("lease revoke"),
    Case("lease revoke 1 2"),
    Case("lease revoke lease"),
)

TIME_TO_LIVE = (
    Case("lease timetolive 77aa", before=HELD, volatile=LEFT),
    Case("lease timetolive 77aa --keys", before=ONE, volatile=LEFT),
    Case("lease timetolive --keys 77aa -w json", before=ONE, volatile=LEFT),
    Case("lease timetolive 77aa -w json", before=HELD, volatile=LEFT),
    Case("lease timetolive 77aa -w fields --keys", before=ONE, volatile=LEFT),
    Case("lease timetolive 77aa -w fields --hex", before=HELD, volatile=LEFT, unlike=HEX),
    Case("lease timetolive 77aa --keys", before="grant 77aa 600", volatile=LEFT),
    Case("lease timetolive 77aa --keys -w json", before="grant 77aa 600", volatile=LEFT),
    Case("lease timetolive 77aa -w protobuf --keys", before=ONE, message=ResponseHeader),
    Case("lease timetolive 77ab"),
    Case("lease timetolive 77ab --keys"),
    Case("lease timetolive 77ab -w json"),
    Case("lease timetolive 77ab -w fields"),
    Case("lease timetolive"),
    Case("lease timetolive x"),
)

LIST = (
    Case("lease list"),
    Case("lease list -w json"),
    Case("lease list -w fields"),
    Case("lease list -w protobuf", before="grant 77aa 600", message=ResponseHeader),
    Case("lease list", before="grant 77aa 600"),
    Case("lease list ignored", before="grant 77aa 600"),
    Case("lease list -w json", before="grant 77aa 600"),
    Case("lease list -w fields", before="grant 77aa 600"),
    Case("lease list -w fields --hex", before="grant 77aa 600", unlike=HEX),
)

KEEP_ALIVE = (
    Case("lease keep-alive --once 77aa", before=HELD),
    Case("lease keep-alive --once 77aa -w json", before=HELD),
    Case("lease keep-alive 77aa --once -w fields", before=HELD),
    Case("lease keep-alive --once 77aa -w protobuf", before=HELD, message=ResponseHeader),
    Case("lease keep-alive --once 77ab"),
    Case("lease keep-alive 77ab"),
    Case("lease keep-alive 77ab -w json"),
    Case("lease keep-alive"),
    Case("lease keep-alive x"),
)


@pytest.mark.parametrize("case", [*GRANT, *REVOKE, *TIME_TO_LIVE, *LIST, *KEEP_ALIVE], ids=str)
def test_as_etcdctl_does(both: Both, case: Case) -> None:
    both.check(case)


@pytest.mark.parametrize(
    ("flags", "renewed", "end"),
    [
        ("", "keepalived", "revoked"),
        ("-w json", '"TTL":6', "revoked"),
        ("-w fields", '"TTL" : 6', "revoked"),
        ("", "keepalived", "expired"),
        ("-w json", '"TTL":6', "expired"),
        ("", "keepalived", "interrupted"),
    ],
)
async def test_a_lease_that_is_kept_alive(
    own_etcd: EtcdCluster,
    etcdctls: Mapping[str, Path],
    client: EtcdClient,
    flags: str,
    renewed: str,
    end: str,
) -> None:
    lease = (await own_etcd.etcdctl("lease", "grant", str(TTL))).split()[1]
    words = ["lease", "keep-alive", lease, f"--endpoints={own_etcd.endpoints[0]}", *flags.split()]
    programs: list[Sequence[str | Path]] = [OURS, *([etcdctls[version]] for version in VERSIONS)]
    async with beside(own_etcd, client, programs, words) as side:
        await side.do(f"says 3 '{renewed}'")
        match end:
            case "revoked":
                await own_etcd.etcdctl("lease", "revoke", lease)
            case "expired":
                await _oversleep(side, own_etcd, lease)
            case _:
                _send(side, signal.SIGINT)
        ours, *theirs = [(await one.ended(), _once(one.out)) for one in side.programs]
        said = bytes(side.programs[0].err)
    if end == "interrupted":  # as with all verbs of ours: see docs/etcdctl.md
        assert (ours[0], said) == (130, b"\nInterrupted\n")
        ours = (-signal.SIGINT, ours[1])
    assert dict.fromkeys(VERSIONS, ours) == dict(zip(VERSIONS, theirs, strict=True))


async def _oversleep(side: Side, etcd: EtcdCluster, lease: str) -> None:
    """Let nobody renew the lease until it has expired."""

    async def expired() -> bool:
        return "already expired" in await etcd.etcdctl("lease", "timetolive", lease)

    _send(side, signal.SIGSTOP)
    await wait_until(expired, "the end of the lease", timeout=60)
    _send(side, signal.SIGCONT)


def _send(side: Side, number: signal.Signals) -> None:
    for program in side.programs:
        program.process.send_signal(number)


def _once(out: bytearray) -> list[bytes]:
    """Each line once: how often each program renews a lease before it ends, is chance."""
    return list(dict.fromkeys(bytes(out).splitlines(keepends=True)))
