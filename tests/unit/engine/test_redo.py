"""Batches that are committed before they are under their keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.engine import redo
from isthmus.engine.redo import Pending, Record
from isthmus.store.engine import TooLarge
from support.batches import make_batch

KEYS = st.binary(min_size=1, max_size=3).map(lambda key: b"d/" + key)


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    made = []
    for index in range(1, draw(st.integers(1, 3)) + 1):
        puts = draw(st.dictionaries(KEYS, st.binary(max_size=40), max_size=8))
        deletes = draw(st.sets(KEYS, max_size=4)) - puts.keys()
        bounds = sorted(draw(st.lists(KEYS, min_size=2, max_size=2, unique=True)))
        inside = any(bounds[0] <= key < bounds[1] for key in (*puts, *deletes))
        made.append(Record(index, puts, deletes, [] if inside else [(bounds[0], bounds[1])]))
    return made


def stored(record: Record, part_size: int) -> dict[bytes, bytes]:
    parts, header = record.stored(part_size)
    return {**dict(parts), record.key: header}


@given(records(), st.integers(1, 64))
def test_records_are_read_as_they_were_stored(made: list[Record], part_size: int) -> None:
    kept: dict[bytes, bytes] = {}
    for record in made:
        kept.update(stored(record, part_size))
    assert redo.read(sorted(kept.items())) == made


@given(records(), st.data())
def test_record_that_lacks_anything_is_none(made: list[Record], data: st.DataObject) -> None:
    kept = stored(made[0], 16)
    del kept[data.draw(st.sampled_from(sorted(kept)))]
    assert redo.read(sorted(kept.items())) == []


@given(records(), st.dictionaries(KEYS, st.binary(max_size=3)), st.integers(1, 5))
def test_rows_read_through_records_are_those_that_copying_would_leave(
    made: list[Record], before: dict[bytes, bytes], page: int
) -> None:
    after = dict(before)
    for record in made:
        after = {key: value for key, value in after.items() if not record.hides(key)}
        after.update(record.puts)
    pending, rows = Pending(made, b"d/"), sorted(before.items())
    pages = [rows[start : start + page] for start in range(0, len(rows), page)] or [[]]
    found = [
        pair
        for number, one in enumerate(pages, 1)
        for pair in pending.merge(one, last=number == len(pages))
    ]
    assert found == sorted(after.items())


def test_record_has_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(1, puts={b"key": b"value"}, deletes={b"gone"}, ranges=[(b"a", b"bc")])
    assert redo.size_of(batch) == 15
    with pytest.raises(TooLarge, match="compressed bytes in one command"):
        Record(1, {b"%d" % n: b"%d" % (n * n) for n in range(40_000)}, set(), []).stored(1)
    monkeypatch.setattr(redo, "SIZE_MAX", 14)
    with pytest.raises(TooLarge, match="15 bytes in one command, at most 14"):
        Record.of(batch)
