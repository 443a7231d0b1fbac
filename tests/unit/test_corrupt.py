"""Which backups nothing vouches for any more, once etcd has raised CORRUPT."""

from types import SimpleNamespace

import pytest

from etcd_steward.engine.maintenance.corrupt import alarms_of, refuse_corrupt, suspicious
from etcd_steward.engine.manifests import Backup
from etcd_steward.errors import Refused
from etcd_steward.etcd.member import Alarm
from etcd_steward.models.manifest import Level
from tests.support.backups import made
from tests.support.maintenance import CORRUPT, NOSPACE, member


def backup(number: int, *, compared: bool = False, suspect: str | None = None) -> Backup:
    manifest = made(number, suspect=suspect)
    assert manifest.proof is not None
    proofs = [manifest.proof]
    if compared:  # by a level that compares with other members, once there is one
        level = SimpleNamespace(strength=Level.STRUCTURE.strength + 1)
        proofs.append(manifest.proof.model_copy(update={"level": level}))
    return Backup(manifest, tuple(proofs))


def test_all_since_the_last_comparison_of_members_are_suspect() -> None:
    old, good, new, marked = (
        backup(1),
        backup(2, compared=True),
        backup(3),
        backup(4, suspect="no leader"),
    )
    assert suspicious([old, good, new, marked]) == [new]
    assert suspicious([old, new, marked]) == [old, new], "a structural proof vouches for nothing"
    doubted = backup(2, compared=True).suspected("it was")
    assert suspicious([old, doubted, new]) == [old, new]


def test_corrupt_is_refused_by_name() -> None:
    refuse_corrupt([NOSPACE])
    with pytest.raises(Refused, match=r"CORRUPT alarm \(nobody knows which\)"):
        refuse_corrupt([NOSPACE, CORRUPT])
    with pytest.raises(Refused, match=r"\(member abc\)"):
        refuse_corrupt([Alarm(0xABC, "CORRUPT")])
    found = [member(1, alarms=(NOSPACE, CORRUPT)), member(2, alarms=(CORRUPT,))]
    assert alarms_of(found) == [NOSPACE, CORRUPT]
