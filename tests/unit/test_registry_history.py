"""What a file is said to have held, against a plain model of etcd's multi-version store."""

import contextlib
import random
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etcd_steward.errors import Compacted, IntegrityError, InvalidInput
from etcd_steward.models.registry import Record
from etcd_steward.registry import history as module
from etcd_steward.registry import mvcc, strings, walk
from etcd_steward.registry.history import History, Rows
from etcd_steward.registry.lanes import Words
from etcd_steward.registry.liveness import KeyHash
from etcd_steward.registry.strings import Strings
from tests.boltfile import PAGE, BoltFile, BytesFile, Items, content, key_value, rev, shape

LEASE = 0x7000_0000_0000_0001
KEYS = st.sampled_from(
    [
        b"/a",
        b"/b",
        b"/c\x00",
        b"/c",
        b"/c\x00\x00",
        b"\xff" * 9,
        b"\x00",
        b"/long" * 60,
        b"/long" * 59,
    ]
)
OPERATION = st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=60)))
TXN = st.lists(OPERATION, min_size=1, max_size=6, unique_by=lambda pair: pair[0])


@dataclass
class Model:
    """etcd's store in a few lines: what lives at each revision, and the records of bucket `key`."""

    revision: int = 1
    compacted: int = 0
    finished: bool = True
    records: dict[bytes, bytes] = field(default_factory=dict)
    events: list[Record] = field(default_factory=list)
    states: list[dict[bytes, Record]] = field(default_factory=lambda: [{}, {}])
    owners: dict[bytes, Record] = field(default_factory=dict)
    """By revision, without the mark of a deletion, the event that its record tells of."""

    def txn(self, *operations: tuple[bytes, bytes | None], lease: int = 0) -> None:
        live, main, sub = dict(self.states[-1]), self.revision + 1, 0
        for key, value in operations:
            if value is None:
                if live.pop(key, None) is None:
                    continue
                self.records[rev(main, sub, b"t")] = key_value(key)
                self.events.append(Record(key, b"", 0, main, 0, 0))
            else:
                old = live.get(key)
                create, version = (old.create_revision, old.version + 1) if old else (main, 1)
                live[key] = Record(key, value, create, main, version, lease)
                lease_field = lease % (1 << 64)
                self.records[rev(main, sub)] = key_value(
                    key, create, main, version, value, lease_field
                )
                self.events.append(live[key])
            self.owners[rev(main, sub)] = self.events[-1]
            sub += 1
        if sub:
            self.revision = main
            self.states.append(live)

    def compact(self, at: int, *, keep_tombstones: bool, stop_after: int | None = None) -> None:
        """Compact as etcd 3.6 does, or as 3.5; killed after so many deletions, if told so."""
        self.compacted = at
        kept = {rev_of(record) for record in self.states[at].values()}
        gone = [
            key
            for key in sorted(self.records)
            if (main := int.from_bytes(key[:8], "big")) <= at
            and (main, self.user_key(key)) not in kept
            and not (keep_tombstones and main == at and key.endswith(b"t"))
        ]
        for key in gone[:stop_after]:
            del self.records[key]
        self.finished = stop_after is None

    def user_key(self, record: bytes) -> bytes:
        return self.owners[record[:17]].key

    def held(self) -> list[Record]:
        """The events whose records are still there."""
        return [self.owners[record[:17]] for record in sorted(self.records)]

    def buckets(self) -> Items:
        meta = {b"consistent_index": bytes(8)}
        if self.compacted:
            meta[b"scheduledCompactRev"] = rev(self.compacted)
        if self.compacted and self.finished:
            meta[b"finishedCompactRev"] = rev(self.compacted)
        return {b"key": self.records, b"meta": meta}


def rev_of(record: Record) -> tuple[int, bytes]:
    return record.mod_revision, record.key


def all_of(rows: Rows, batch: int = 1) -> list[Record]:
    return [record for records in rows.records(batch) for record in records]


def by_key(live: dict[bytes, Record]) -> list[Record]:
    return [live[key] for key in sorted(live)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few pages, keys and bytes at a time, so that small files take every way."""
    for where, name, value in (
        (walk, "_WINDOW", 4096), (walk, "_BATCH", 5), (mvcc, "PIECE", 64),
        (module, "_PENDING", 100), (module, "_PAGE", 3), (module, "_GAP", 50),
        (module, "_READ", 300), (strings, "_PART", 3), (strings, "_WIDTH", 16),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, value)


@given(st.lists(TXN, max_size=25), st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("small")
def test_any_history_at_any_revision(
    txns: list[list[tuple[bytes, bytes | None]]], data: st.DataObject
) -> None:
    model = Model()
    for number, txn in enumerate(txns):
        model.txn(*txn, lease=(0, LEASE, 5, -3)[number % 4])
    if data.draw(st.booleans()):
        model.compact(
            data.draw(st.integers(1, model.revision)),
            keep_tombstones=data.draw(st.booleans()),
            stop_after=data.draw(st.one_of(st.none(), st.integers(0, 5))),
        )
    shuffle = random.Random(3) if data.draw(st.booleans()) else None  # noqa: S311
    made = BoltFile(data.draw(st.sampled_from([1024, 4096])), data.draw(st.integers(1, 8)), 3)
    made.shuffle = shuffle
    history = History(BytesFile(made.build(model.buckets())))
    assert (history.revision, history.compact_revision) == (model.revision, model.compacted)
    for at in range(max(1, model.compacted), model.revision + 1):
        rows = history.live(at)
        assert all_of(rows, data.draw(st.integers(1, 900))) == by_key(model.states[at])
        assert list(rows.keys()) == sorted(model.states[at])
        assert not rows.deleted.any()
    assert all_of(history.live()) == by_key(model.states[-1])
    assert all_of(history.changes()) == model.held()
    for after in range(model.compacted, model.revision + 1):
        events = [event for event in model.events if event.mod_revision > after]
        assert all_of(history.changes(after)) == events
    for key in {event.key for event in model.events}:
        assert all_of(history.revisions(key)) == [one for one in model.held() if one.key == key]


def example(per_leaf: int = 1000) -> tuple[Model, History]:
    model = Model()
    for number in range(30):
        model.txn((b"/k/%d" % (number % 7), b"v" * number), (b"/n/%d" % number, None))
        model.txn((b"/n/%d" % number, b"n"), lease=LEASE)
    data = BoltFile(per_leaf=per_leaf).build(model.buckets())
    return model, History(BytesFile(data))


def test_what_a_revision_may_be() -> None:
    model = Model()
    for number in range(9):
        model.txn((b"/a", b"%d" % number))
    model.compact(5, keep_tombstones=True)
    history = History(BytesFile(BoltFile().build(model.buckets())))
    with pytest.raises(Compacted, match="up to 5") as old:
        history.live(4)
    assert "5 to 10" in old.value.hint
    with pytest.raises(InvalidInput, match="ends at 10") as future:
        history.live(11)
    assert "5 to 10" in future.value.hint
    with pytest.raises(InvalidInput):
        history.live(-1)
    with pytest.raises(Compacted, match="up to 5"):
        history.changes(4)
    with pytest.raises(Compacted):
        history.changes(5, 4)
    assert [one.mod_revision for one in all_of(history.changes(5, 7))] == [6, 7]
    assert len(history.revisions(b"/b")) == len(history.revisions(b"/")) == 0


def test_a_bump_and_its_gap() -> None:
    """`etcdutl snapshot restore --bump-revision` leaves a record of no key, and marks it."""
    model = Model()
    model.txn((b"/a", b"1"), (b"/b", b"2"))
    bumped = 1_000_000_002
    model.records[rev(bumped)] = b""
    buckets = {**model.buckets(), b"meta": {b"scheduledCompactRev": rev(bumped)}}
    history = History(BytesFile(BoltFile().build(buckets)))
    assert (history.revision, history.compact_revision) == (bumped, bumped)
    assert all_of(history.live()) == by_key(model.states[-1])
    assert all_of(history.live(bumped)) == by_key(model.states[-1])
    with pytest.raises(Compacted):
        history.live(2)
    assert len(history.changes(bumped)) == 0


def test_an_etcd_that_was_never_written_to() -> None:
    history = History(BytesFile(BoltFile().build(Model().buckets())))
    assert (history.revision, history.compact_revision) == (1, 0)
    assert all_of(history.live()) == all_of(history.live(1)) == all_of(history.changes(0)) == []
    assert history.live().joined_keys()[1].tolist() == [0]
    assert history.live().values() == []
    with pytest.raises(InvalidInput):
        history.live(2)


def test_an_etcd_that_was_told_to_compact_nothing() -> None:
    """Which etcd takes as `compact 0` while it was never compacted, and notes it."""
    model = Model()
    model.txn((b"/a", b"1"))
    marks = {b"scheduledCompactRev": rev(0), b"finishedCompactRev": rev(0)}
    history = History(BytesFile(BoltFile().build({**model.buckets(), b"meta": marks})))
    assert (history.revision, history.compact_revision) == (2, 0)
    assert all_of(history.changes(0)) == model.held()


def test_a_last_revision_that_is_in_meta_alone() -> None:
    """A deletion that etcd 3.5 compacted away: nothing is left at the newest revision."""
    model = Model()
    model.txn((b"/a", b"1"), (b"/b", b"2"))
    model.txn((b"/a", None))
    model.compact(3, keep_tombstones=False)
    history = History(BytesFile(BoltFile().build(model.buckets())))
    assert history.revision == 3
    assert all_of(history.live(3)) == by_key(model.states[3])


def test_columns_agree_with_records() -> None:
    model, history = example(per_leaf=3)
    rows = history.live(40)
    expected = by_key(model.states[40])
    columns = (rows.create_revision, rows.mod_revision, rows.version, rows.lease, rows.value_size)
    assert [column.tolist() for column in columns] == [
        [one.create_revision for one in expected],
        [one.mod_revision for one in expected],
        [one.version for one in expected],
        [one.lease for one in expected],
        [len(one.value) for one in expected],
    ]
    keys, at = rows.joined_keys()
    assert keys.tobytes() == b"".join(one.key for one in expected)
    assert np.diff(at).tolist() == [len(one.key) for one in expected]
    every = history.live()
    assert every.joined_keys()[0].tobytes() == b"".join(every.keys())
    assert rows.values() == [one.value for one in expected]


def test_ranges_and_other_orders() -> None:
    model, history = example()
    live = model.states[-1]
    rows = history.live()
    chosen = rows.between(b"/k/", b"/k0")
    assert list(chosen.keys()) == [key for key in sorted(live) if key.startswith(b"/k/")]
    assert list(rows.between(b"/n/2", None).keys()) == [
        key for key in sorted(live) if key >= b"/n/2"
    ]
    assert len(rows.between(b"/x", None)) == len(rows.between(b"/k/", b"/k/")) == 0
    backwards = rows[np.arange(len(rows))[::-1]]
    assert all_of(backwards, 1 << 20) == by_key(live)[::-1]
    twice = rows[np.array([3, 3, 0])]
    assert twice.read() == [by_key(live)[number] for number in (3, 3, 0)]
    changes = history.changes().between(b"/n/", None)
    assert all_of(changes) == [one for one in model.events if one.key.startswith(b"/n/")]


@pytest.mark.parametrize("window", [4096, 8 << 20])
def test_large_keys_and_values(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_WINDOW", window)
    monkeypatch.setattr(mvcc, "PIECE", 64)
    model = Model()
    model.txn((b"/k" * 5000, b"small"), (b"/v", b"V" * 90_000), lease=LEASE)
    model.txn((b"/k" * 5000, b"K" * 20_000), (b"/w", b"w"))
    history = History(BytesFile(BoltFile().build(model.buckets())))
    assert all_of(history.live(2)) == by_key(model.states[2])
    assert all_of(history.live()) == by_key(model.states[3])
    assert all_of(history.changes(0)) == model.events


def test_records_whose_fields_lie_otherwise_are_understood() -> None:
    """Nothing but etcd's own order is written, and any order is protobuf."""
    value = b"\x30\x07" + b"\x2a\x01v" + b"\x20\x01\x18\x02\x10\x02\x0a\x02/a"
    data = BoltFile(inline=False).build({b"key": {rev(2): value}, b"meta": {}})
    history = History(BytesFile(data))
    assert all_of(history.live()) == [Record(b"/a", b"v", 2, 2, 1, 7)]


def test_two_keys_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the file is read anew with other secrets, until no two are alike."""
    made: list[KeyHash] = []

    class Weak(KeyHash):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def __call__(self, *arguments: object) -> Words:
            hashes = super().__call__(*arguments)  # type: ignore[arg-type]
            return hashes & np.uint64(2) if len(made) < 3 else hashes

    monkeypatch.setattr(module, "KeyHash", Weak)
    model, history = example()
    assert len(made) == 3
    assert all_of(history.live()) == by_key(model.states[-1])


@given(st.lists(st.binary(min_size=1, max_size=30), unique=True), st.binary(max_size=20))
@settings(max_examples=60)
def test_strings_are_sorted_as_python_sorts_them(found: list[bytes], prefix: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strings, "_WIDTH", 8)
        patch.setattr(strings, "_PART", 4)
        each = [prefix + one for one in found]
        joined = Strings.join(each, np.array([len(one) for one in each], dtype=np.int64))
        ordered = joined.take(joined.order())
        assert [ordered[number] for number in range(len(ordered))] == sorted(each)
        for one in (prefix, *each[:3], b"\xff" * 40):
            assert ordered.find(one) == sum(other < one for other in each)


# Bad files ---------------------------------------------------------------------------------------


@cache
def built(*, freelist: bool) -> tuple[bytes, BoltFile]:
    made = shape(freelist=freelist)
    return made.build(content()), made


def read_all(data: bytes) -> list[Record]:
    history = History(BytesFile(data), size=len(data))
    return [*all_of(history.live(), 1 << 20), *all_of(history.changes(), 1 << 20)]


def test_an_empty_file_and_no_file_of_etcds() -> None:
    with pytest.raises(IntegrityError, match="it is empty"):
        read_all(b"")
    with pytest.raises(IntegrityError, match="no buckets"):
        read_all(BoltFile().build({b"other": {b"a": b"b"}}))
    with pytest.raises(IntegrityError, match="meta pages"):
        read_all(b"SQLite format 3\0" + bytes(8176))


@pytest.mark.parametrize("freelist", [False, True])
def test_truncation_is_found_wherever_it_is(freelist: bool) -> None:
    data, _ = built(freelist=freelist)
    for size in (*range(0, len(data), PAGE), *range(1, len(data), 2999)):
        with pytest.raises(IntegrityError):
            read_all(data[:size])


def test_a_file_that_shrinks_after_it_was_read() -> None:
    file = BytesFile(BoltFile().build(example()[0].buckets()))
    history = History(file)
    file.data = file.data[:6000]
    with pytest.raises(IntegrityError, match="ends before"):
        all_of(history.live(), 1 << 20)


@given(st.data())
@settings(max_examples=150, print_blob=True)
def test_any_damage_ends_in_records_or_an_error(data: st.DataObject) -> None:
    """Every page of every kind is hit: headers, elements, references, records, the freelist."""
    whole, made = built(freelist=data.draw(st.booleans()))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        where, length, _ = data.draw(st.sampled_from([*made.fields, (0, len(whole), "anywhere")]))
        at = where + data.draw(st.integers(0, length - 1))
        if data.draw(st.booleans()):
            damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        else:
            patch = data.draw(st.binary(min_size=1, max_size=9))
            damaged[at : at + len(patch)] = patch[: len(whole) - at]
    with contextlib.suppress(IntegrityError):
        read_all(bytes(damaged))


@pytest.mark.parametrize("what", ["branch", "leaf"])
@pytest.mark.parametrize("part", ["header", "elements"])
def test_every_bit_of_a_page_head_is_minded(what: str, part: str) -> None:
    """A flipped bit is found, or what is read is what was there."""
    whole, made = built(freelist=False)
    sound = read_all(whole)
    seed = 20261122
    rng = random.Random(seed)  # noqa: S311
    spots = [
        (where + at, bit)
        for where, length, kind in made.fields
        if kind == f"{what} {part}"
        for at in range(length)
        for bit in range(8)
    ]
    for at, bit in rng.sample(spots, min(120, len(spots))):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        try:
            assert read_all(bytes(damaged)) == sound, (seed, at, bit)
        except IntegrityError:
            continue
