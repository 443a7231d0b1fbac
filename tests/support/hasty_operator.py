"""`python hasty_operator.py '{"check_every": 1}' run …`: the operator, with other times.

`"clock": FILE` lets schedules go by what stands in that file, seconds since 1970: the time that it
was when the file was written.
"""

import functools
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from etcd_steward.__main__ import main
from etcd_steward.handlers import operator
from etcd_steward.handlers.child import Limits
from etcd_steward.handlers.context import Timing, utc_now
from etcd_steward.handlers.elector import Election
from etcd_steward.models.observation import ObservationPace

HASTY = {"lease_duration": 4, "renew_deadline": 3.0, "retry_period": 0.5}


def time_in(file: Path) -> datetime:
    """The time that it is if a file was right when it was written."""
    with file.open() as opened:
        age = time.time() - os.fstat(opened.fileno()).st_mtime
        return datetime.fromtimestamp(float(opened.read()) + age, UTC)


if __name__ == "__main__":
    timing = json.loads(sys.argv.pop(1))
    clock = functools.partial(time_in, Path(timing.pop("clock"))) if "clock" in timing else utc_now
    if "back_offs" in timing:
        timing["back_offs"] = tuple(timing["back_offs"])
    if "limits" in timing:
        timing["limits"] = Limits(**timing["limits"])
    if "observing" in timing:
        timing["observing"] = ObservationPace(**timing["observing"])
    timing["election"] = Election(**timing.get("election", HASTY))
    hasty = functools.partial(operator.run_operator, timing=Timing(**timing), clock=clock)
    with mock.patch.object(operator, "run_operator", hasty):
        main()
