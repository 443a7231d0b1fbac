"""What a listing says of schedules."""

from datetime import UTC, datetime, timedelta

from etcd_steward.cli.snapshot_list import Rhythm, rhythm

START = datetime(2026, 11, 1, 2, 17, tzinfo=UTC)


def nights(*numbers: int) -> list[datetime]:
    return [START + timedelta(days=number) for number in numbers]


def test_a_whole_schedule_has_no_gap() -> None:
    ticks = nights(*range(7))
    assert rhythm(ticks, ticks[-1] + timedelta(hours=30)) == Rhythm("24h")


def test_missed_runs_are_told_and_so_is_silence_since() -> None:
    ticks = nights(0, 1, 2, 4, 5, 6, 9, 10)
    assert rhythm(ticks, ticks[-1] + timedelta(days=3)).gaps == (
        "nothing for 2d, from 2026-11-03 02:17Z to 2026-11-05 02:17Z",
        "nothing for 3d, from 2026-11-07 02:17Z to 2026-11-10 02:17Z",
        "nothing since 2026-11-11 02:17Z, for 3d",
    )


def test_only_the_newest_gaps_are_told() -> None:
    ticks = nights(0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16)
    gaps = rhythm(ticks, ticks[-1]).gaps
    assert gaps[0] == "1 before these, which retention may have made"
    assert len(gaps) == 4


def test_what_was_made_by_hand_has_no_rhythm() -> None:
    assert rhythm(nights(0, 1, 9, 11, 30, 31), START + timedelta(days=90)) == Rhythm()
    assert rhythm(nights(0, 1, 2), START + timedelta(days=90)) == Rhythm()
    assert rhythm(nights(0, 0, 0, 0, 0), START) == Rhythm()
