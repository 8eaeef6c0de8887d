"""Connections end in order, or are dropped."""

import asyncio

from isthmus.net.connections import ConnectionSet


class FakeTransport(asyncio.Transport):
    """Loses its connection on close, or only when dropped."""

    def __init__(self, connections: ConnectionSet, *, hangs: bool) -> None:
        super().__init__()
        self._connections, self._hangs = connections, hangs
        self.calls: list[str] = []
        connections.add(self)

    def is_closing(self) -> bool:
        return bool(self.calls)

    def close(self) -> None:
        self.calls.append("close")
        if not self._hangs:
            asyncio.get_running_loop().call_soon(self._connections.discard, self)

    def abort(self) -> None:
        self.calls.append("abort")
        asyncio.get_running_loop().call_soon(self._connections.discard, self)


async def test_close_waits_until_all_are_gone() -> None:
    connections = ConnectionSet()
    transports = [FakeTransport(connections, hangs=False) for _ in range(3)]
    connections.shut()
    await connections.close()
    assert [transport.calls for transport in transports] == [["close"]] * 3
    assert len(connections) == 0


async def test_a_connection_that_does_not_end_is_dropped() -> None:
    connections = ConnectionSet()
    hanging = FakeTransport(connections, hangs=True)
    await connections.close()
    assert hanging.calls == ["close", "abort"]


async def test_closing_nothing_is_nothing() -> None:
    await ConnectionSet().close()
