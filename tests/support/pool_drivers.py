"""Pool drivers on a network and a disk in memory, in virtual time."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from isthmus.gossip.config import GossipConfig
from isthmus.net.gossip_driver import PoolDriver
from isthmus.net.gossip_pool import Mailbox, PoolConfig
from isthmus.net.network import Inbound
from support.memory_files import MemoryFiles
from support.memory_network import MemoryNetwork

T = TypeVar("T")


class Drivers:
    """Pools of one network; each hands its events to a list.

    Args:
        gossip: Times of all pools.
    """

    def __init__(self, gossip: GossipConfig | None = None) -> None:
        self.gossip = gossip or GossipConfig.lan()
        self.network, self.files = MemoryNetwork(), MemoryFiles()
        self.events: dict[str, list[Any]] = {}
        self.drivers: list[PoolDriver] = []
        self._rng = Random(1)

    async def open(self, name: str, *, port: int = 0, **options: Any) -> PoolDriver:
        """Open a pool; its events begin anew."""
        events = self.events[name] = []
        config = PoolConfig(name=name, bind_host="127.0.0.1", bind_port=port, gossip=self.gossip)
        driver = PoolDriver(
            replace(config, **options),
            self.network,
            Mailbox(asyncio.get_running_loop(), events.append),
            entropy=self._rng.randbytes,
            files=self.files,
        )
        await driver.open()
        self.drivers.append(driver)
        return driver

    async def join(self, driver: PoolDriver, through: PoolDriver) -> int:
        """One joins through another."""
        host, port = through.address
        return await driver.join([f"{host}:{port}"], ignore_old=True)

    async def open_pool(self, *names: str, **options: Any) -> list[PoolDriver]:
        """Open pools and join them through the first one."""
        drivers = [await self.open(name, **options) for name in names]
        for driver in drivers[1:]:
            await self.join(driver, drivers[0])
        await asyncio.sleep(2)
        return drivers

    async def stall(self, driver: PoolDriver, seconds: float, *, room: int) -> None:
        """One pool's process stands still: timers wait, and so does what reaches it.

        Args:
            driver: The pool.
            seconds: For how long.
            room: Packets that its socket holds meanwhile; further ones are lost.
        """
        socket, accept = (
            self.network.sockets[driver.address],
            self.network.listeners[driver.address],
        )
        protocol, buffer = socket.protocol, _Buffer(room)
        connections: list[Inbound] = []

        async def queue(inbound: Inbound) -> None:
            connections.append(inbound)

        socket.protocol = buffer
        self.network.listeners[driver.address] = queue
        assert driver._timer is not None
        driver._timer.cancel()
        await asyncio.sleep(seconds)
        socket.protocol = protocol
        self.network.listeners[driver.address] = accept
        driver._on_timer()  # The harder order: what waits comes after the overdue timers.
        for data, source in buffer.packets:
            protocol.datagram_received(data, source)
        for inbound in connections:
            await accept(inbound)

    async def close(self) -> None:
        """Close all pools."""
        for driver in self.drivers:
            await driver.close()

    async def until(self, reached: Callable[[], bool], *, within: float = 60.0) -> None:
        """Let time pass until something holds."""
        async with asyncio.timeout(within):
            while not reached():  # noqa: ASYNC110 - No real time passes.
                await asyncio.sleep(0.1)


class _Buffer(asyncio.DatagramProtocol):
    """A socket's buffer that nobody empties."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.packets: list[tuple[bytes, Any]] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if len(self.packets) < self._room:
            self.packets.append((data, addr))


def statuses(driver: PoolDriver) -> dict[str, str]:
    """What one pool thinks of its members."""
    return {member.name: str(member.status) for member in driver.members}
