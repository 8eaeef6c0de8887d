import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.http.connection import (
    HEAD_SIZE_MAX,
    LINGER_TIME,
    PIPELINE_MAX,
    Connection,
    encode_response,
    http_date,
)
from isthmus.http.connections import Connections
from isthmus.http.response import Response
from isthmus.http.routing import BODY_SIZE_MAX
from isthmus.net.tasks import TaskScope
from support.http import FakeLocal, FakeRpc, FakeTransport, make_client
from support.virtual_loop import run_virtual

LEADER = b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n"


class Play:
    """A connection with a fake transport and a fake rpc."""

    def __init__(self, *, per_client_max: int = 8, others: int = 0) -> None:
        self.rpc = FakeRpc(Status_Leader="L", KVS_Apply=True)
        self.tasks = TaskScope()
        table = Connections(per_client_max=per_client_max, clock=lambda: "D", tasks=self.tasks)
        self.local = FakeLocal()
        door = make_client(self.rpc, self.local).door
        for _ in range(others):
            Connection(door, table, "10.0.0.1").connection_made(FakeTransport())
        self.transport = FakeTransport()
        self.connection = Connection(door, table, "10.0.0.1")
        self.connection.connection_made(self.transport)

    async def send(self, data: bytes) -> bytes:
        """Feed bytes, let tasks run, return what was written since the last time."""
        if data:
            self.connection.data_received(data)
        for _ in range(10 + 5 * PIPELINE_MAX):
            await asyncio.sleep(0)
        written = bytes(self.transport.written)
        self.transport.written.clear()
        return written


async def test_headers_are_spelled_as_consul_spells_them() -> None:
    assert await Play().send(LEADER) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nVary: Accept-Encoding\r\n"
        b"X-Consul-Default-Acl-Policy: allow\r\nDate: D\r\nContent-Length: 3\r\n\r\n"
        b'"L"'
    )


@pytest.mark.parametrize("size", [1, 7, len(LEADER)])
async def test_request_may_arrive_in_pieces(size: int) -> None:
    play, answer = Play(), b""
    for start in range(0, len(LEADER), size):
        assert answer == b""
        answer = await play.send(LEADER[start : start + size])
    assert answer.endswith(b'"L"')


async def test_connection_stays_for_the_next_request() -> None:
    play = Play()
    for _ in range(3):
        assert (await play.send(LEADER)).endswith(b'"L"')
    assert not play.transport.closed


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"]
)
async def test_connection_ends_when_the_client_wants_it(head: bytes) -> None:
    play = Play()
    assert b"Connection: close\r\n" in await play.send(head)
    assert play.transport.closed


async def test_pipelined_requests_are_answered_in_order() -> None:
    play = Play()
    options = b"OPTIONS /v1/kv/a HTTP/1.1\r\n\r\n"
    written = await play.send(LEADER + options + LEADER)
    assert [part[:3] for part in written.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 3
    assert written.index(b'"L"') < written.index(b"Allow") < written.rindex(b'"L"')


async def test_reading_pauses_while_many_requests_wait() -> None:
    play = Play()
    play.rpc.block = True
    await play.send(LEADER * (PIPELINE_MAX + 1))
    assert play.transport.paused
    play.rpc.block = False
    play.connection.connection_lost(None)
    await play.tasks.close()


async def test_reading_goes_on_when_they_are_answered() -> None:
    play = Play()
    written = await play.send(LEADER * (2 * PIPELINE_MAX))
    assert written.count(b"200 OK") == 2 * PIPELINE_MAX
    assert not play.transport.paused


async def test_client_that_does_not_read_gets_no_further_answers() -> None:
    play = Play()
    play.connection.pause_writing()
    assert await play.send(LEADER) == b""
    play.connection.resume_writing()
    assert (await play.send(b"")).endswith(b'"L"')


async def test_lost_connection_cancels_the_call() -> None:
    play = Play()
    play.rpc.block = True
    await play.send(LEADER)
    assert play.rpc.blocked.is_set()
    play.connection.connection_lost(None)
    await play.send(b"")
    assert play.rpc.cancelled.is_set()
    assert len(play.tasks) == 0


async def test_end_of_sending_lets_a_short_request_end() -> None:
    play = Play()
    play.connection.data_received(LEADER)
    assert play.connection.eof_received()
    assert (await play.send(b"")).endswith(b'Connection: close\r\n\r\n"L"')
    assert play.transport.closed


async def test_end_of_sending_without_a_request_closes() -> None:
    assert not Play().connection.eof_received()


async def test_body_reaches_the_call_whole() -> None:
    play = Play()
    await play.send(b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 3\r\n\r\nab")
    assert play.rpc.calls == []
    await play.send(b"c")
    assert play.rpc.last.dir_ent.value == b"abc"
    await play.send(
        b"PUT /v1/kv/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n"
    )
    assert play.rpc.last.dir_ent.value == b"def"


async def test_client_that_asks_first_is_told_to_go_on() -> None:
    head = b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    assert await Play().send(head) == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
async def test_large_body_is_refused_before_it_is_read(expect: bytes) -> None:
    play = Play()
    answer = await play.send(
        b"PUT /v1/kv/a HTTP/1.1\r\n" + expect + b"Content-Length: 524289\r\n\r\n" + bytes(1000)
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close\r\n" in answer
    assert b"Request body(524289 bytes) too large, max size: 524288 bytes" in answer
    assert play.transport.ended
    assert play.rpc.calls == []


async def test_body_of_the_largest_size_is_taken() -> None:
    play = Play()
    head = b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 524288\r\n\r\n"
    assert (await play.send(head + bytes(524288))).endswith(b"true")


async def test_large_chunked_body_is_refused_when_it_has_become_too_large() -> None:
    play = Play()
    head = b"PUT /v1/agent/check/register HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    play.connection.data_received(head)
    for _ in range(BODY_SIZE_MAX // 0x10000 + 1):
        play.connection.data_received(chunk)
    answer = await play.send(b"")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert play.transport.ended


async def test_client_may_send_the_rest_of_a_large_body_before_it_reads_why() -> None:
    play = Play()
    answer = await play.send(b"PUT /v1/txn HTTP/1.1\r\nContent-Length: 600000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert await play.send(bytes(600000) + LEADER) == b""
    assert not play.transport.closed
    assert not play.connection.eof_received()  # Then the transport closes.


def test_client_that_sends_a_large_body_for_ever_is_dropped() -> None:
    async def run() -> bool:
        play = Play()
        await play.send(b"PUT /v1/txn HTTP/1.1\r\nContent-Length: 600000\r\n\r\n")
        assert not play.transport.closed
        await asyncio.sleep(LINGER_TIME)
        return play.transport.aborted

    assert run_virtual(run())


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n"]
)
async def test_what_is_not_http_is_refused(data: bytes) -> None:
    play = Play()
    assert (await play.send(data)).startswith(b"HTTP/1.1 400 ")
    assert play.transport.closed


async def test_nonsense_behind_a_running_request_ends_both() -> None:
    play = Play()
    play.rpc.block = True
    await play.send(LEADER)
    await play.send(b"nonsense\r\n\r\n")
    assert play.transport.aborted
    play.connection.connection_lost(None)
    await play.tasks.close()


async def test_body_sent_where_nothing_is_ends_the_connection_unread() -> None:
    play = Play()
    answer = await play.send(b"PUT /v1/nope HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert play.transport.ended
    play = Play()
    answer = await play.send(b"PUT /v1/%zz HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_head_is_bounded() -> None:
    play = Play()
    await play.send(b"GET / HTTP/1.1\r\n")
    line = b"X: " + b"x" * 65000 + b"\r\n"
    answers = [await play.send(line) for _ in range(HEAD_SIZE_MAX // len(line) + 1)]
    assert answers[-1].startswith(b"HTTP/1.1 431 ")
    assert play.transport.closed


async def test_upgrade_is_ignored_and_the_connection_ends() -> None:
    play = Play()
    head = LEADER.replace(b"Host: x", b"Connection: Upgrade\r\nUpgrade: h2c")
    answer = await play.send(head)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert play.transport.closed


async def test_client_with_too_many_connections_is_told_and_left() -> None:
    play = Play(per_client_max=2, others=2)
    written = bytes(play.transport.written)
    assert written.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert written.endswith(
        b"Your IP is issuing too many concurrent connections, please rate limit your calls\n"
    )
    assert play.transport.closed


async def test_request_that_does_not_arrive_is_given_up() -> None:
    play = Play()
    now = asyncio.get_running_loop().time()
    play.connection.expire(now + 1)
    assert not play.transport.closed  # Idle is allowed.
    await play.send(LEADER[:-1])
    play.connection.expire(now - 1)
    assert not play.transport.closed
    play.connection.expire(now + 1)
    assert play.transport.aborted


async def test_stop_closes_an_idle_connection_and_waits_for_a_busy_one() -> None:
    idle, busy = Play(), Play()
    assert idle.connection.stop() is None
    assert idle.transport.closed
    busy.connection.data_received(LEADER)
    task = busy.connection.stop()
    assert task is not None
    assert b"Connection: close" in await busy.send(b"")
    assert busy.transport.closed


def test_answer_to_head_tells_the_length_only() -> None:
    data = encode_response(Response(405, [], b"abc"), date="D", body=False)
    assert data == b"HTTP/1.1 405 Method Not Allowed\r\nDate: D\r\nContent-Length: 3\r\n\r\n"


def test_date_has_the_form_of_http() -> None:
    assert http_date().endswith(" GMT")
    assert len(http_date()) == 29
    assert http_date(0.0) == "Thu, 01 Jan 1970 00:00:00 GMT"


PUT = b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 5\r\n\r\nvalue"
CHUNKED = b"PUT /v1/kv/b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nval\r\n0\r\n\r\n"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([LEADER, PUT, CHUNKED]), min_size=1, max_size=4),
    st.lists(st.integers(1, 250), max_size=8),
)
def test_answers_do_not_depend_on_how_bytes_are_chopped(
    requests: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(requests)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})

    async def play() -> tuple[bytes, list[object]]:
        fresh = Play()
        for start, end in pairwise(edges):
            fresh.connection.data_received(stream[start:end])
        return await fresh.send(b""), [request for _, request in fresh.rpc.calls]

    async def expected() -> tuple[bytes, list[object]]:
        fresh = Play()
        written = b"".join([await fresh.send(request) for request in requests])
        return written, [request for _, request in fresh.rpc.calls]

    assert asyncio.run(play()) == asyncio.run(expected())


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([LEADER, PUT, PUT[:50]]), max_size=5))
def test_any_bytes_are_answered_or_end_the_connection(pieces: list[bytes]) -> None:
    async def play() -> None:
        fresh = Play()
        for piece in pieces:
            await fresh.send(piece)
        fresh.connection.connection_lost(None)
        await fresh.send(b"")
        assert len(fresh.tasks) == 0

    asyncio.run(play())


def watched(*lines: bytes, endless: bool = True) -> Play:
    """A connection to an agent whose log has these lines."""
    play = Play()
    play.local.log_lines, play.local.log_is_endless = list(lines), endless
    return play


MONITOR = b"GET /v1/agent/monitor HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_body_of_unknown_length_comes_in_chunks_as_it_is_made() -> None:
    play = watched(b"one\n", b"two and three\n")
    head, _, body = (await play.send(MONITOR)).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Length" not in head
    assert body == b"4\r\none\n\r\ne\r\ntwo and three\n\r\n"
    assert not play.transport.closed


async def test_connection_goes_on_after_the_last_chunk() -> None:
    play = watched(b"one\n", endless=False)
    assert (await play.send(MONITOR)).endswith(b"4\r\none\n\r\n0\r\n\r\n")
    assert (await play.send(LEADER)).endswith(b'"L"')


async def test_old_client_gets_such_a_body_up_to_the_end_of_the_connection() -> None:
    play = watched(b"one\n", endless=False)
    head, _, body = (await play.send(MONITOR.replace(b"HTTP/1.1", b"HTTP/1.0"))).partition(
        b"\r\n\r\n"
    )
    assert b"Connection: close" in head
    assert b"Transfer-Encoding" not in head
    assert body == b"one\n"
    assert play.transport.closed


async def test_endless_body_ends_when_the_client_goes_away() -> None:
    play = watched(b"one\n")
    await play.send(MONITOR)
    assert play.local.told == [("watch_log", "INFO", False)]
    play.connection.connection_lost(None)
    await play.send(b"")
    assert play.local.told[-1] == ("log closed",)
