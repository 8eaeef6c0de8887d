"""A session on a connection: events in order, backpressure, timers."""

import asyncio
from typing import Any

from isthmus.net.multiplex import MultiplexProtocol
from isthmus.rpc.yamux import (
    DataReceived,
    Output,
    Role,
    SessionClosed,
    SessionConfig,
    StreamOpened,
)
from isthmus.wire.yamux import Flag, FrameType, decode_header, encode_header


class FakeTransport(asyncio.Transport):
    """Takes what is written; a test says when it is full."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self.full_after: int | None = None
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: Any) -> None:
        assert not self.closed
        self.writes.append(bytes(data))
        if self.full_after is not None and sum(map(len, self.writes)) >= self.full_after:
            self.full_after = None
            assert self.protocol is not None
            self.protocol.pause_writing()

    def close(self) -> None:
        assert not self.closed
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Recorder(MultiplexProtocol):
    """Keeps the events; answers a stream's data on the same stream."""

    def __init__(self, config: SessionConfig | None = None) -> None:
        super().__init__(Role.ACCEPTOR, config or SessionConfig())
        self.events: list[Output] = []

    def on_event(self, event: Output) -> None:
        self.events.append(event)
        if isinstance(event, DataReceived):
            self.session.send(event.stream, event.data)
            self.flush()


def connect(config: SessionConfig | None = None) -> tuple[Recorder, FakeTransport]:
    protocol, transport = Recorder(config), FakeTransport()
    transport.protocol = protocol
    protocol.connection_made(transport)
    return protocol, transport


SYN_AND_DATA = encode_header(FrameType.DATA, Flag.SYN, 1, 2) + b"hi"


async def test_events_and_answers_of_one_read_go_out_together() -> None:
    protocol, transport = connect()
    protocol.data_received(SYN_AND_DATA)
    assert protocol.events[:2] == [StreamOpened(1), DataReceived(1, b"hi")]
    sent = b"".join(transport.writes)
    assert decode_header(sent).flags == Flag.ACK
    assert sent.endswith(b"hi")
    protocol.connection_lost(None)


async def test_what_one_turn_brings_goes_out_in_one_write() -> None:
    protocol, transport = connect()
    protocol.data_received(SYN_AND_DATA)
    transport.writes.clear()
    for _ in range(3):
        protocol.session.send(1, b"x")
        protocol.flush_soon()
    assert transport.writes == []
    await asyncio.sleep(0)
    assert len(transport.writes) == 1
    protocol.connection_lost(None)


async def test_a_full_transport_is_given_no_more_data() -> None:
    protocol, transport = connect()
    protocol.data_received(encode_header(FrameType.WINDOW_UPDATE, Flag.SYN, 1, 10_000_000))
    transport.full_after = 300_000
    protocol.session.send(1, bytes(2_000_000))
    protocol.flush()
    written = sum(map(len, transport.writes))
    assert 300_000 <= written < 700_000
    protocol.resume_writing()
    assert sum(map(len, transport.writes)) > 2_000_000
    protocol.connection_lost(None)


async def test_a_broken_session_closes_its_connection_once() -> None:
    protocol, transport = connect()
    protocol.data_received(b"\xff" * 12)
    assert transport.closed
    assert isinstance(protocol.events[-1], SessionClosed)
    protocol.data_received(SYN_AND_DATA)
    protocol.connection_lost(None)
    assert sum(isinstance(event, SessionClosed) for event in protocol.events) == 1


async def test_the_error_of_a_lost_connection_is_kept() -> None:
    protocol, _ = connect()
    error = ConnectionResetError("reset")
    protocol.connection_lost(error)
    assert protocol.events == [SessionClosed(None)]
    assert protocol.lost_error is error


async def test_silent_peers_are_pinged_then_given_up() -> None:
    protocol, transport = connect(SessionConfig(keepalive_interval=0.02, keepalive_timeout=0.02))
    closed = asyncio.get_running_loop().create_future()
    protocol.events = _Watching(closed)
    async with asyncio.timeout(10):
        await closed
    assert decode_header(transport.writes[0])[:2] == (FrameType.PING, Flag.SYN)
    assert transport.closed


class _Watching(list[Output]):
    """Events that tell when the session is closed."""

    def __init__(self, closed: "asyncio.Future[None]") -> None:
        super().__init__()
        self._closed = closed

    def append(self, event: Output) -> None:
        super().append(event)
        if isinstance(event, SessionClosed):
            self._closed.set_result(None)
