"""The stored form of rows."""

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.model.kv import DirEntry
from isthmus.model.record import Record
from isthmus.store.engine import Corrupt
from isthmus.store.rows import ROW_VERSION, decode_row, encode_row
from isthmus.store.store import SCHEMAS
from support.records import values

RECORDS = [schema.record for schema in SCHEMAS]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_row_comes_back_as_it_was(record: type[Record], data: st.DataObject) -> None:
    row: Any = data.draw(values(record))
    again = decode_row(record, encode_row(row))
    assert again == row
    assert type(again) is record


def test_row_begins_with_its_version_and_is_an_array_in_order_of_declaration() -> None:
    entry = DirEntry(lock_index=1, key="k", flags=2, value=b"v", create_index=3, modify_index=4)
    assert encode_row(entry) == bytes([ROW_VERSION]) + b"\x97\x01\xa1k\x02\xc4\x01v\xa0\x03\x04"


def test_row_of_an_earlier_release_takes_defaults_for_fields_it_does_not_have() -> None:
    assert decode_row(DirEntry, bytes([ROW_VERSION]) + b"\x92\x01\xa1k") == DirEntry(
        lock_index=1, key="k"
    )


@given(st.binary(max_size=60))
def test_any_bytes_are_a_row_or_corrupt(data: bytes) -> None:
    with contextlib.suppress(Corrupt):
        decode_row(DirEntry, bytes([ROW_VERSION]) + data)


def test_row_of_another_version_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="unknown row version"):
        decode_row(DirEntry, bytes([ROW_VERSION + 1]) + b"\x90")
