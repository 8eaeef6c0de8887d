"""An engine that keeps everything in memory: for development and tests. Nothing survives."""

from collections.abc import AsyncIterator
from typing import Final

from isthmus.store.engine import (
    EMPTY_INDEX,
    Batch,
    Change,
    EngineUnavailable,
    Fenced,
    Head,
    Lead,
    LeaderInfo,
    Limits,
)

_PAGE_ROWS: Final = 10_000
_LIMITS: Final = Limits(operations_max=100_000, bytes_max=256 * 1024 * 1024)


class MemoryEngine:
    """An engine without a disk.

    Opening again after `close` finds what was there, as long as the object lives.

    Args:
        cluster: UUID of the datacenter's storage.
    """

    def __init__(self, *, cluster: str = "00000000-0000-0000-0000-000000000000") -> None:
        self._cluster = cluster
        self._rows: dict[bytes, bytes] = {}
        self._head = Head(EMPTY_INDEX, 0, bytes(16), 0, cluster)
        self._leader: LeaderInfo | None = None
        self._open = False

    async def open(self) -> Head:
        """Open; never fails."""
        self._open = True
        return self._head

    async def scan(self, prefix: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Yield pages of keys and values under `prefix`, in order of keys."""
        self._check("scan")
        found = sorted(item for item in self._rows.items() if item[0].startswith(prefix))
        for start in range(0, len(found), _PAGE_ROWS):
            yield found[start : start + _PAGE_ROWS]

    async def changes(self, after: int) -> AsyncIterator[Change]:
        """Nobody else commits: there are none."""
        nothing: tuple[Change, ...] = ()
        for change in nothing:
            yield change

    async def claim(self, info: LeaderInfo) -> Lead | None:
        """Become leader; an earlier lead is fenced from now on."""
        self._check("claim")
        epoch = self._leader.epoch + 1 if self._leader is not None else 1
        self._leader = LeaderInfo(info.server_id, info.node, info.address, epoch)
        return Lead(epoch=epoch, fence=epoch)

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        """Commit atomically; see `Engine.commit`."""
        self._check("commit")
        if self._leader is None or lead.epoch != self._leader.epoch or base != self._head.index:
            raise Fenced("another leader has taken over", operation="commit")
        for start, end in batch.ranges:
            for key in [key for key in self._rows if start <= key < end]:
                del self._rows[key]
        for key in batch.deletes:
            self._rows.pop(key, None)
        self._rows.update(batch.puts)
        self._head = Head(
            batch.index,
            self._head.revision + 1,
            batch.id,
            self._head.generation,
            self._cluster,
        )
        return self._head

    async def confirm(self, lead: Lead) -> None:
        """Return if `lead` is the last that was claimed."""
        if self._leader is None or lead.epoch != self._leader.epoch:
            raise Fenced("another leader has taken over", operation="confirm")

    async def resign(self, lead: Lead, to: str = "") -> None:
        """Give up leadership."""
        if self._leader is not None and lead.epoch == self._leader.epoch:
            self._leader = LeaderInfo("", "", "", lead.epoch + 1)

    async def leader(self) -> LeaderInfo | None:
        """Who leads now."""
        return self._leader if self._leader is not None and self._leader.server_id else None

    def limits(self) -> Limits:
        """How large a batch may be."""
        return _LIMITS

    async def stats(self) -> dict[str, object]:
        """Number of rows and their size in bytes."""
        size = sum(len(key) + len(value) for key, value in self._rows.items())
        return {"engine": "memory", "rows": len(self._rows), "size": size}

    async def maintain(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Close; idempotent."""
        self._open = False

    def _check(self, operation: str) -> None:
        if not self._open:
            raise EngineUnavailable("the engine is closed", operation=operation)
