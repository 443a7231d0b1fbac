"""Logs of this program: one line each on standard error, for people and for collectors alike."""

import logging
import sys
import time

FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s"
QUIET = {
    "kopf": logging.WARNING,  # it narrates each of its steps
    "kopf.objects": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "botocore": logging.WARNING,
    "boto3": logging.WARNING,
    "s3transfer": logging.WARNING,
    "urllib3": logging.WARNING,
    "asyncio": logging.WARNING,
}


class _UtcFormatter(logging.Formatter):
    """Times in UTC, in the form that Kubernetes uses."""

    converter = time.gmtime  # type: ignore[assignment]


def configure(level: int = logging.INFO) -> None:
    """Send everything from `level` on to standard error; libraries only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_UtcFormatter(FORMAT, datefmt="%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(max(level, quiet))
