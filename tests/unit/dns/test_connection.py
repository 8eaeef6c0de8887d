"""A client on TCP: RFC 1035 §4.2.2, RFC 7766."""

import asyncio

import dns.message
import pytest

from isthmus.dns.connection import PENDING_MAX, Connection
from isthmus.dns.request import REQUEST_SIZE_MAX

QUERY = dns.message.make_query("web.service.consul", "A", id=7).to_wire()


class Server:
    """Keeps requests until the test answers them."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.gone = False
        self.silent = False

    def submit(self, data: bytes, client: str, connection: Connection) -> bool:
        assert client == "192.0.2.7"
        self.requests.append(data)
        return not self.silent

    def closed(self, connection: Connection) -> None:
        self.gone = True


class Transport(asyncio.Transport):
    """Remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.closed = self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def make() -> tuple[Connection, Server, Transport]:
    server, transport = Server(), Transport()
    connection = Connection(server, "192.0.2.7")
    connection.connection_made(transport)
    return connection, server, transport


async def test_requests_may_come_in_any_pieces() -> None:
    data = framed(QUERY) + framed(QUERY[:2] + b"x" * 30)
    for step in (1, 2, 3, 17, len(data)):
        connection, server, _ = make()
        for at in range(0, len(data), step):
            connection.data_received(data[at : at + step])
        assert server.requests == [QUERY, QUERY[:2] + b"x" * 30]


async def test_answers_go_out_with_their_size() -> None:
    connection, _, transport = make()
    connection.data_received(framed(QUERY))
    assert not connection.is_idle
    connection.answer(b"answer")
    assert transport.written == b"\0\6answer"
    assert connection.is_idle


@pytest.mark.parametrize("size", [0, 1, 11, REQUEST_SIZE_MAX + 1, 65535])
async def test_sizes_of_no_request_end_the_connection(size: int) -> None:
    connection, server, transport = make()
    connection.data_received(size.to_bytes(2, "big") + bytes(5))
    assert transport.aborted
    assert server.requests == []


async def test_only_so_many_requests_are_taken_at_a_time() -> None:
    connection, server, transport = make()
    connection.data_received(framed(QUERY) * (PENDING_MAX + 2))
    assert len(server.requests) == PENDING_MAX
    assert not transport.reading
    connection.answer(b"one")
    assert len(server.requests) == PENDING_MAX + 1
    for _ in range(2):
        connection.answer(b"one")
    assert len(server.requests) == PENDING_MAX + 2
    assert transport.reading


async def test_who_reads_no_answers_may_not_ask() -> None:
    connection, server, transport = make()
    connection.pause_writing()
    assert not transport.reading
    connection.data_received(framed(QUERY))
    assert server.requests == []
    connection.resume_writing()
    assert server.requests == [QUERY]
    assert transport.reading


async def test_answers_still_go_out_when_no_more_is_sent() -> None:
    connection, _, transport = make()
    connection.data_received(framed(QUERY))
    assert connection.eof_received()
    connection.answer(b"answer")
    assert transport.written == b"\0\6answer"
    assert transport.closed
    connection, _, _ = make()
    assert not connection.eof_received()


async def test_request_that_gets_no_answer_is_not_waited_for() -> None:
    connection, server, _ = make()
    server.silent = True
    connection.data_received(framed(QUERY))
    assert connection.is_idle


async def test_connection_that_has_ended_takes_no_answers() -> None:
    connection, server, transport = make()
    connection.data_received(framed(QUERY))
    connection.connection_lost(None)
    assert server.gone
    connection.answer(b"late")
    assert transport.written == b""


async def test_only_whole_requests_count_as_a_sign_of_life() -> None:
    connection, _, _ = make()
    before = connection.heard_at = connection.heard_at - 100
    connection.data_received(framed(QUERY)[:9])
    assert connection.heard_at == before
    connection.data_received(framed(QUERY)[9:])
    assert connection.heard_at > before
