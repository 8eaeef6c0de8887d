"""The open connections of one component: their orderly end, and the memory they share."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that peers have to take what is on its way; then connections are dropped."""


class ConnectionSet:
    """Connections that a component must not leave behind."""

    def __init__(self) -> None:
        self._open: set[asyncio.Transport] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def add(self, transport: asyncio.Transport) -> None:
        """A connection was made."""
        self._open.add(transport)

    def discard(self, transport: asyncio.Transport) -> None:
        """A connection was lost; it may be unknown."""
        self._open.discard(transport)
        self._changed.set()

    def shut(self) -> None:
        """Close all, each as soon as what it holds has been sent."""
        for transport in list(self._open):
            if not transport.is_closing():
                transport.close()

    async def close(self) -> None:
        """Close all and wait until they are gone; after `CLOSE_TIMEOUT` drop those that are not."""
        self.shut()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._empty()
        except TimeoutError:
            for transport in list(self._open):
                transport.abort()
            await self._empty()

    async def _empty(self) -> None:
        while self._open:
            self._changed.clear()
            await self._changed.wait()


class SharedMemory:
    """Memory that all connections of a component share; who takes most of it gives way.

    The bound holds for all of them together: one that held for each would have to be too small
    for the honest or, times the number of connections, too large for the machine.

    Args:
        size_max: Bytes that all may hold together.
        measure: Finds out what a connection holds now; None: what it noted last.
    """

    def __init__(
        self, size_max: int, *, measure: Callable[[asyncio.Transport], int] | None = None
    ) -> None:
        assert size_max > 0
        self._size_max, self._measure = size_max, measure
        self._held: dict[asyncio.Transport, tuple[str, int]] = {}
        self._total = 0
        self.aborted_count = 0
        """Connections that gave way."""

    @property
    def total(self) -> int:
        """Bytes held, as noted."""
        return self._total

    def note(self, transport: asyncio.Transport, host: str, size: int) -> None:
        """A connection holds so many bytes now; it or another is aborted if that is too much.

        Args:
            transport: The connection.
            host: Address of its peer: the one that holds most gives way with its largest.
            size: Bytes; 0 when it is lost, too.
        """
        _, before = self._held.pop(transport, ("", 0))
        self._total += size - before
        if size:
            self._held[transport] = (host, size)
        if self._total > self._size_max:
            self._give_way()

    def _give_way(self) -> None:
        if self._measure is not None:
            self._held = {
                transport: (host, size)
                for transport, (host, _) in self._held.items()
                if (size := self._measure(transport))
            }
            self._total = sum(size for _, size in self._held.values())
        while self._total > self._size_max:
            hosts: Counter[str] = Counter()
            for host, size in self._held.values():
                hosts[host] += size
            busiest = max(hosts, key=hosts.__getitem__)
            of_busiest = [entry for entry in self._held.items() if entry[1][0] == busiest]
            transport, (_, size) = max(of_busiest, key=lambda entry: entry[1][1])
            del self._held[transport]
            self._total -= size
            self.aborted_count += 1
            transport.abort()
