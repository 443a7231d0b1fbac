"""`python hasty_operator.py '{"check_every": 1}' run …`: the operator, with other times."""

import functools
import json
import sys

from etcd_steward.handlers import operator
from etcd_steward.handlers.child import Limits
from etcd_steward.handlers.context import Timing

if __name__ == "__main__":
    timing = json.loads(sys.argv.pop(1))
    if "back_offs" in timing:
        timing["back_offs"] = tuple(timing["back_offs"])
    if "limits" in timing:
        timing["limits"] = Limits(**timing["limits"])
    operator.Timing = functools.partial(Timing, **timing)  # type: ignore[misc, assignment]
    from etcd_steward.__main__ import main

    sys.exit(main())
