"""Coordinates that agents send, gathered for a while and then stored in few writes.

Every agent of a datacenter reports where it lies, over and over; each report as a write of its own
would keep the storage busy with little else. Source: protocol/gossip.md §14.5. The numbers are
Consul's.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from isthmus.errors import EngineError, RequestError, Unavailable
from isthmus.model.coordinate import Coordinate, CoordinateBatch
from isthmus.store.commands import Command

UPDATE_PERIOD: Final = 5.0
"""Seconds that reports are gathered for, from the first one on."""
BATCH_UPDATES_MAX: Final = 128
BATCHES_MAX: Final = 5
WAITING_MAX: Final = BATCH_UPDATES_MAX * BATCHES_MAX
"""Nodes whose reports are gathered at once; those of more are dropped, and come again."""

_logger = logging.getLogger(__name__)


class CoordinateUpdates:
    """What was reported and is not stored yet; of each node only the last.

    Args:
        commit: Makes a command durable.

    Attributes:
        dropped: Reports for which there was no room.
    """

    def __init__(self, commit: Callable[[Command], Awaitable[object]]) -> None:
        self._commit = commit
        self._waiting: dict[tuple[str, str], Coordinate] = {}
        self._arrived = asyncio.Event()
        self.dropped = 0

    def __len__(self) -> int:
        """How many nodes' reports wait."""
        return len(self._waiting)

    def add(self, update: Coordinate) -> None:
        """Take a report."""
        key = (update.node.lower(), update.segment)
        if key not in self._waiting and len(self._waiting) >= WAITING_MAX:
            self.dropped += 1
            return
        self._waiting[key] = update
        self._arrived.set()

    async def run(self) -> None:
        """Store what was reported, for as long as this server leads."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(UPDATE_PERIOD)
            await self._store()

    async def _store(self) -> None:
        updates, self._waiting = tuple(self._waiting.values()), {}
        self._arrived.clear()
        if self.dropped:
            _logger.warning("dropped %d coordinates: too many came at once", self.dropped)
            self.dropped = 0
        for start in range(0, len(updates), BATCH_UPDATES_MAX):
            batch = CoordinateBatch(updates=updates[start : start + BATCH_UPDATES_MAX])
            try:
                await self._commit(batch)
            except (RequestError, Unavailable, EngineError) as error:
                # Nobody waits for them, and every agent will report again.
                _logger.warning("could not store coordinates: %s", error)
                return
