import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.http.connection import Connection
from isthmus.http.connections import Connections
from isthmus.http.context import Context
from isthmus.http.door import Door
from isthmus.http.repeats import ANSWER_SIZE_MAX, ANSWERS_MAX, SIZE_MAX, NoTables, Repeats
from isthmus.model.timing import Timing
from isthmus.net.tasks import TaskScope
from support.http import FakeLocal, FakeTransport
from support.servers import make_server


class FakeTables:
    """Tables whose version a test sets."""

    def __init__(self) -> None:
        self.number: int | None = 1
        self.repeated: list[str] = []

    def version(self) -> int | None:
        return self.number

    def note_repeat(self, method: str) -> None:
        self.repeated.append(method)


TIMING = Timing()


def keep(repeats: Repeats, request: bytes, answer: bytes, *, date: str = "D") -> None:
    repeats.keep(
        request,
        answer,
        method="KVS.Get",
        version=repeats.version(),
        date=date,
        timing=TIMING,
    )


def test_answer_is_given_again_and_counted() -> None:
    tables = FakeTables()
    repeats = Repeats(tables)
    keep(repeats, b"ask", b"answer")
    assert repeats.get(b"ask", "D") == b"answer"
    assert repeats.get(b"other", "D") is None
    assert tables.repeated == ["KVS.Get"]


def test_answer_given_again_is_among_the_requests_of_its_kind() -> None:
    repeats, timing = Repeats(FakeTables()), Timing()
    repeats.keep(b"ask", b"a", method="KVS.Get", version=repeats.version(), date="D", timing=timing)
    for _ in range(3):
        repeats.get(b"ask", "D")
    assert (timing.count, timing.total) == (3, 0.0)


def test_change_of_the_tables_makes_all_forgotten() -> None:
    tables = FakeTables()
    repeats = Repeats(tables)
    keep(repeats, b"ask", b"answer")
    keep(repeats, b"other", b"answer")
    tables.number = 2
    assert repeats.get(b"ask", "D") is None
    assert len(repeats) == 0


def test_nothing_is_given_again_while_the_server_is_not_sure() -> None:
    tables = FakeTables()
    repeats = Repeats(tables)
    keep(repeats, b"ask", b"answer")
    tables.number = None
    assert repeats.get(b"ask", "D") is None
    keep(repeats, b"ask", b"answer")
    assert len(repeats) == 0


def test_answers_do_not_outlive_their_date() -> None:
    repeats = Repeats(FakeTables())
    keep(repeats, b"ask", b"answer", date="D")
    assert repeats.get(b"ask", "E") is None
    keep(repeats, b"ask", b"later", date="E")
    assert repeats.get(b"ask", "E") == b"later"


def test_answer_during_which_the_tables_changed_is_not_kept() -> None:
    tables = FakeTables()
    repeats = Repeats(tables)
    before = repeats.version()
    tables.number = 2
    repeats.keep(b"ask", b"answer", method="KVS.Get", version=before, date="D", timing=TIMING)
    assert repeats.get(b"ask", "D") is None


def test_oldest_answers_go_first() -> None:
    repeats = Repeats(FakeTables())
    for number in range(ANSWERS_MAX + 1):
        keep(repeats, b"%d" % number, b"answer")
    assert len(repeats) == ANSWERS_MAX
    assert repeats.get(b"0", "D") is None
    assert repeats.get(b"1", "D") == b"answer"


def test_answers_take_no_more_memory_than_allowed() -> None:
    repeats = Repeats(FakeTables())
    keep(repeats, b"too large", b"x" * (ANSWER_SIZE_MAX + 1))
    assert len(repeats) == 0
    for number in range(20):
        keep(repeats, b"%d" % number, b"x" * ANSWER_SIZE_MAX)
    assert len(repeats) == SIZE_MAX // ANSWER_SIZE_MAX


def test_without_tables_nothing_is_kept() -> None:
    repeats = Repeats(NoTables())
    keep(repeats, b"ask", b"answer")
    assert len(repeats) == 0


# Behind a connection --------------------------------------------------------------------------


class Play:
    """A connection to the door of a server with data."""

    def __init__(self, rpc: Any, tables: Any) -> None:
        self.tasks = TaskScope()
        context = Context(rpc, FakeLocal(), kv_value_size_max=1024)
        self.door = Door(context, tables=tables)
        table = Connections(per_client_max=8, clock=lambda: "D", tasks=self.tasks)
        self.transport = FakeTransport()
        self.connection = Connection(self.door, table, "10.0.0.1")
        self.connection.connection_made(self.transport)

    async def send(self, data: bytes) -> bytes:
        """What is answered."""
        self.connection.data_received(data)
        for _ in range(2000):
            if self.transport.written.count(b"HTTP/1.1 ") >= data.count(b" HTTP/1.1\r\n"):
                break
            await asyncio.sleep(0)
        written = bytes(self.transport.written)
        self.transport.written.clear()
        return written


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


READS = (
    get("/v1/kv/a"),
    get("/v1/kv/a?raw"),
    get("/v1/kv/?recurse"),
    get("/v1/kv/?keys"),
    get("/v1/kv/a?dc=dc1"),
    get("/v1/kv/a?consistent"),
    get("/v1/kv/a?stale", "Accept-Encoding: gzip\r\n"),
    get("/v1/catalog/nodes"),
    get("/v1/catalog/services"),
    get("/v1/catalog/service/web"),
    get("/v1/catalog/node/n1"),
    get("/v1/health/service/web?passing"),
    get("/v1/health/service/web?passing=zz"),
    get("/v1/health/service/web?tag=v1"),
    get("/v1/health/state/any"),
    get("/v1/health/node/n1?pretty"),
    get("/v1/status/leader"),
)


def put(path: str, body: str) -> bytes:
    return (f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


def registration(node: int, status: str) -> bytes:
    return put(
        "/v1/catalog/register",
        f'{{"Node":"n{node}","Address":"10.0.0.{node}",'
        f'"Service":{{"Service":"web","Tags":["v{node}"]}},'
        f'"Check":{{"CheckID":"c","Status":"{status}","ServiceID":"web"}}}}',
    )


WRITES = (
    put("/v1/kv/a", "1"),
    put("/v1/kv/a", "2"),
    put("/v1/kv/b", "1"),
    b"DELETE /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n",
    registration(1, "passing"),
    registration(1, "critical"),
    registration(2, "passing"),
    put("/v1/catalog/deregister", '{"Node":"n1"}'),
)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(READS * 3 + WRITES), max_size=60))
async def test_no_client_can_tell_that_an_answer_is_given_again(requests: list[bytes]) -> None:
    server = make_server()
    await server.start()
    repeating, plain = Play(server.call, server), Play(server.call, None)
    try:
        for request in requests:
            answer = await repeating.send(request)
            assert answer
            if request.startswith(b"GET "):
                assert answer == await plain.send(request)
        assert len(plain.door.repeats) == 0
    finally:
        await server.stop()


async def test_second_of_two_equal_requests_makes_no_call() -> None:
    server = make_server()
    await server.start()
    play = Play(server.call, server)
    await play.send(put("/v1/kv/a", "1"))
    calls: list[str] = []

    async def counted(method: str, request: Any) -> object:
        calls.append(method)
        return await server.call(method, request)

    play = Play(counted, server)
    first = await play.send(READS[0])
    assert await play.send(READS[0]) == first
    assert calls == ["KVS.Get"]
    assert server.call_counts["KVS.Get"] == 2
    await server.stop()


async def test_requests_in_pieces_or_together_are_not_taken_for_one() -> None:
    server = make_server()
    await server.start()
    play = Play(server.call, server)
    await play.send(put("/v1/kv/a", "1"))
    request = READS[0]
    play.connection.data_received(request[:5])
    await play.send(request[5:])
    assert len(play.door.repeats) == 0
    both = await play.send(request + request)
    assert both.count(b"200 OK") == 2
    assert len(play.door.repeats) == 0
    once = await play.send(request)
    assert both == once + once
    assert len(play.door.repeats) == 1
    await server.stop()


async def test_client_that_ends_the_connection_is_never_repeated_to() -> None:
    server = make_server()
    await server.start()
    play = Play(server.call, server)
    await play.send(put("/v1/kv/a", "1"))
    await play.send(get("/v1/kv/a", "Connection: close\r\n"))
    assert play.transport.closed
    assert len(play.door.repeats) == 0
    await server.stop()


async def test_nothing_is_kept_while_each_request_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = make_server()
    await server.start()
    play = Play(server.call, server)
    await play.send(put("/v1/kv/a", "1"))
    with caplog.at_level(logging.DEBUG, "isthmus.http.door"):
        await play.send(READS[0])
    assert len(play.door.repeats) == 0
    await play.send(READS[0])
    assert len(play.door.repeats) == 1
    await server.stop()
