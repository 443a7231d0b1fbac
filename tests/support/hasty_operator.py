"""`python hasty_operator.py '{"check_every": 1}' run …`: the operator, with other times."""

import functools
import json
import sys
from unittest import mock

from etcd_steward.__main__ import main
from etcd_steward.handlers import operator
from etcd_steward.handlers.child import Limits
from etcd_steward.handlers.context import Timing
from etcd_steward.handlers.elector import Election

HASTY = {"lease_duration": 4, "renew_deadline": 3.0, "retry_period": 0.5}

if __name__ == "__main__":
    timing = json.loads(sys.argv.pop(1))
    if "back_offs" in timing:
        timing["back_offs"] = tuple(timing["back_offs"])
    if "limits" in timing:
        timing["limits"] = Limits(**timing["limits"])
    timing["election"] = Election(**timing.get("election", HASTY))
    with mock.patch.object(operator, "Timing", functools.partial(Timing, **timing)):
        main()
