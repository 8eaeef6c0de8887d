"""Consul's snapshots: header, then type byte and value of each row."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.federation import FederationStateRequest
from isthmus.model.kv import DirEntry
from isthmus.wire.archive import UnreadableSnapshot
from isthmus.wire.consul_snapshot import FEDERATION_STATE, KVS, ConsulSnapshotReader
from isthmus.wire.msgpack import encode, from_plain, pack
from support.consul_snapshot import archive_of, state_of

VECTOR = Path(__file__).parents[2] / "vectors/snapshot/federation_state_records.json"


def read(data: bytes) -> list[tuple[int, object]]:
    return [(row.type, row.value) for row in ConsulSnapshotReader(io.BytesIO(data)).rows()]


def test_records_that_consul_wrote_are_read() -> None:
    """Bytes of Consul 1.10.11: the federation states of a secondary."""
    vector = json.loads(VECTOR.read_text())
    records = [bytes.fromhex(one["record_hex"]) for one in vector["federation_state_records"]]
    state = pack(vector["header"]) + b"".join(records)
    reader = ConsulSnapshotReader(io.BytesIO(archive_of(state)))
    rows = list(reader.rows())
    assert reader.last_index == vector["header"]["LastIndex"]
    assert [row.type for row in rows] == [FEDERATION_STATE] * len(records)
    assert [row.size for row in rows] == [len(record) for record in records]
    for row, one in zip(rows, vector["federation_state_records"], strict=True):
        request = from_plain(FederationStateRequest, row.value)
        assert request.op == "upsert"
        assert request.state.datacenter == one["decoded"]["State"]["Datacenter"]
        assert request.state.mesh_gateways
        assert bytes([row.type]) + encode(request) == bytes.fromhex(one["record_hex"])


def test_rows_of_any_type_are_told_apart() -> None:
    entry = DirEntry(key="k", value=b"\xff", flags=2**64 - 1)
    state = state_of([(KVS, entry), (99, {"Some": [1, {"thing": None}]}), (16, 7), (0, "")])
    reader = ConsulSnapshotReader(io.BytesIO(archive_of(state)))
    assert reader.meta["ID"] == "2-18-1637"
    rows = list(reader.rows())
    assert [row.type for row in rows] == [KVS, 99, 16, 0]
    assert from_plain(DirEntry, rows[0].value) == entry
    assert sum(row.size for row in rows) == len(state) - len(pack({"LastIndex": 18}))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (archive_of(b""), "ends inside a row"),
        (archive_of(pack(7)), "has no header"),
        (archive_of(pack({"LastIndex": "x"})), "has no header"),
        (archive_of(state_of([]) + b"\x02"), "ends inside a row"),
        (archive_of(state_of([(2, b"\x81\xa1")])), "ends inside a row"),
        (archive_of(state_of([(2, {}), (0xC0, {})])), "something else than a type byte"),
        (archive_of(state_of([]) + b"\xa1x"), "something else than a type byte"),
        (archive_of(state_of([(2, b"\xc1")])), "cannot be read"),
        (archive_of(state_of([]), spoil=True), 'hash check failed for "state.bin"'),
        (archive_of(state_of([]))[:-20], "unexpected EOF"),
    ],
)
def test_damage_is_told(data: bytes, text: str) -> None:
    with pytest.raises(UnreadableSnapshot, match=text):
        read(data)


@given(state=st.binary(max_size=200), header=st.booleans())
def test_any_bytes_give_rows_or_an_error(state: bytes, header: bool) -> None:
    try:
        read(archive_of((state_of([]) if header else b"") + state))
    except UnreadableSnapshot:
        return
