"""Channels: against captured messages, cut anywhere, pipelined, and broken."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket, ProtocolError
from isthmus.rpc.calls import (
    CallMalformed,
    CallReceived,
    ClientChannel,
    Reply,
    ServerChannel,
)
from isthmus.wire.msgpack import pack
from isthmus.wire.netrpc import RequestHeader, ResponseHeader, encode_request, encode_response

VECTORS = Path(__file__).parents[2] / "vectors" / "rpc"
PING = RequestHeader(2, "Status.Ping")
PING_CALL = CallReceived(PING, {})


def vector(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def message(name: str) -> bytes:
    return bytes.fromhex(vector(name)["hex"])


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=20)


# The answering side ----------------------------------------------------------------------------


def test_a_captured_call_is_answered_as_captured() -> None:
    channel = ServerChannel()
    channel.receive_data(message("status-leader-request"))
    header, body = vector("status-leader-request")["decoded"]
    call = CallReceived(RequestHeader(header["Seq"], header["ServiceMethod"]), body)
    assert channel.take_events() == [call]
    assert channel.answer(pack("127.0.0.1:20000")) == message("status-leader-response")


def test_errors_are_answered_as_captured() -> None:
    channel = ServerChannel()
    channel.receive_data(encode_request(RequestHeader(3, "KVS.Get"), b"\x80"))
    assert channel.refuse("No path to datacenter") == message("error-no-path")
    channel = ServerChannel()
    channel.receive_data(encode_request(RequestHeader(1, "Status.Nope"), b"\x80"))
    refused = channel.refuse("rpc: can't find method Status.Nope")
    assert refused == message("error-unknown-method")


@given(count=st.integers(1, 5), cuts=CUTS)
def test_calls_come_one_at_a_time_in_order_however_cut(count: int, cuts: list[int]) -> None:
    headers = [RequestHeader(number, f"Service.Method{number}") for number in range(count)]
    data = b"".join(encode_request(header, pack({"N": header.sequence})) for header in headers)
    channel, waiting = ServerChannel(), pieces(data, cuts)
    answered: list[RequestHeader] = []
    while len(answered) < count:
        events = channel.take_events()
        if not events:
            channel.receive_data(waiting.pop(0))
            continue
        (call,) = events
        assert isinstance(call, CallReceived)
        assert call.body == {"N": call.header.sequence}
        answered.append(call.header)
        channel.answer(b"\x80")
    assert answered == headers
    assert channel.take_consumed() + sum(map(len, waiting)) == len(data)


def test_what_follows_a_running_call_is_not_consumed() -> None:
    """So that the caller's window, not our memory, holds pipelined requests back."""
    request = message("status-ping-request")
    channel = ServerChannel()
    channel.receive_data(request)
    assert channel.take_consumed() == len(request)
    assert channel.take_events() == [PING_CALL]
    channel.receive_data(request)
    assert (channel.take_consumed(), channel.take_events()) == (0, [])
    channel.answer(b"\x80")
    assert (channel.take_consumed(), channel.take_events()) == (len(request), [PING_CALL])


def test_a_call_is_answered_after_the_callers_end() -> None:
    channel = ServerChannel()
    channel.receive_data(message("status-ping-request"))
    channel.receive_eof()
    assert not channel.is_finished
    assert channel.take_events() == [PING_CALL]
    assert channel.answer(b"\x80") == message("status-ping-response")
    assert channel.is_finished


def test_a_call_cut_off_by_the_callers_end_is_none() -> None:
    channel = ServerChannel()
    channel.receive_data(message("status-leader-request")[:-1])
    assert channel.incomplete_size == len(message("status-leader-request")) - 1
    channel.receive_eof()
    assert channel.take_events() == []
    assert channel.is_finished


def test_an_unreadable_argument_is_answered_and_ends_the_channel() -> None:
    channel = ServerChannel()
    channel.receive_data(encode_request(PING, b"\xc1") + message("status-ping-request"))
    (event,) = channel.take_events()
    assert isinstance(event, CallMalformed)
    header = ResponseHeader(f"codec.decoder: {event.error}", PING.sequence, PING.method)
    assert event.answer == encode_response(header, b"")
    assert channel.is_finished


@pytest.mark.parametrize("data", [b"\xc1", pack([1, 2]), pack({"Seq": "x"})])
def test_an_unreadable_header_ends_the_channel_without_answer(data: bytes) -> None:
    channel = ServerChannel()
    channel.receive_data(data)
    (event,) = channel.take_events()
    assert isinstance(event, CallMalformed)
    assert event.answer == b""
    assert channel.is_finished
    channel.receive_data(message("status-ping-request"))
    assert channel.take_events() == []


def test_a_request_above_the_limit_is_refused() -> None:
    channel = ServerChannel(size_max=1000)
    start = encode_request(PING, b"\xdb\x7f\xff\xff\xff")
    channel.receive_data(start)
    channel.receive_data(bytes(900))
    assert channel.take_events() == []
    channel.receive_data(bytes(200))
    (event,) = channel.take_events()
    assert isinstance(event, CallMalformed)
    assert "larger than 1000" in str(event.error)


@given(data=st.binary(max_size=200), header=st.booleans())
def test_any_bytes_are_calls_or_end_the_channel(data: bytes, header: bool) -> None:
    channel = ServerChannel()
    channel.receive_data((pack({"Seq": 1, "ServiceMethod": "A.B"}) if header else b"") + data)
    while events := channel.take_events():
        (event,) = events
        if isinstance(event, CallReceived):
            channel.answer(b"\x80")
    channel.receive_eof()
    assert channel.is_finished


# The calling side ------------------------------------------------------------------------------


def test_a_captured_answer_is_understood() -> None:
    channel = ClientChannel()
    header, _ = vector("status-leader-request")["decoded"]
    asked = RequestHeader(header["Seq"], header["ServiceMethod"])
    channel.ask(asked, b"\x80")
    reply = channel.receive_data(message("status-leader-response"))
    assert reply == Reply("", pack("127.0.0.1:20000"))
    assert channel.is_idle


def test_a_captured_error_is_understood() -> None:
    channel = ClientChannel()
    channel.ask(RequestHeader(3, "KVS.Get"), b"\x80")
    assert channel.receive_data(message("error-no-path")) == Reply("No path to datacenter", b"\x80")


@given(body=st.dictionaries(st.text(), st.integers(0, 2**64 - 1)), cuts=CUTS)
def test_an_answer_is_complete_with_its_last_byte(body: dict[str, int], cuts: list[int]) -> None:
    channel = ClientChannel()
    for number in (1, 2):
        channel.ask(RequestHeader(number, "A.B"), b"\x80")
        data = encode_response(ResponseHeader("", number, "A.B"), pack(body))
        replies = [channel.receive_data(piece) for piece in pieces(data, cuts)]
        assert replies == [None] * (len(replies) - 1) + [Reply("", pack(body))]


def test_a_nil_reply_is_a_reply() -> None:
    channel = ClientChannel()
    channel.ask(PING, b"\x80")
    data = encode_response(ResponseHeader("", 2, "Status.Ping"), b"\xc0")
    assert channel.receive_data(data) == Reply("", b"\xc0")


@pytest.mark.parametrize(
    "data",
    [
        encode_response(ResponseHeader("", 9, "Status.Ping"), b"\x80"),
        message("status-ping-response") + b"\x80",
        b"\xc1",
        pack([]),
    ],
    ids=["another number", "more than an answer", "no MessagePack", "no header"],
)
def test_what_answers_no_call_is_refused(data: bytes) -> None:
    channel = ClientChannel()
    channel.ask(PING, b"\x80")
    with pytest.raises(ProtocolError):
        channel.receive_data(data)


def test_bytes_without_a_call_are_refused() -> None:
    with pytest.raises(ProtocolError):
        ClientChannel().receive_data(b"\x80")


def test_an_answer_above_the_limit_is_refused() -> None:
    channel = ClientChannel(size_max=1000)
    channel.ask(PING, b"\x80")
    start = encode_response(ResponseHeader("", 2, "Status.Ping"), b"\xdb\x7f\xff\xff\xff")
    assert channel.receive_data(start) is None
    with pytest.raises(MalformedPacket, match="larger than 1000"):
        channel.receive_data(bytes(1000))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    channel = ClientChannel()
    channel.ask(PING, b"\x80")
    try:
        reply = channel.receive_data(data)
    except ProtocolError:
        return
    assert reply is None or isinstance(reply, Reply)
