"""UDP sockets: what arrives, what is refused and by whom, what is lost."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from isthmus.net.datagrams import DATAGRAMS_PER_WAKE, DatagramSocket, open_datagrams
from isthmus.net.network import DatagramRefused

DEADLINE = 5.0
needs_v6 = pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")


class Log(asyncio.DatagramProtocol):
    """Notes what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.packets: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.lost = False
        self._changed = asyncio.Event()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.packets.append((data, addr))
        self._changed.set()

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._changed.set()

    async def until(self, *, packets: int = 0, errors: int = 0, lost: bool = False) -> None:
        async with asyncio.timeout(DEADLINE):
            while (
                len(self.packets) < packets or len(self.errors) < errors or (lost and not self.lost)
            ):
                self._changed.clear()
                await self._changed.wait()


class Sockets:
    """Opens sockets, and closes them all."""

    def __init__(self) -> None:
        self._open: list[asyncio.DatagramTransport] = []

    async def open(self, host: str = "127.0.0.1") -> tuple[asyncio.DatagramTransport, Log, Any]:
        log = Log()
        transport = await open_datagrams(lambda: log, host, 0)
        self._open.append(transport)
        return transport, log, transport.get_extra_info("sockname")

    def close(self) -> None:
        for transport in self._open:
            transport.close()


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    opened = Sockets()
    yield opened
    opened.close()


async def nobody(sockets: Sockets, host: str = "127.0.0.1") -> tuple[str, int]:
    """An address where a socket was until now."""
    transport, log, address = await sockets.open(host)
    transport.close()
    await log.until(lost=True)
    return address[0], address[1]


async def test_datagrams_arrive_whole_and_in_order(sockets: Sockets) -> None:
    sender, _, source = await sockets.open()
    _, log, target = await sockets.open()
    sent = [bytes((number % 256,)) * number for number in range(2 * DATAGRAMS_PER_WAKE)]
    sent.append(bytes(60000))
    for data in sent:
        sender.sendto(data, target)
    await log.until(packets=len(sent))
    assert log.packets == [(data, source) for data in sent]


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_v6)])
async def test_refusal_names_the_address_that_refused(sockets: Sockets, host: str) -> None:
    absent = await nobody(sockets, host)
    sender, log, _ = await sockets.open(host)
    sender.sendto(b"are you there?", absent)
    await log.until(errors=1)
    (error,) = log.errors
    assert isinstance(error, DatagramRefused)
    assert error.address == absent


async def test_refusal_by_one_loses_nothing_for_others(sockets: Sockets) -> None:
    """The kernel tells of a refusal at the next send, which would then not happen."""
    absent = await nobody(sockets)
    sender, log, _ = await sockets.open()
    _, present, target = await sockets.open()
    for number in range(50):
        sender.sendto(b"to nobody", absent)
        sender.sendto(b"%d" % number, target)
    await present.until(packets=50)
    assert [data for data, _ in present.packets] == [b"%d" % number for number in range(50)]
    await log.until(errors=1)
    assert {type(error) for error in log.errors} == {DatagramRefused}
    assert {error.address for error in log.errors if isinstance(error, DatagramRefused)} == {absent}


async def test_what_cannot_be_sent_is_said_during_the_send(sockets: Sockets) -> None:
    sender, log, target = await sockets.open()
    sender.sendto(bytes(70000), target)
    assert [error.errno for error in log.errors if isinstance(error, OSError)] == [errno.EMSGSIZE]


async def test_full_socket_loses_packets_and_says_so(sockets: Sockets) -> None:
    """Nothing is kept for later: gossip has its own way to repeat."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    here.setblocking(False)
    log = Log()
    transport = DatagramSocket(here, log, asyncio.get_running_loop())
    try:
        path = b"\0isthmus-test-full"
        full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        full.bind(path)
        for _ in range(10_000):
            transport.sendto(bytes(1000), path)
            if log.errors:
                break
        assert [error.errno for error in log.errors if isinstance(error, OSError)] == [errno.EAGAIN]
        full.close()
    finally:
        transport.close()
        there.close()


async def test_refusals_do_not_keep_the_loop_busy(sockets: Sockets) -> None:
    """Errors that are not fetched would wake the loop for ever."""
    absent = await nobody(sockets)
    sender, log, _ = await sockets.open()
    for _ in range(200):
        sender.sendto(b"x", absent)
    await log.until(errors=1)
    sock: socket.socket = sender.get_extra_info("socket")
    woken = 0
    loop = asyncio.get_running_loop()
    loop.remove_reader(sock.fileno())

    def wake() -> None:
        nonlocal woken
        woken += 1

    loop.add_reader(sock.fileno(), wake)
    for _ in range(20):
        await asyncio.sleep(0)
    assert woken == 0


async def test_closed_socket_is_silent(sockets: Sockets) -> None:
    transport, log, address = await sockets.open()
    transport.abort()
    transport.close()
    transport.sendto(b"x", address)
    await log.until(lost=True)
    assert transport.is_closing()
    assert (log.packets, log.errors) == ([], [])


async def test_taken_port_is_refused(sockets: Sockets) -> None:
    _, _, address = await sockets.open()
    with pytest.raises(OSError, match="in use"):
        await open_datagrams(Log, *address)
