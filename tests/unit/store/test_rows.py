"""The stored form of rows."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.model.config_entry import CONFIG_ENTRY_TYPES
from isthmus.model.kv import DirEntry
from isthmus.model.record import Record
from isthmus.store.config_entry import ConfigEntryRow
from isthmus.store.engine import Corrupt
from isthmus.store.rows import ROW_VERSION, decode_row, decode_rows, encode_row
from isthmus.store.store import SCHEMAS
from support.records import values

RECORDS = [schema.record for schema in SCHEMAS]


def rows_of(record: type[Record]) -> st.SearchStrategy[Any]:
    if record is ConfigEntryRow:
        entries = st.one_of([values(entry_type) for entry_type in CONFIG_ENTRY_TYPES.values()])
        return entries.map(lambda entry: msgspec.structs.replace(entry, kind=kind_of(entry))).map(
            ConfigEntryRow.of
        )
    return values(record)


def kind_of(entry: object) -> str:
    return next(kind for kind, record in CONFIG_ENTRY_TYPES.items() if type(entry) is record)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_row_comes_back_as_it_was(record: type[Record], data: st.DataObject) -> None:
    row: Any = data.draw(rows_of(record))
    again = decode_row(record, encode_row(row))
    assert again == row
    assert type(again) is record


def test_row_is_its_version_and_a_map_of_what_is_not_default() -> None:
    entry = DirEntry(key="k", flags=2, value=b"v", modify_index=4)
    fields = {b"Key": b"\xa1k", b"Flags": b"\x02", b"Value": b"\xc4\x01v", b"ModifyIndex": b"\x04"}
    data = b"".join(bytes([0xA0 + len(name)]) + name + value for name, value in fields.items())
    encoded = encode_row(entry)
    assert encoded[:1] == bytes([ROW_VERSION])
    assert encoded.endswith(data)
    assert len(encoded) - len(data) <= 4  # The map's head.


def test_row_whose_text_is_not_utf_8_is_an_array_in_order_of_declaration() -> None:
    entry = DirEntry(lock_index=1, key="\udcff", flags=2, create_index=3, modify_index=4)
    data = b"\x01\x97\x01\xa1\xff\x02\xc0\xa0\x03\x04"
    assert encode_row(entry) == data
    assert decode_row(DirEntry, data) == entry


def test_row_of_an_earlier_release_takes_defaults_for_fields_it_does_not_have() -> None:
    expected = DirEntry(lock_index=1, key="k")
    assert decode_row(DirEntry, b"\x01\x92\x01\xa1k") == expected
    assert decode_row(DirEntry, b"\x02\x82\xa9LockIndex\x01\xa3Key\xa1k") == expected


@pytest.mark.parametrize("version", [b"\x01", b"\x02"])
@given(st.binary(max_size=60))
def test_any_bytes_are_a_row_or_corrupt(version: bytes, data: bytes) -> None:
    with contextlib.suppress(Corrupt):
        decode_row(DirEntry, version + data)


@given(st.lists(st.sampled_from([b"\x01\x92\x01\xa1k", b"\x02\x82\xa9LockIndex\x01\xa3Key\xa1j"])))
def test_rows_are_decoded_together_as_one_by_one(rows: list[bytes]) -> None:
    assert decode_rows(DirEntry, rows) == [decode_row(DirEntry, data) for data in rows]


@pytest.mark.parametrize(
    "bad", [b"\x02", b"\x02\x80\x80", b"\x02\x81\xa3Key", b"\x03\x80", b"", b"\x02\x81\xa3Key\x01"]
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_bad_row_among_many_is_corrupt(bad: bytes, at: int) -> None:
    rows = [b"\x02\x81\xa3Key\xa1k"] * 2
    rows.insert(at, bad)
    with pytest.raises(Corrupt):
        decode_rows(DirEntry, rows)


def test_row_of_another_version_is_corrupt() -> None:
    with pytest.raises(Corrupt, match=r"unknown row version .*upgrade this server"):
        decode_row(DirEntry, bytes([ROW_VERSION + 1]) + b"\x90")
    with pytest.raises(Corrupt, match=r"unknown row version 00$"):
        decode_row(DirEntry, b"\x00\x90")
