"""An engine that keeps everything in memory: for development, tests and simulations.

Several engines may share one `MemoryStorage`, as several servers share a cluster of etcd.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from isthmus.store.engine import (
    EMPTY_INDEX,
    Batch,
    Change,
    Compacted,
    EngineUnavailable,
    Fenced,
    Head,
    Lead,
    LeaderInfo,
    Limits,
)

HISTORY_MAX: Final = 10_000
"""Changes that are kept for servers that lag behind."""
_PAGE_ROWS: Final = 10_000
_LIMITS: Final = Limits(operations_max=100_000, bytes_max=256 * 1024 * 1024)


class MemoryStorage:
    """What the engines of one datacenter share.

    Args:
        cluster: UUID of the datacenter's storage.
    """

    def __init__(self, *, cluster: str = "00000000-0000-0000-0000-000000000000") -> None:
        self.rows: dict[bytes, bytes] = {}
        self.head = Head(EMPTY_INDEX, 0, bytes(16), 0, cluster)
        self.leader: LeaderInfo | None = None
        self.epoch = 0
        self.fence = 0
        """Revision at which the leader's key was written."""
        self.revision = 0
        self.history: deque[Change] = deque(maxlen=HISTORY_MAX)
        self._waiting: set[asyncio.Future[None]] = set()

    def add(self, change: Change) -> None:
        """Note what happened; whoever follows is told."""
        self.history.append(change)
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def leadership(self, leader: LeaderInfo | None) -> int:
        """Write or delete the leader's key; return the revision of that."""
        self.revision += 1
        self.leader = leader
        generation = self.head.generation
        self.add(Change(self.revision, 0, {}, set(), [], generation, leadership=True))
        return self.revision

    async def wait(self) -> None:
        """Return when something happened."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)


class MemoryEngine:
    """An engine without a disk.

    Opening again after `close` finds what was there, as long as the storage lives.

    Args:
        cluster: UUID of the datacenter's storage, if it is our own.
        storage: What we share with other engines; None: nothing.
    """

    def __init__(
        self,
        *,
        cluster: str = "00000000-0000-0000-0000-000000000000",
        storage: MemoryStorage | None = None,
    ) -> None:
        self.shared = storage is not None
        self._storage = storage or MemoryStorage(cluster=cluster)
        self._open = False

    async def open(self) -> Head:
        """Open; never fails."""
        self._open = True
        head = self._storage.head
        return Head(
            head.index, self._storage.revision, head.batch_id, head.generation, head.cluster
        )

    async def scan(self, prefix: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Yield pages of keys and values under `prefix`, in order of keys."""
        self._check("scan")
        found = sorted(item for item in self._storage.rows.items() if item[0].startswith(prefix))
        for start in range(0, len(found), _PAGE_ROWS):
            yield found[start : start + _PAGE_ROWS]

    async def changes(self, after: int) -> AsyncIterator[Change]:
        """Yield whole commits and changes of leadership after a revision, in order."""
        storage = self._storage
        while True:
            self._check("watch")
            if storage.revision > after and (
                not storage.history or storage.history[0].revision > after + 1
            ):
                raise Compacted("the history is shorter than that", operation="watch")
            for change in [change for change in storage.history if change.revision > after]:
                yield change
                after = change.revision
            if storage.revision <= after:
                await storage.wait()

    async def leadership(self, lead: Lead) -> AsyncIterator[None]:
        """Yield whenever the leader's key has changed since `lead` was claimed."""
        storage, seen = self._storage, lead.fence
        while True:
            self._check("watch")
            fence = storage.fence if storage.leader is not None else 0
            if fence == seen:
                await storage.wait()
                continue
            seen = fence
            yield None

    async def claim(self, info: LeaderInfo, *, preempt: bool = False) -> Lead | None:
        """Become leader; an earlier lead is fenced from now on."""
        self._check("claim")
        storage = self._storage
        holder = storage.leader
        if holder is not None and holder.server_id != info.server_id and not preempt:
            return None
        storage.epoch += 1
        leader = LeaderInfo(info.server_id, info.node, info.address, storage.epoch)
        storage.fence = storage.leadership(leader)
        return Lead(epoch=storage.epoch, fence=storage.fence)

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        """Commit atomically; see `Engine.commit`."""
        self._check("commit")
        storage = self._storage
        head = storage.head
        if not self._leads(lead) or base != head.index:
            raise Fenced("another leader has taken over", operation="commit")
        rows = storage.rows
        for start, end in batch.ranges:
            for key in [key for key in rows if start <= key < end]:
                del rows[key]
        for key in batch.deletes:
            rows.pop(key, None)
        rows.update(batch.puts)
        storage.revision += 1
        generation = head.generation if batch.generation is None else batch.generation
        storage.head = Head(batch.index, storage.revision, batch.id, generation, head.cluster)
        storage.add(
            Change(
                storage.revision,
                batch.index,
                dict(batch.puts),
                set(batch.deletes),
                list(batch.ranges),
                generation,
            )
        )
        return storage.head

    async def confirm(self, lead: Lead) -> None:
        """Return if `lead` is the last that was claimed."""
        self._check("confirm")
        if not self._leads(lead):
            raise Fenced("another leader has taken over", operation="confirm")

    async def resign(self, lead: Lead, to: str = "") -> None:
        """Give up leadership."""
        if self._leads(lead):
            self._storage.leadership(None)

    async def leader(self) -> LeaderInfo | None:
        """Who leads now."""
        return self._storage.leader

    def limits(self) -> Limits:
        """How large a batch may be."""
        return _LIMITS

    async def stats(self) -> dict[str, object]:
        """Number of rows and their size in bytes."""
        rows = self._storage.rows
        size = sum(len(key) + len(value) for key, value in rows.items())
        return {"engine": "memory", "rows": len(rows), "size": size}

    async def maintain(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Close; idempotent."""
        self._open = False

    def _leads(self, lead: Lead) -> bool:
        return self._storage.leader is not None and self._storage.fence == lead.fence

    def _check(self, operation: str) -> None:
        if not self._open:
            raise EngineUnavailable("the engine is closed", operation=operation)
