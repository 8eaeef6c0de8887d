"""The client's side of gRPC on HTTP/2, byte by byte."""

import struct
from collections.abc import Iterator

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from isthmus.engine import http2
from isthmus.engine.http2 import WINDOW, Answered, Ended, Event, GrpcConnection
from isthmus.errors import ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PUSH, PING, AWAY, UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
OK_HEADERS = ((":status", "200"), ("content-type", "application/grpc"))


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, stream and payload of each."""
    while data:
        size = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", data[3:9])
        yield kind, flags, stream, data[9 : 9 + size]
        data = data[9 + size :]


def headers(*pairs: tuple[str, str], stream: int = 1, end: bool = False) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    return frame(HEADERS, encoder.encode(pairs), flags=0x04 | end, stream=stream)


def message(data: bytes) -> bytes:
    return b"\x00" + struct.pack(">I", len(data)) + data


def update(size: int, stream: int = 0) -> bytes:
    return frame(UPDATE, struct.pack(">I", size), stream=stream)


def answer(data: bytes, *, stream: int = 1) -> bytes:
    return (
        headers(*OK_HEADERS, stream=stream)
        + frame(DATA, message(data), stream=stream)
        + headers(("grpc-status", "0"), ("grpc-message", ""), stream=stream, end=True)
    )


def begun(*, window: int = 65_535) -> GrpcConnection:
    """A connection to a server that has told its settings."""
    core = GrpcConnection("server", secure=False)
    core.receive_data(frame(SETTINGS, struct.pack(">HI", 4, window)))
    core.take_output()
    return core


def test_connection_begins_with_our_settings() -> None:
    core = GrpcConnection("server", secure=False)
    output = core.take_output()
    assert output.startswith(PREFACE)
    settings, window = frames(output.removeprefix(PREFACE))
    assert settings[0] == SETTINGS
    pairs = dict(struct.iter_unpack(">HI", settings[3]))
    assert pairs == {1: 0, 2: 0, 4: WINDOW}
    assert window[0] == UPDATE
    before = core.is_ready
    core.receive_data(frame(SETTINGS))
    assert (before, core.is_ready) == (False, True)
    assert list(frames(core.take_output())) == [(SETTINGS, 1, 0, b"")]


@pytest.mark.parametrize("secure", [False, True])
def test_call_is_a_request_of_grpc(secure: bool) -> None:
    core = GrpcConnection("server:1", secure=secure)
    core.take_output()
    token = "t" * 300
    number = core.call("/pkg.Service/Do", b"hello", metadata=(("token", token),))
    head, body = frames(core.take_output())
    assert head[:3] == (HEADERS, 0x04, number)
    assert [(name, value) for name, value in Decoder().decode(head[3], raw=True)] == [
        (b":method", b"POST"),
        (b":scheme", b"https" if secure else b"http"),
        (b":path", b"/pkg.Service/Do"),
        (b":authority", b"server:1"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"token", token.encode()),
    ]
    assert body == (DATA, 0x01, number, message(b"hello"))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_answer_is_whole_however_it_is_cut(size: int) -> None:
    core = begun()
    number = core.call("/a/b", b"")
    data = answer(b"first", stream=number)
    events: list[Event] = []
    for start in range(0, len(data), size):
        events += core.receive_data(data[start : start + size])
    assert events == [Answered(number, b"first"), Ended(number, "OK", "")]
    assert core.is_idle


def test_refusal_has_its_status_and_text() -> None:
    core = begun()
    core.call("/a/b", b"")
    refusal = headers(*OK_HEADERS, ("grpc-status", "9"), ("grpc-message", "50%25 of it"), end=True)
    assert core.receive_data(refusal) == [Ended(1, "FAILED_PRECONDITION", "50% of it")]


def test_answer_of_something_else_is_no_success() -> None:
    core = begun()
    core.call("/a/b", b"")
    assert core.receive_data(headers((":status", "404"))) == [
        Ended(1, "UNKNOWN", "HTTP status 404")
    ]
    core.call("/a/b", b"")
    got = core.receive_data(headers(*OK_HEADERS, stream=3, end=True))
    assert got == [Ended(3, "UNKNOWN", "the answer has no status")]


def test_large_request_goes_out_as_the_windows_allow() -> None:
    core = begun()
    core.take_output()
    data = bytes(range(256)) * 800
    number = core.call("/a/b", data)
    sent, first = b"", list(frames(core.take_output()))[1:]
    assert all(len(payload) <= 16_384 for *_, payload in first)
    sent += b"".join(payload for *_, payload in first)
    assert len(sent) == 65_535
    assert core.receive_data(update(1_000_000, number)) == []
    assert core.take_output() == b""  # The connection has a window of its own.
    core.receive_data(update(100))
    (piece,) = frames(core.take_output())
    assert piece[:3] == (DATA, 0, number)
    sent += piece[3]
    assert len(sent) == 65_635
    core.receive_data(update(1_000_000))
    rest = list(frames(core.take_output()))
    assert [flags for _, flags, _, _ in rest] == [0] * (len(rest) - 1) + [1]
    assert sent + b"".join(payload for *_, payload in rest) == message(data)


def test_window_that_the_server_changes_holds_for_open_calls_too() -> None:
    core = begun(window=10)
    core.call("/a/b", bytes(20))
    assert (
        sum(len(payload) for kind, _, _, payload in frames(core.take_output()) if kind == DATA)
        == 10
    )
    core.receive_data(frame(SETTINGS, struct.pack(">HI", 4, 15)))
    assert [payload for kind, _, _, payload in frames(core.take_output()) if kind == DATA] == [
        bytes(5)
    ]


def test_messages_that_nobody_takes_hold_the_server_up() -> None:
    core = begun()
    number = core.call("/a/watch", b"", ends=False)
    core.receive_data(headers(*OK_HEADERS))
    core.take_output()
    piece = message(bytes(16_000))
    count = 0
    while len(piece) * count < WINDOW:
        (event,) = core.receive_data(frame(DATA, piece, stream=number))
        assert isinstance(event, Answered)
        count += 1
    assert {stream for kind, _, stream, _ in frames(core.take_output()) if kind == UPDATE} == {0}
    for _ in range(count):
        core.taken(number)
    (told,) = frames(core.take_output())
    assert told == (UPDATE, 0, number, struct.pack(">I", len(piece) * count))


def test_message_larger_than_the_window_comes_through() -> None:
    core = begun()
    number = core.call("/a/b", b"")
    core.receive_data(headers(*OK_HEADERS))
    core.receive_data(frame(DATA, b"\x00" + struct.pack(">I", 2 * WINDOW), stream=number))
    allowed = 0
    for _ in range(WINDOW // 16_384):
        core.receive_data(frame(DATA, bytes(16_384), stream=number))
        for kind, _, stream, payload in frames(core.take_output()):
            allowed += int.from_bytes(payload, "big") * (kind == UPDATE and stream == number)
    assert allowed >= WINDOW // 2


def test_server_is_answered_that_asks_for_a_sign_of_life() -> None:
    core = begun()
    core.receive_data(frame(PING, b"12345678") + frame(PING, b"12345678", flags=1))
    assert list(frames(core.take_output())) == [(PING, 1, 0, b"12345678")]


def test_padding_and_priorities_are_left_out() -> None:
    core = begun()
    core.call("/a/b", b"")
    (_, _, _, block) = next(frames(headers(*OK_HEADERS)))
    padded = b"\x03" + bytes(5) + block + bytes(3)
    core.receive_data(frame(HEADERS, padded, flags=0x04 | 0x08 | 0x20, stream=1))
    body = b"\x02" + message(b"x") + bytes(2)
    assert core.receive_data(frame(DATA, body, flags=0x08, stream=1)) == [Answered(1, b"x")]


def test_headers_in_several_frames_are_one_block() -> None:
    core = begun()
    core.call("/a/b", b"")
    (_, _, _, block) = next(frames(headers(*OK_HEADERS, ("grpc-status", "0"))))
    assert core.receive_data(frame(HEADERS, block[:3], flags=0x01, stream=1)) == []
    core.receive_data(frame(CONTINUATION, block[3:5], stream=1))
    last = frame(CONTINUATION, block[5:], flags=0x04, stream=1)
    assert core.receive_data(last) == [Ended(1, "OK", "")]


def test_calls_that_the_server_drops_are_unavailable() -> None:
    core = begun()
    for _ in range(3):
        core.call("/a/b", b"")
    (dropped,) = core.receive_data(frame(RESET, struct.pack(">I", 7), stream=1))
    assert dropped == Ended(1, "UNAVAILABLE", "the server ended the call: code 7")
    (away,) = core.receive_data(frame(AWAY, struct.pack(">II", 3, 0)))
    assert away == Ended(5, "UNAVAILABLE", "the server goes away")
    assert core.is_closing
    assert not core.is_idle
    assert core.receive_data(answer(b"", stream=3))[-1] == Ended(3, "OK", "")
    assert core.is_idle


def test_call_that_is_given_up_is_told_of_no_more() -> None:
    core = begun()
    number = core.call("/a/b", b"")
    core.take_output()
    core.cancel(number)
    core.cancel(number)
    assert list(frames(core.take_output())) == [(RESET, 0, number, struct.pack(">I", 8))]
    assert core.receive_data(answer(b"late", stream=number)) == []


def test_connection_ends_before_its_numbers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "STREAM_MAX", 4)
    core = begun()
    core.call("/a/b", b"")
    assert not core.is_closing
    core.call("/a/b", b"")
    assert core.is_closing


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, bytes(16_385)),
        frame(PUSH, bytes(8), flags=0x04, stream=1),
        frame(HEADERS, b"", stream=1) + frame(PING, bytes(8)),
        frame(CONTINUATION, b"", stream=1),
        frame(HEADERS, b"\xff\xff\xff\xff\xff\xff", flags=0x04, stream=1),
        frame(SETTINGS, b"123"),
        frame(SETTINGS, struct.pack(">HI", 4, 1 << 31)),
        frame(UPDATE, b"1", stream=1),
        frame(DATA, b"\x01" + bytes(4), stream=1),
        frame(DATA, b"\x00\xff\xff\xff\xff", stream=1),
    ],
)
def test_broken_protocol_is_said(data: bytes) -> None:
    core = begun()
    core.call("/a/b", b"")
    with pytest.raises(ProtocolError):
        core.receive_data(data)


@given(
    st.lists(
        st.builds(
            frame,
            st.integers(0, 12),
            st.binary(max_size=40),
            flags=st.integers(0, 255),
            stream=st.sampled_from([0, 1, 3, 5]),
        )
    )
)
def test_any_bytes_are_taken_or_refused(pieces: list[bytes]) -> None:
    core = begun()
    core.call("/a/b", b"x")
    core.call("/a/b", b"y", ends=False)
    ended: set[int] = set()
    try:
        for piece in pieces:
            for event in core.receive_data(piece):
                assert event.stream not in ended  # Nothing comes after the end.
                if isinstance(event, Ended):
                    ended.add(event.stream)
    except ProtocolError:
        pass
