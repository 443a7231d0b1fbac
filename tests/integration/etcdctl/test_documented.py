"""What ours does unlike etcdctl is listed in the documentation, and nothing else is."""

from tests.integration.etcdctl import test_connections, test_keys, test_leases, test_watch
from tests.integration.etcdctl.test_watch import Ends, Live
from tests.support.etcdctl import Case
from tests.testbed.pages import ROOT

PAGE = ROOT / "docs" / "etcdctl.md"


def test_every_difference_is_documented() -> None:
    cases: tuple[Case | Live | Ends, ...] = (
        *(*test_keys.PUT, *test_keys.GET, *test_keys.DELETE, *test_keys.COMPACT),
        *(*test_leases.GRANT, *test_leases.REVOKE, *test_leases.TIME_TO_LIVE),
        *(*test_leases.LIST, *test_leases.KEEP_ALIVE, *test_connections.ENDPOINTS),
        *(*test_watch.LIVE, *test_watch.ENDS),
    )
    reasons = {reason for case in cases for reason in case.unlike.values()}
    text = PAGE.read_text(encoding="utf-8")
    assert [reason for reason in reasons if reason not in text] == []
    lines = len(cases) + len(test_connections.AUTH) + len(test_connections.REGISTRY)
    assert lines > 350  # as the page says
