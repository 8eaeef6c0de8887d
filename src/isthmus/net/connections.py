"""The open connections of one component, and their orderly end."""

import asyncio
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
