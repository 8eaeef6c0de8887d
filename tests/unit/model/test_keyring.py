"""What pools answer about their keys, as Consul's clients read it."""

import base64

import pytest

from isthmus.model.keyring import KeyringRequest, KeyringResponse, KeyringResponses, decode_key
from isthmus.model.record import fields_of
from isthmus.wire import gojson, msgpack


def test_answer_is_shown_as_consul_shows_it() -> None:
    answer = KeyringResponse(
        wan=True, datacenter="dc1", keys={"aGk=": 2}, primary_keys={"aGk=": 1}, num_nodes=2
    )
    assert gojson.encode(answer) == (
        b'{"WAN":true,"Datacenter":"dc1","Segment":"","Keys":{"aGk=":2},'
        b'"PrimaryKeys":{"aGk=":1},"NumNodes":2}'
    )


def test_failure_adds_what_members_said() -> None:
    answer = KeyringResponse(datacenter="dc2", messages={"a": "no"}, error="1/1 failed")
    assert answer.pool == "dc2 (LAN)"
    assert gojson.encode(answer) == (
        b'{"WAN":false,"Datacenter":"dc2","Segment":"","Messages":{"a":"no"},"Keys":null,'
        b'"PrimaryKeys":null,"NumNodes":0,"Error":"1/1 failed"}'
    )


def test_fields_on_the_wire_are_those_of_consul() -> None:
    assert {field.wire for field in fields_of(KeyringRequest)} >= {
        "Datacenter", "Forwarded", "Key", "LocalOnly", "Operation", "RelayFactor", "Token",
    }  # fmt: skip
    assert {field.wire for field in fields_of(KeyringResponse)} == {
        "Datacenter", "Error", "Keys", "Messages", "NumNodes", "PrimaryKeys", "Segment", "WAN",
    }  # fmt: skip
    answer = KeyringResponses(responses=(KeyringResponse(wan=True, keys={"k": 1}),), index=3)
    assert msgpack.decode(KeyringResponses, msgpack.encode(answer)) == answer


@pytest.mark.parametrize("size", [16, 24, 32])
def test_key_is_read_from_its_base64(size: int) -> None:
    key = bytes(range(size))
    assert decode_key(base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it has 0 bytes, not 16, 24 or 32"),
        ("aGk=", "it has 2 bytes"),
        ("a", "illegal base64 data"),
        ("é", "illegal base64 data"),
        ("AAAAAAAAAAAAAAAAAAAAAA== ", "illegal base64 data"),
    ],
)
def test_what_is_no_key(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        decode_key(text)
