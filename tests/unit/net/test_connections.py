"""Connections end in order, or are dropped."""

import asyncio

from isthmus.net.connections import ConnectionSet, SharedMemory


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


class Holder(asyncio.Transport):
    """A connection that can only be aborted."""

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        self.aborted, self.size = False, size

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.size


def test_the_largest_of_the_busiest_address_gives_way() -> None:
    memory = SharedMemory(100)
    one, large, small, honest = (Holder() for _ in range(4))
    memory.note(honest, "192.0.2.7", 40)
    memory.note(one, "192.0.2.66", 10)
    memory.note(large, "192.0.2.66", 30)
    memory.note(small, "192.0.2.66", 20)
    assert memory.total == 100
    memory.note(small, "192.0.2.66", 21)
    assert [each.aborted for each in (one, large, small, honest)] == [False, True, False, False]
    assert (memory.total, memory.aborted_count) == (71, 1)
    memory.note(large, "192.0.2.66", 0)
    for each in (one, small, honest):
        memory.note(each, "", 0)
    assert memory.total == 0


def test_nobody_gives_way_for_what_is_held_no_longer() -> None:
    memory = SharedMemory(100, measure=lambda transport: transport.get_write_buffer_size())
    drained, newcomer = Holder(0), Holder(60)
    memory.note(drained, "192.0.2.1", 60)
    memory.note(newcomer, "192.0.2.2", 60)
    assert not drained.aborted
    assert not newcomer.aborted
    assert memory.total == 60
