"""What somebody else wrote into a status, read back."""

import logging
from typing import Any

import pytest

from etcd_steward.handlers.read import read_status
from etcd_steward.handlers.resources import needs_us, order_of, run_of
from etcd_steward.models.kinds import EtcdSnapshotStatus

COMPLETE = {
    "type": "Complete",
    "status": "True",
    "reason": "Complete",
    "lastTransitionTime": "2026-11-22T02:17:00Z",
}
FAILED = {**COMPLETE, "type": "Failed"}
JOURNAL = {"folder": "f", "key": "f/k", "uploadID": "u"}


def body(status: dict[str, Any], name: str = "one") -> dict[str, Any]:
    return {
        "kind": "EtcdSnapshot",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": name,
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": "2026-11-22T02:17:00Z",
        },
        "spec": {"backupName": "nightly"},
        "status": status,
    }


def test_fields_of_a_newer_version_are_ignored() -> None:
    read = read_status(EtcdSnapshotStatus, body({"attempt": 2, "journal": {**JOURNAL, "new": 1}}))
    assert read.understood
    assert read.status.attempt == 2
    assert read.status.journal is not None


def test_what_cannot_be_read_is_left_alone_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    odd = body({"phase": "Archived", "attempt": 2}, name="odd")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            run = run_of(odd)
    assert run.status.attempt == 2
    assert run.status.phase is None
    assert not needs_us(odd)
    assert [record.getMessage() for record in caplog.records] == [
        (
            "the status of EtcdSnapshot ns/odd can't be read (phase): it is left alone. "
            "Was it written by a newer operator, or by hand?"
        )
    ]
    assert order_of(body({"conditions": "none"}, name="order")).status.conditions == ()


@pytest.mark.parametrize(
    ("status", "needed"),
    [
        ({}, True),
        ({"phase": "Running"}, True),
        ({"phase": "Complete", "conditions": [COMPLETE]}, False),
        ({"phase": "Failed", "conditions": [FAILED]}, False),
        ({"phase": "Failed", "conditions": [FAILED], "journal": JOURNAL}, True),
    ],
)
def test_a_run_needs_the_operator_until_nothing_is_left_to_do(
    status: dict[str, Any], needed: bool
) -> None:
    assert needs_us(body(status)) is needed
