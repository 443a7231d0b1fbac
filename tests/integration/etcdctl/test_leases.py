"""lease grant, revoke, keep-alive, timetolive and list as etcdctl has them, byte for byte."""

import pytest

from tests.support.etcdctl import Both, Case

HEX = {"3.5": "etcdctl 3.5 prints `-w fields` without regard to `--hex`"}
HELD = "grant 77aa 600; put /k/a 1 77aa; put /k/b 2 77aa; put /k/c 3"
ONE = "grant 77aa 600; put /k/a 1 77aa"  # etcd lists several in no order
NEW = r'(?:lease |"ID" ?: ?)([0-9a-f]+)'
LEFT = r'remaining\((\d+)s\)|"(?:ttl|TTL)" ?: ?(\d+)'

GRANT = (
    Case("lease grant 600", volatile=NEW),
    Case("lease grant 600 -w json", volatile=NEW),
    Case("lease grant 600 -w fields", volatile=NEW),
    Case("lease grant 600 -w fields --hex", volatile=NEW, unlike=HEX),
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
    Case("lease keep-alive --once 77ab"),
    Case("lease keep-alive 77ab"),
    Case("lease keep-alive 77ab -w json"),
    Case("lease keep-alive"),
    Case("lease keep-alive x"),
)


@pytest.mark.parametrize("case", [*GRANT, *REVOKE, *TIME_TO_LIVE, *LIST, *KEEP_ALIVE], ids=str)
def test_as_etcdctl_does(both: Both, case: Case) -> None:
    both.check(case)
