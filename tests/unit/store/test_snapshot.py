"""Snapshots: what was saved is read, and any other file is refused whole."""

import gzip
import hashlib
import io
import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.catalog import HealthCheck, NodeService, RegisterRequest
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    UPSERT,
    ConfigEntryRequest,
    ProxyConfigEntry,
)
from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.store.rows import encode_row
from isthmus.store.snapshot import (
    META,
    META_SIZE_MAX,
    STATE,
    SnapshotMeta,
    SnapshotReader,
    load_snapshot,
    take_view,
    write_snapshot,
)
from isthmus.wire.archive import SUMS, TAR_END, UnreadableSnapshot, format_sums, pack_members
from support.consul_snapshot import archive_of, state_of
from support.stores import Driven


def filled() -> Driven:
    driven = Driven()
    for number in range(5):
        driven.execute(
            RegisterRequest(
                datacenter="dc1",
                node=f"n{number}",
                address="10.0.0.1",
                service=NodeService(id="web", service="web", tags=("a",), meta={"k": "v"}),
                check=HealthCheck(node=f"n{number}", check_id="c", service_id="web"),
            )
        )
        entry = DirEntry(key=f"k/{number}", value=b"\xff\x00" * number, flags=number)
        driven.execute(KVSRequest(op=KV_SET, dir_ent=entry))
    return driven


def saved(driven: Driven) -> bytes:
    out = io.BytesIO()
    meta = write_snapshot(
        take_view(driven.store),
        out,
        io.BytesIO(),
        dc="dc1",
        cluster="uuid",
        created="2026-01-02T03:04:05+00:00",
        modified=1_767_323_045,
    )
    assert meta.rows["kv"] == len(driven.store.kv.list("").value)
    return out.getvalue()


def test_what_was_saved_is_loaded() -> None:
    driven = filled()
    meta, store = load_snapshot(io.BytesIO(saved(driven)))
    assert store.copy_rows() == driven.store.copy_rows()
    assert (meta.index, meta.dc, meta.cluster_uuid) == (driven.store.index, "dc1", "uuid")
    assert {name: count for name, count in meta.rows.items() if count} == {
        "nodes": 5,
        "services": 5,
        "checks": 5,
        "kv": 5,
    }


def test_config_entries_of_every_kind_are_saved_and_loaded() -> None:
    driven = Driven()
    for entry_type in CONFIG_ENTRY_TYPES.values():
        entry = entry_type(name="web", meta={"kind": entry_type.__name__})
        driven.execute(ConfigEntryRequest(op=UPSERT, entry=entry))
    config: dict[str, object] = {"nested": {"list": [1, 2.5, None, True, "x"]}}
    driven.execute(ConfigEntryRequest(op=UPSERT, entry=ProxyConfigEntry(name="x", config=config)))
    meta, store = load_snapshot(io.BytesIO(saved(driven)))
    assert meta.rows["config_entries"] == 10
    assert store.config_entries.list().value == driven.store.config_entries.list().value


def test_same_data_gives_the_same_file() -> None:
    assert saved(filled()) == saved(filled())


def test_view_is_not_changed_by_later_writes() -> None:
    driven = filled()
    view = take_view(driven.store)
    rows = {name: dict(table) for name, table in view.tables.items()}
    driven.execute(KVSRequest(op=KV_SET, dir_ent=DirEntry(key="later")))
    assert view.tables == rows
    assert view.index == driven.store.index - 1


def test_empty_store_is_saved_too() -> None:
    meta, store = load_snapshot(io.BytesIO(saved(Driven())))
    assert sum(store.row_counts().values()) == sum(meta.rows.values()) == 0


ROW = encode_row(DirEntry(key="k"))


def archive(
    state: bytes = b"", *, meta: bytes | dict[str, Any] | None = None, name: str = STATE
) -> io.BytesIO:
    """A file whose checksums are right, whatever is in it."""
    shown: dict[str, Any] = {
        "format": 1, "index": 5, "dc": "dc1", "cluster_uuid": "u", "created": "now", "rows": {},
    }  # fmt: skip
    described = meta if isinstance(meta, bytes) else json.dumps({**shown, **(meta or {})}).encode()
    files = [(META, described), (name, state)]
    sums = {one: hashlib.sha256(content).hexdigest() for one, content in files}
    members = [*files, (SUMS, format_sums(sums))]
    return io.BytesIO(gzip.compress(pack_members(members, modified=0) + TAR_END))


def test_handmade_file_is_read() -> None:
    state = msgpack.packb(["kv", ROW])
    meta, store = load_snapshot(archive(state, meta={"rows": {"kv": 1, "future": 0}}))
    assert meta == SnapshotMeta(5, "dc1", "u", "now", {"kv": 1, "future": 0})
    assert [row.key for row in store.kv.list("").value] == ["k"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (archive(meta=b"{"), "failed to decode snapshot metadata"),
        (archive(meta=b"[1]"), "no snapshot of isthmus"),
        (archive(meta=b"[" * 5000), "failed to decode snapshot metadata"),
        (archive(meta=b" " * META_SIZE_MAX + b"{}"), "has 65538 bytes, expected 65536 at most"),
        (archive(meta={"format": 2}), "has format 2, this release knows format 1"),
        (archive(meta={"index": 0}), "a value is missing"),
        (archive(meta={"index": 2**64}), "a value is missing"),
        (archive(meta={"index": True}), "a value is missing"),
        (archive(meta={"dc": 1}), "a value is missing"),
        (archive(meta={"rows": {"kv": -1}}), "a value is missing"),
        (archive(meta={"rows": {"future": 1}}), "newer release: it has rows of future"),
        (archive(meta={"rows": {"kv": 1}}), "announces 1 rows of kv and has 0"),
        (archive(msgpack.packb(["kv", ROW])), "announces 0 rows of kv and has 1"),
        (archive(msgpack.packb(["kv", ROW])[:-1]), "ends inside a row"),
        (archive(b"\xc1"), "cannot be read"),
        (archive(b"\xdd\xff\xff\xff\xff"), "cannot be read"),
        (archive(msgpack.packb(["kv", ROW, 1])), "cannot be read"),
        (archive(msgpack.packb(["kv"])), "something else than rows"),
        (archive(msgpack.packb(["kv", "text"])), "something else than rows"),
        (archive(msgpack.packb(7)), "something else than rows"),
        (archive(msgpack.packb(["future", ROW])), "row of 'future' out of order"),
        (archive(msgpack.packb(["kv", ROW]) + msgpack.packb(["nodes", ROW])), "out of order"),
        (archive(msgpack.packb(["kv", ROW]) * 2, meta={"rows": {"kv": 2}}), "there twice"),
        (archive(msgpack.packb(["kv", b"\x09"]), meta={"rows": {"kv": 1}}), "row version"),
        (archive(msgpack.packb(["kv", b"\x01\x92\x00\x07"]), meta={"rows": {"kv": 1}}), "of kv"),
        (archive(name="rows.bin"), 'unexpected file "rows.bin"'),
        (io.BytesIO(archive_of(state_of([]))), "isthmus snapshot import"),
    ],
)
def test_foreign_and_damaged_files_are_refused(file: io.BytesIO, text: str) -> None:
    with pytest.raises(UnreadableSnapshot, match=text):
        load_snapshot(file)


@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated_file_is_refused(cut: float) -> None:
    data = saved(filled())
    with pytest.raises(UnreadableSnapshot):
        load_snapshot(io.BytesIO(data[: int(len(data) * cut)]))


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_flipped_bit_is_found_or_harmless(at: int, bit: int) -> None:
    """Of gzip's header some bits mean nothing."""
    driven = filled()
    data = bytearray(saved(driven))
    data[at % len(data)] ^= 1 << bit
    try:
        _, store = load_snapshot(io.BytesIO(bytes(data)))
    except UnreadableSnapshot:
        return
    assert store.copy_rows() == driven.store.copy_rows()


@given(state=st.binary(max_size=300), kv=st.integers(0, 3))
def test_any_rows_are_read_or_refused(state: bytes, kv: int) -> None:
    for content in (state, msgpack.packb(["kv", state]), msgpack.packb(["services", state])):
        try:
            load_snapshot(archive(content, meta={"rows": {"kv": kv}}))
        except UnreadableSnapshot:
            continue


def test_reader_tells_the_head_before_the_rows() -> None:
    reader = SnapshotReader(io.BytesIO(saved(filled())))
    assert reader.meta.created == "2026-01-02T03:04:05+00:00"
    assert [table for table, _ in reader.rows()][:6] == [*["nodes"] * 5, "services"]
