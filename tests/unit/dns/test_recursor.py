"""Recursors, played by a server on the loopback that the library speaks for."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from isthmus.dns.recursor import RECURSIONS_MAX, Recursor
from isthmus.dns.request import Request, read_request
from isthmus.errors import Unavailable

Answerer = Callable[[dns.message.Message], dns.message.Message | None]


def answer(query: dns.message.Message) -> dns.message.Message:
    """A name, the name it leads to, and that one's address."""
    reply = dns.message.make_response(query)
    reply.answer = [
        dns.rrset.from_text("db.example.", 60, "IN", "CNAME", "host.example."),
        dns.rrset.from_text("host.example.", 60, "IN", "A", "192.0.2.1", "192.0.2.2"),
        dns.rrset.from_text("host.example.", 60, "IN", "TXT", "ignored"),
    ]
    return reply


def refuse(query: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.REFUSED)
    return reply


def ignore(query: dns.message.Message) -> None:
    return None


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._answerer(dns.message.from_wire(data))
        if reply is not None:
            self._transport.sendto(reply.to_wire(), addr)


@asynccontextmanager
async def serving(answerer: Answerer) -> AsyncIterator[tuple[str, int]]:
    """A recursor that answers so, by UDP and TCP."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
        reply = answerer(dns.message.from_wire(await reader.readexactly(size)))
        if reply is not None:
            data = reply.to_wire()
            writer.write(struct.pack(">H", len(data)) + data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Udp(answerer), (host, port)
    )
    try:
        yield host, port
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


def request(ident: int = 7) -> Request:
    found = read_request(dns.message.make_query("db.example", "A", id=ident).to_wire())
    assert isinstance(found, Request)
    return found


def make(*addresses: tuple[str, int], timeout: float = 10.0) -> Recursor:
    return Recursor(addresses, timeout=timeout, rng=Random(0))


@pytest.mark.parametrize("tcp", [False, True])
async def test_question_is_passed_on_and_its_answer_back(tcp: bool) -> None:
    async with serving(answer) as recursor:
        message = dns.message.from_wire(await make(recursor).forward(request(), tcp=tcp))
    assert message.id == 7
    assert dns.message.from_wire(request().data).is_response(message)
    assert message.flags & dns.flags.RD
    assert str(message.answer[0]) == "db.example. 60 IN CNAME host.example."


async def test_recursors_are_asked_one_after_the_other() -> None:
    asked: list[str] = []

    def first(query: dns.message.Message) -> dns.message.Message:
        asked.append("first")
        return refuse(query)

    async with serving(first) as one, serving(answer) as two:
        message = dns.message.from_wire(await make(one, two).forward(request(), tcp=False))
        assert message.rcode() == dns.rcode.NOERROR
        assert asked == ["first"]
        await make(two, one).forward(request(), tcp=False)
        assert asked == ["first"]


async def test_recursor_that_is_silent_is_passed_over() -> None:
    async with serving(ignore) as one, serving(answer) as two:
        recursor = make(one, two, timeout=0.5)
        message = dns.message.from_wire(await recursor.forward(request(), tcp=False))
    assert message.rcode() == dns.rcode.NOERROR


async def test_unknown_name_is_an_answer() -> None:
    def deny(query: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(query)
        reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply

    async with serving(deny) as one, serving(answer) as two:
        message = dns.message.from_wire(await make(one, two).forward(request(), tcp=False))
    assert message.rcode() == dns.rcode.NXDOMAIN


async def test_failure_of_all_is_told_with_the_last_reason() -> None:
    async with serving(refuse) as recursor:
        with pytest.raises(Unavailable, match=rf"{recursor[0]} port {recursor[1]}: REFUSED"):
            await make(recursor).forward(request(), tcp=False)
    with pytest.raises(Unavailable, match="no recursors"):
        await make().forward(request(), tcp=False)


async def test_answer_to_another_question_is_not_taken() -> None:
    def forge(query: dns.message.Message) -> dns.message.Message:
        reply = answer(query)
        reply.id ^= 1
        return reply

    async with serving(forge) as recursor:
        with pytest.raises(Unavailable, match="no answer in time"):
            await make(recursor, timeout=0.1).forward(request(), tcp=False)


async def test_host_name_has_the_addresses_that_it_leads_to() -> None:
    async with serving(answer) as recursor:
        found = await make(recursor).addresses_of("db.example")
        assert [(record.owner, record.type) for record in found] == [
            (b"\2db\7example\0", 5),
            (b"\4host\7example\0", 1),
            (b"\4host\7example\0", 1),
        ]
        assert found[0].target == b"\4host\7example\0"
        assert {record.body[-1] for record in found[1:]} == {1, 2}
    assert await make().addresses_of("db.example") == []
    assert await make().addresses_of("a..b") == []


async def test_host_name_that_is_not_found_has_none() -> None:
    async with serving(refuse) as recursor:
        assert await make(recursor).addresses_of("db.example") == []


async def test_only_so_many_questions_are_under_way() -> None:
    async with serving(ignore) as address:
        recursor = make(address)
        waiting = [
            asyncio.ensure_future(recursor.forward(request(), tcp=False))
            for _ in range(RECURSIONS_MAX)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="wait for recursors"):
            await recursor.forward(request(), tcp=False)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
