"""The connections of a pool: which are taken, what its core hears, and what is left afterwards."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from isthmus.gossip.outputs import Address, OpenStream
from isthmus.gossip.serf import Serf
from isthmus.net.gossip_connections import (
    HANDSHAKE_TIMEOUT,
    PACKET_CONNECTIONS_MAX,
    PoolConnections,
)
from isthmus.net.network import Inbound, TlsAccept, TlsDial
from isthmus.net.tasks import TaskScope
from isthmus.rpc.packets import frame_packet
from support.memory_network import (
    MemoryInbound,
    MemoryNetwork,
    MemoryTransport,
    connection_pair,
)
from support.pool_drivers import Drivers, statuses
from support.virtual_loop import now, run_virtual, settle

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Core:
    """Numbers streams from 1, and notes what it hears."""

    def __init__(self) -> None:
        self.room = 8
        self.heard: list[tuple[Any, ...]] = []
        self._number = 0

    def accept_stream(self, *, peer: Address, now: float) -> int | None:
        if self._number >= self.room:
            return None
        self._number += 1
        return self._number

    def stream_opened(self, stream_id: int, *, now: float) -> None:
        self.heard.append(("opened", stream_id))

    def stream_failed(
        self, stream_id: int, text: str, *, refused: bool = False, now: float
    ) -> None:
        self.heard.append(("failed", stream_id, text, refused))

    def receive_stream_data(self, stream_id: int, data: bytes, *, now: float) -> None:
        self.heard.append(("data", stream_id, data))

    def receive_stream_eof(self, stream_id: int, *, now: float) -> None:
        self.heard.append(("eof", stream_id))


class SlowNetwork(MemoryNetwork):
    """A dial takes ten seconds."""

    async def dial(
        self,
        factory: Callable[[], P],
        host: str,
        port: int,
        *,
        tls: TlsDial | None,
        timeout: float,
        source_host: str = "",
        preamble: bytes = b"",
    ) -> P:
        await asyncio.sleep(10)
        return await super().dial(factory, host, port, tls=tls, timeout=timeout)


class Hanging(MemoryInbound):
    """Its handshake never ends."""

    async def start(self, protocol: P, *, tls: TlsAccept | None, skip: int = 0) -> P:
        await asyncio.Event().wait()
        return protocol


@dataclass
class Setting:
    """Connections of a pool, and what they told."""

    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    core: Core = field(default_factory=Core)
    scope: TaskScope = field(default_factory=TaskScope)
    packets: list[bytes] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    flushed: int = 0

    def __post_init__(self) -> None:
        self.connections = PoolConnections(
            cast(Serf, self.core),
            self.network,
            None,
            self.scope,
            stream_timeout=10.0,
            receive_packet=self.packets.append,
            count=self.counted.append,
            flush=self._flush,
        )

    def _flush(self) -> None:
        self.flushed += 1

    async def serve(self, kind: type[MemoryInbound] = MemoryInbound) -> MemoryTransport:
        """Accept a plain stream; the peer's end of it."""
        near, far = connection_pair()
        near.start(asyncio.Protocol())
        await self.connections.serve(kind(far), tls=None)
        return near


def request(number: int, port: int = 8301) -> OpenStream:
    return OpenStream(number, "b", ("127.0.0.1", port), b"hello", 10.0)


def test_accepted_stream_brings_its_bytes_and_its_end() -> None:
    async def story() -> None:
        setting = Setting()
        peer = await setting.serve()
        peer.write(b"state")
        await settle()
        peer.close()
        await settle()
        assert setting.core.heard == [("data", 1, b"state"), ("eof", 1)]
        assert setting.flushed == 3  # Each time, and once accepted.

    run_virtual(story())


def test_stream_that_the_core_has_no_room_for_is_closed() -> None:
    async def story() -> None:
        setting = Setting()
        setting.core.room = 0
        inbound = MemoryInbound(connection_pair()[1])
        await setting.connections.serve(inbound, tls=None)
        assert inbound.closed
        assert setting.core.heard == []

    run_virtual(story())


def test_handshake_that_hangs_fails_the_stream_in_time() -> None:
    async def story() -> None:
        setting = Setting()
        begun = now()
        await setting.serve(Hanging)
        assert now() - begun == HANDSHAKE_TIMEOUT
        assert setting.core.heard == [("failed", 1, "handshake failed", False)]
        assert setting.counted == ["connections_failed"]

    run_virtual(story())


def test_dial_tells_how_it_went() -> None:
    async def story() -> None:
        setting = Setting()
        taken: list[Inbound] = []

        async def take(inbound: Inbound) -> None:
            taken.append(inbound)

        listening = await setting.network.listen("127.0.0.1", 8301, take)
        setting.connections.open(request(1))
        setting.connections.open(request(2, port=8399))
        await settle()
        assert len(taken) == 1
        opened, failed = sorted(setting.core.heard, reverse=True)
        assert opened == ("opened", 1)
        assert failed[:2] == ("failed", 2)
        assert failed[3]  # Refused by its own host: no need to wait for anything.
        await listening.close()

    run_virtual(story())


def test_stream_closed_while_it_is_dialled_is_not_opened() -> None:
    async def story() -> None:
        setting = Setting(network=SlowNetwork())
        setting.connections.open(request(1))
        await asyncio.sleep(1)
        setting.connections.close(1)
        await asyncio.sleep(20)
        setting.connections.write(1, b"nobody is there")
        assert setting.core.heard == []
        assert len(setting.scope) == 0

    run_virtual(story())


def test_connections_that_bring_packets_are_bounded() -> None:
    async def story() -> None:
        setting = Setting()
        ends = []
        for _ in range(PACKET_CONNECTIONS_MAX):
            near, far = connection_pair()
            near.start(asyncio.Protocol())
            setting.connections.accept_packets(MemoryInbound(far))
            ends.append(near)
        await settle()
        over = MemoryInbound(connection_pair()[1])
        setting.connections.accept_packets(over)
        assert over.closed
        assert setting.counted == ["packet_connections_refused"]
        ends[0].write(frame_packet(b"ping"))
        await settle()
        assert setting.packets == [b"ping"]
        ends[0].close()
        await settle()
        again = MemoryInbound(connection_pair()[1])
        setting.connections.accept_packets(again)
        assert not again.closed
        setting.connections.abort()
        await setting.scope.close()

    run_virtual(story())


def test_core_hears_nothing_after_the_stop() -> None:
    async def story() -> None:
        setting = Setting()
        peer = await setting.serve()
        setting.connections.stop()
        peer.write(b"state")
        await settle()
        late, packets = (MemoryInbound(connection_pair()[1]) for _ in range(2))
        await setting.connections.serve(late, tls=None)
        setting.connections.accept_packets(packets)
        assert (late.closed, packets.closed) == (True, True)
        setting.connections.abort()
        await settle()
        assert setting.core.heard == []

    run_virtual(story())


def test_connection_that_comes_before_the_core_is_closed_and_the_next_one_served() -> None:
    """A pool's port listens a moment before its core is made; who tries again finds it."""

    class Early(MemoryNetwork):
        async def datagram(
            self, factory: Callable[[], asyncio.DatagramProtocol], host: str, port: int
        ) -> asyncio.DatagramTransport:
            early.append(MemoryInbound(connection_pair()[1]))
            await self.listeners[host, port](early[-1])
            return await super().datagram(factory, host, port)

    early: list[MemoryInbound] = []

    async def story() -> None:
        drivers = Drivers()
        drivers.network = Early()
        one, other = await drivers.open_pool("a", "b")
        assert [inbound.closed for inbound in early] == [True, True]
        assert statuses(one) == statuses(other) == {"a": "alive", "b": "alive"}
        await drivers.close()

    run_virtual(story())
