"""The file of a pool's snapshot: read at the start, written behind the pool's back.

Source: protocol/gossip.md §13.8.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Final

from isthmus.gossip.roster import MemberEvent
from isthmus.gossip.snapshot import Snapshot, SnapshotLog, read_snapshot
from isthmus.net.files import Files

FLUSH_INTERVAL: Final = 0.5
"""Seconds between two writes; a machine that dies may forget so much."""
SNAPSHOT_SIZE_MAX: Final = 64 * 1024 * 1024
"""Bytes of a snapshot file that we read."""
WRITE_RETRY_INTERVAL: Final = 30.0
"""Seconds after a write that failed."""

_logger = logging.getLogger(__name__)


class SnapshotFile:
    """One pool's file.

    Args:
        path: Where it is.
        files: The place for files.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self._path, self._files = path, files
        self._log = SnapshotLog(Snapshot(), size=0)
        self._changed, self._stopping = asyncio.Event(), asyncio.Event()
        self._writing = asyncio.Lock()

    async def load(self, *, rejoin_after_leave: bool) -> Snapshot:
        """What the file says; one that can not be read says nothing, and is replaced."""
        try:
            data = await self._files.read(self._path, size_max=SNAPSHOT_SIZE_MAX) or b""
        except OSError as error:
            _logger.warning(
                "snapshot %s can not be read, members have to be found by other ways: %s",
                self._path,
                error.strerror or error,
            )
            snapshot, size = Snapshot(whole=False), 0
        else:
            snapshot = read_snapshot(data, rejoin_after_leave=rejoin_after_leave)
            size = len(data)
        self._log = SnapshotLog(snapshot, size=size)
        return snapshot

    def receive(self, event: MemberEvent) -> None:
        """Note what became of a member."""
        self._log.receive(event)
        self._wake()

    def note_clocks(self, *, clock: int, event_clock: int, query_clock: int) -> None:
        """Note the Lamport times seen last."""
        self._log.note_clocks(clock=clock, event_clock=event_clock, query_clock=query_clock)
        self._wake()

    def leave(self) -> None:
        """Note that we leave."""
        self._log.leave()
        self._wake()

    async def run(self) -> None:
        """Write what there is to write, now and then; after `stop` what is left, and return.

        Not to be cancelled: a write under way would go on behind our back.
        """
        while not self._stopping.is_set():
            await self._changed.wait()
            wait = FLUSH_INTERVAL if await self.flush() else WRITE_RETRY_INTERVAL
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()
        await self.flush()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopping.set()
        self._changed.set()

    async def flush(self) -> bool:
        """Write what there is to write; False: it failed, and is kept for the next time."""
        async with self._writing:
            self._changed.clear()
            if not self._log.is_pending:
                return True
            data, anew = self._log.take()
            try:
                if anew:
                    await self._files.replace(self._path, data)
                else:
                    await self._files.append(self._path, data)
            except OSError as error:
                self._log.failed()
                self._changed.set()
                why = error.strerror or error
                _logger.warning("snapshot %s was not written: %s", self._path, why)
                return False
            return True

    def _wake(self) -> None:
        if self._log.is_pending:
            self._changed.set()
