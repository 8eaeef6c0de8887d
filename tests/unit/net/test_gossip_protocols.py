"""What gossip's connections pass on, and when they end."""

import asyncio

from isthmus.net.gossip_protocols import (
    PACKET_IDLE_MAX,
    DatagramProtocol,
    PacketProtocol,
    StreamProtocol,
)
from isthmus.net.network import DatagramRefused
from isthmus.rpc.packets import frame_packet
from support.memory_network import connection_pair


class Ender(asyncio.Protocol):
    """The other end of a connection; knows when it is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


class Streams:
    """Receives what a stream passes on."""

    def __init__(self) -> None:
        self.data: list[tuple[int, bytes]] = []
        self.lost: list[int] = []

    def on_data(self, number: int, data: bytes) -> None:
        self.data.append((number, data))

    def on_lost(self, number: int, stream: StreamProtocol) -> None:
        self.lost.append(number)


async def turn() -> None:
    """Let everything that is due happen."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_stream_waits_for_its_number() -> None:
    near, far = connection_pair()
    seen, ender = Streams(), Ender()
    stream = StreamProtocol(seen.on_data, seen.on_lost)
    near.start(stream)
    far.start(ender)
    far.write(b"early")
    await turn()
    assert seen.data == []
    stream.attach(7)
    far.write(b"late")
    await turn()
    assert seen.data == [(7, b"early"), (7, b"late")]
    far.close()
    await turn()
    assert seen.lost == [7]


async def test_stream_lost_before_its_number_is_told_with_it() -> None:
    near, far = connection_pair()
    seen = Streams()
    stream = StreamProtocol(seen.on_data, seen.on_lost)
    near.start(stream)
    far.start(Ender())
    near.close()
    await turn()
    assert seen.lost == []
    stream.attach(7)
    assert seen.lost == [7]
    stream.write(b"into the void")
    stream.close(grace=1.0)


async def test_closed_stream_still_sends_what_was_written() -> None:
    near, far = connection_pair()
    seen, ender = Streams(), Ender()
    stream = StreamProtocol(seen.on_data, seen.on_lost)
    near.start(stream)
    far.start(ender)
    stream.attach(7)
    stream.write(b"answer")
    stream.close(grace=10.0)
    await turn()
    assert ender.received == b"answer"
    assert ender.closed.is_set()


async def test_packets_are_passed_on_however_they_are_cut() -> None:
    near, far = connection_pair()
    packets: list[bytes] = []
    lost: list[PacketProtocol] = []
    protocol = PacketProtocol(packets.append, lost.append)
    near.start(protocol)
    far.start(Ender())
    for byte in frame_packet(b"one") + frame_packet(b"two"):
        far.write(bytes((byte,)))
    await turn()
    assert packets == [b"one", b"two"]
    protocol.abort()
    await turn()
    assert lost == [protocol]


async def test_malformed_framing_ends_the_connection_after_what_was_whole() -> None:
    near, far = connection_pair()
    packets: list[bytes] = []
    lost: list[PacketProtocol] = []
    near.start(PacketProtocol(packets.append, lost.append))
    ender = Ender()
    far.start(ender)
    far.write(frame_packet(b"one") + bytes(4))
    await turn()
    assert packets == [b"one"]
    assert len(lost) == 1
    assert ender.closed.is_set()


async def test_silent_connection_is_watched() -> None:
    near, far = connection_pair()
    protocol = PacketProtocol(lambda packet: None, lambda protocol: None)
    loop = asyncio.get_running_loop()
    before = loop.time()
    near.start(protocol)
    far.start(Ender())
    timer = protocol._idle_timer
    assert timer is not None
    assert before + PACKET_IDLE_MAX <= timer.when() <= loop.time() + PACKET_IDLE_MAX
    protocol.abort()
    await turn()
    assert timer.cancelled()


def test_socket_remembers_its_troubles() -> None:
    received: list[tuple[bytes, tuple[str, int]]] = []
    refusals: list[tuple[str, int]] = []
    protocol = DatagramProtocol(
        lambda data, source: received.append((data, source)), refusals.append
    )
    protocol.datagram_received(b"x", ("::1", 7946, 0, 0))
    protocol.error_received(OSError("no way"))
    protocol.pause_writing()
    assert received == [(b"x", ("::1", 7946))]
    assert (protocol.failed, protocol.full) == (True, True)
    protocol.resume_writing()
    assert not protocol.full
    assert refusals == []


def test_refusal_by_a_host_is_passed_on_and_no_trouble_of_the_socket() -> None:
    refusals: list[tuple[str, int]] = []
    protocol = DatagramProtocol(lambda data, source: None, refusals.append)
    protocol.error_received(DatagramRefused("127.0.0.1", 7946))
    assert refusals == [("127.0.0.1", 7946)]
    assert not protocol.failed
