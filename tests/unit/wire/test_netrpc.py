"""RPC headers against captured messages, both ways."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.wire.msgpack import Unpacker, pack
from isthmus.wire.netrpc import (
    EMPTY_BODY,
    RequestHeader,
    ResponseHeader,
    encode_request,
    encode_response,
    request_header,
    response_header,
)

_VECTORS = Path(__file__).parents[2] / "vectors" / "rpc"
MESSAGES: list[dict[str, Any]] = [
    json.loads(path.read_text())
    for kind in ("status-*", "error-*")
    for path in sorted(_VECTORS.glob(f"{kind}.json"))
]
REQUESTS = [message for message in MESSAGES if message["name"].endswith("request")]
RESPONSES = [message for message in MESSAGES if message not in REQUESTS]
SEQUENCES = st.integers(0, 2**64 - 1)


def unpacked(data: bytes) -> list[object]:
    unpacker = Unpacker()
    unpacker.feed(data)
    return list(unpacker)


def test_there_are_captured_messages() -> None:
    assert (len(REQUESTS), len(RESPONSES)) == (2, 4)


@pytest.mark.parametrize("vector", REQUESTS, ids=lambda vector: vector["name"])
def test_requests_of_consul_both_ways(vector: dict[str, Any]) -> None:
    header, body = vector["decoded"]
    first, second = unpacked(bytes.fromhex(vector["hex"]))
    assert request_header(first) == RequestHeader(header["Seq"], header["ServiceMethod"])
    assert second == body
    assert encode_request(request_header(first), pack(body)).hex() == vector["hex"]


@pytest.mark.parametrize("vector", RESPONSES, ids=lambda vector: vector["name"])
def test_responses_of_consul_both_ways(vector: dict[str, Any]) -> None:
    header, body = vector["decoded"]
    first, second = unpacked(bytes.fromhex(vector["hex"]))
    expected = ResponseHeader(header["Error"], header["Seq"], header["ServiceMethod"])
    assert response_header(first) == expected
    assert second == body
    assert encode_response(expected, pack(body)).hex() == vector["hex"]


@given(sequence=SEQUENCES, method=st.text())
def test_requests_survive_the_round_trip(sequence: int, method: str) -> None:
    header = RequestHeader(sequence, method)
    first, second = unpacked(encode_request(header, EMPTY_BODY))
    assert (request_header(first), second) == (header, {})


@given(error=st.text(min_size=1), sequence=SEQUENCES, method=st.text())
def test_an_error_is_answered_with_an_empty_body(error: str, sequence: int, method: str) -> None:
    header = ResponseHeader(error, sequence, method)
    first, second = unpacked(encode_response(header, b"\x01"))
    assert (response_header(first), second) == (header, {})


def test_missing_fields_are_zero_and_others_ignored() -> None:
    assert request_header({"Extra": 1}) == RequestHeader(0, "")
    assert response_header({"Seq": None, "Extra": 1}) == ResponseHeader("", 0, "")


@pytest.mark.parametrize(
    "value",
    [None, 1, [], "x", {"Seq": -1}, {"Seq": 2**64}, {"Seq": "1"}, {"Seq": True}, {"Seq": 1.0},
     {"ServiceMethod": 1}],
)  # fmt: skip
def test_headers_of_another_shape_are_refused(value: object) -> None:
    with pytest.raises(MalformedPacket):
        request_header(value)
    with pytest.raises(MalformedPacket):
        response_header(value)


def test_an_error_that_is_no_text_is_refused() -> None:
    with pytest.raises(MalformedPacket):
        response_header({"Error": 1})
