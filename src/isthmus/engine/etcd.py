"""The engine of a datacenter with several servers: etcd's v3 API.

Consensus, elections and membership are etcd's. Every commit is one transaction that compares two
keys: the leader's, so that a server that lost its leadership commits nothing, however late it
notices; and the index's, so that a batch is in once, however often it is sent.

A batch that is larger than a transaction may be is kept as a redo record (`engine.redo`), which is
the commit. Its rows are then copied to their keys, and the record is deleted. Whoever leads next
goes on with that before it serves; whoever loads the tables reads rows through the record.

Source: design of storage, §3 to §8.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgpack

from isthmus.engine import redo
from isthmus.engine.etcd_access import EtcdAccess
from isthmus.engine.etcd_advice import advice
from isthmus.engine.etcd_api import (
    CALL_TIMEOUT,
    DELETE_EVENT,
    MESSAGES,
    CallFailed,
    EtcdClient,
    compare_revision,
    delete,
    get,
    put,
    translated,
)
from isthmus.store.engine import (
    EMPTY_INDEX,
    Batch,
    Change,
    Compacted,
    EngineUnavailable,
    Fenced,
    FormatTooNew,
    Head,
    Lead,
    LeaderInfo,
    Limits,
    NoSpace,
    OutcomeUnknown,
)
from isthmus.store.keys import FORMAT_KEY, INDEX_KEY, LEADER_KEY, prefix_end

FORMAT: Final = 1
OPERATIONS_MAX: Final = 128  # etcd's default.
REQUEST_SIZE_MAX: Final = 1_572_864  # etcd's default.
COMMIT_TIME_MAX: Final = 5.0
"""Seconds that one commit is tried for."""
ANSWER_TIME_MAX: Final = 2.0
"""Seconds after which a commit is sent again, to the next endpoint if there is one: a member that
has not noticed yet that etcd's leader is gone loses what it passes on."""
LEASE_TIME: Final = 10.0
_RETRY_INTERVAL: Final = 0.05
_GUARDS: Final = 16
"""Operations that a transaction has beside a batch's own."""
_PAGE_ROWS_FIRST: Final = 1000
_PAGE_ROWS_MAX: Final = 100_000
_PAGE_SIZE: Final = 16 * 1024 * 1024
_PAGE_GROWTH: Final = 8
"""The first pages are short, so that there is work while the longer ones come."""
_TURNS_TO_SEND: Final = 3
"""Turns of the loop after which a call's request is on its way."""
_SURELY_NOT_IN: Final = ("no leader", "not capable", "too many requests")
"""etcd's refusals of a request that it did not begin."""


@dataclass(slots=True)
class _Gathered:
    """Events of one revision."""

    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: set[bytes] = field(default_factory=set)
    index: bytes | None = None
    leader: bytes | None = None
    leader_gone: bool = False


class EtcdEngine:
    """Keeps everything under one prefix of an etcd cluster.

    Args:
        access: How to reach etcd.
        datacenter: Whose data it is; that of another datacenter is refused.
        cluster: UUID for the storage if it is new.
        wall: Reads the calendar clock, for the date of a new storage.
        root: What all keys start with; empty for an etcd of our own.
        limits: What one transaction may hold, as etcd was configured.
        lease_time: Seconds after which the leadership of a server that is gone ends.
    """

    shared = True

    def __init__(
        self,
        access: EtcdAccess,
        *,
        datacenter: str,
        cluster: str,
        wall: Callable[[], datetime],
        root: bytes = b"",
        limits: Limits = Limits(OPERATIONS_MAX, REQUEST_SIZE_MAX),  # noqa: B008 (frozen)
        lease_time: float = LEASE_TIME,
    ) -> None:
        self.client = EtcdClient(access)
        self._access = access
        self._datacenter, self._new_cluster, self._wall = datacenter, cluster, wall
        self._root, self._end = root, _end_of(root)
        self._limits = Limits(limits.operations_max - _GUARDS, limits.bytes_max * 3 // 4)
        self._lease_time = lease_time
        self._head = Head(EMPTY_INDEX, 0, bytes(16), 0, "")
        self._open = False
        self._scan_revision = 0
        self._index_revision = 0
        """Revision of the last commit that we know of."""
        self._leader: LeaderInfo | None = None
        self._leader_seen = 0
        """Revision of the leader key as last seen; 0 when it was not there."""
        self._led_until = 0
        """Revision up to which the leader key is surely ours, while we lead."""
        self._epoch = 0
        self._redo: list[redo.Record] = []
        self._lease = 0
        self._keeping: asyncio.Task[None] | None = None
        self._reads_trusted: bool | None = None
        self._given_up = False
        """Whether an answer to a commit is not waited for any more."""

    # Opening and closing ----------------------------------------------------------------------

    async def open(self) -> Head:
        """Connect, creating what is missing; again: find out where the storage stands now.

        Raises:
            EngineUnavailable: etcd does not answer, or has no leader.
            FormatTooNew: The data is of a newer release, or of another datacenter.
        """
        self._open = True
        try:
            await self._create()
        except EngineUnavailable as error:
            hint = advice(str(error)) if self._root else ""  # Our own etcd is ours to mend.
            if not hint:
                raise
            raise EngineUnavailable(f"{error.text}; {hint}", operation="open") from error
        keys = (FORMAT_KEY, INDEX_KEY, LEADER_KEY)
        answer = await self._call(
            "Txn",
            MESSAGES["TxnRequest"](success=[get(self._root + key) for key in keys]),
            "open",
        )
        stored = [reply.response_range.kvs for reply in answer.responses]
        version, cluster, datacenter, _ = msgpack.unpackb(stored[0][0].value)
        where = f"etcd at {self.client.endpoint} under {self._root.decode() or '/'}"
        if version > FORMAT:
            raise FormatTooNew(
                f"{where} has format {version}, this release knows up to {FORMAT}",
                operation="open",
            )
        if datacenter != self._datacenter:
            raise FormatTooNew(
                f"{where} belongs to datacenter {datacenter!r}, not to {self._datacenter!r}; "
                "choose another storage.prefix",
                operation="open",
            )
        index, batch_id, epoch, generation = msgpack.unpackb(stored[1][0].value)
        self._index_revision = stored[1][0].mod_revision
        self._epoch = max(self._epoch, epoch)
        if stored[2]:
            self._see_leader(stored[2][0].value, stored[2][0].mod_revision)
        else:
            self._leader, self._leader_seen = None, 0
        self._head = Head(index, answer.header.revision, batch_id, generation, cluster)
        self._scan_revision = self._head.revision
        self._redo = await self._read_redo(self._scan_revision)
        return self._head

    async def _create(self) -> None:
        """Write the format and an empty index if nobody has.

        Reading first: an etcd that has no room left refuses even a write that would not be made.
        """
        request = MESSAGES["RangeRequest"](key=self._root + FORMAT_KEY, count_only=True)
        if (await self._call("Range", request, "open")).count:
            return
        created = int(self._wall().timestamp())
        value = [FORMAT, self._new_cluster, self._datacenter, created]
        await self._call(
            "Txn",
            MESSAGES["TxnRequest"](
                compare=[compare_revision(self._root + FORMAT_KEY, 0)],
                success=[
                    put(self._root + FORMAT_KEY, _packed(value)),
                    put(self._root + INDEX_KEY, _packed([EMPTY_INDEX, bytes(16), 0, 0])),
                ],
            ),
            "open",
        )

    async def close(self) -> None:
        """Close the connection; idempotent. A leadership not resigned ends with its lease."""
        self._open = False
        await self._stop_keeping()
        await self.client.close()

    # Reading ----------------------------------------------------------------------------------

    async def scan(self, prefix: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Yield pages of keys and values under `prefix`, in order, as of the last `open`.

        Raises:
            Compacted: That moment is too long ago; open again.
        """
        pending = redo.Pending(self._redo, prefix)
        start, end = self._root + prefix, _end_of(self._root + prefix)
        limit, cut, revision = _PAGE_ROWS_FIRST, len(self._root), self._scan_revision
        fetching = self._fetch(start, end, limit, revision)
        try:
            while True:
                answer = await fetching
                rows = [(pair.key[cut:], pair.value) for pair in answer.kvs]
                if answer.more:  # The next page comes while the caller works on this one.
                    start = answer.kvs[-1].key + b"\x00"
                    size = sum(len(key) + len(value) for key, value in rows)
                    fitting = max(100, _PAGE_SIZE * len(rows) // max(1, size))
                    limit = min(_PAGE_ROWS_MAX, fitting, _PAGE_GROWTH * limit)
                    fetching = self._fetch(start, end, limit, revision)
                    for _ in range(_TURNS_TO_SEND):
                        await asyncio.sleep(0)
                page = list(pending.merge(rows, last=not answer.more)) if pending else rows
                if page:
                    yield page
                if not answer.more:
                    return
        finally:
            fetching.cancel()

    def _fetch(self, start: bytes, end: bytes, limit: int, revision: int) -> asyncio.Task[Any]:
        """Begin to read a page."""
        request = MESSAGES["RangeRequest"](key=start, range_end=end, limit=limit, revision=revision)
        task = asyncio.get_running_loop().create_task(self._call("Range", request, "scan"))
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def changes(self, after: int) -> AsyncIterator[Change]:
        """Yield whole commits and changes of leadership after a revision, in order.

        Raises:
            Compacted: Those are no longer kept; open and load again.
            EngineUnavailable: The endpoint is away or has no leader; watch again later.
        """
        gathered: dict[int, _Gathered] = {}
        revision = after
        try:
            async for answer in self.client.watch(self._root or b"\x00", self._end, after + 1):
                if answer.compact_revision:
                    raise Compacted("the history was compacted", operation="watch")
                if answer.canceled:
                    raise EngineUnavailable(answer.cancel_reason, operation="watch")
                for event in answer.events:
                    revision = event.kv.mod_revision
                    self._gather(gathered.setdefault(revision, _Gathered()), event)
                if answer.fragment:
                    continue
                for number in sorted(gathered):
                    change = await self._change(number, gathered[number])
                    if change is not None:
                        yield change
                gathered.clear()
        except CallFailed as error:
            raise translated(error, "watch") from error
        raise EngineUnavailable("the watch ended", operation="watch")

    async def leadership(self, lead: Lead) -> AsyncIterator[None]:
        """Yield whenever the leader key has changed since a commit or `confirm` found it ours."""
        start = max(lead.fence, self._led_until) + 1
        try:
            async for answer in self.client.watch(self._root + LEADER_KEY, b"", start):
                if answer.compact_revision or answer.canceled:
                    # What was compacted is behind the next `confirm`, and so of no interest.
                    raise EngineUnavailable(
                        answer.cancel_reason or "the history was compacted", operation="watch"
                    )
                for event in answer.events:
                    self._note_leader(event.kv, gone=event.type == DELETE_EVENT)
                if answer.events:
                    yield None
        except CallFailed as error:
            raise translated(error, "watch") from error
        raise EngineUnavailable("the watch ended", operation="watch")

    def _gather(self, found: _Gathered, event: Any) -> None:
        key = event.kv.key[len(self._root) :]
        gone = event.type == DELETE_EVENT
        if key == INDEX_KEY:
            found.index = event.kv.value
        elif key == LEADER_KEY:
            found.leader, found.leader_gone = event.kv.value, gone
        elif key.startswith((b"d/", b"i/")):
            if gone:
                found.deletes.add(key)
            else:
                found.puts[key] = event.kv.value

    async def _change(self, revision: int, found: _Gathered) -> Change | None:
        """What a revision means to others; None for one that only tidies up."""
        if found.leader_gone:
            self._leader, self._leader_seen = None, 0
        elif found.leader is not None:
            self._see_leader(found.leader, revision)
        led = found.leader_gone or found.leader is not None
        if found.index is None:
            if not led:
                return None
            return Change(revision, 0, {}, set(), [], leadership=True)
        index, batch_id, epoch, generation = msgpack.unpackb(found.index)
        self._epoch = max(self._epoch, epoch)
        if revision > self._index_revision:  # Else a commit of ours that we know of.
            self._index_revision = revision
            self._head = Head(index, revision, batch_id, generation, self._head.cluster)
        ranges: list[tuple[bytes, bytes]] = []
        if not found.puts and not found.deletes and not led:
            for record in await self._read_redo(revision):
                if record.index == index:
                    found.puts, found.deletes, ranges = record.puts, record.deletes, record.ranges
        return Change(
            revision, index, found.puts, found.deletes, ranges, generation, leadership=led
        )

    # Leading ----------------------------------------------------------------------------------

    async def claim(self, info: LeaderInfo, *, preempt: bool = False) -> Lead | None:
        """Become leader; None when another server was faster, or leads and may not be replaced.

        Args:
            info: What the leader key will say.
            preempt: Take the place of a leader that still holds the key: fencing makes it safe.
        """
        # Who claims meanwhile is not preempted, even if the watch tells us of it before we ask.
        holder, seen = self._leader, self._leader_seen
        if holder is not None and holder.server_id != info.server_id and not preempt:
            return None
        await self._stop_keeping()
        self._given_up = False
        lease = await self._call(
            "LeaseGrant", MESSAGES["LeaseGrantRequest"](TTL=max(2, int(self._lease_time))), "claim"
        )
        epoch = self._epoch + 1
        value = _packed([info.server_id, info.node, info.address, epoch])
        answer = await self._call(
            "Txn",
            MESSAGES["TxnRequest"](
                compare=[compare_revision(self._root + LEADER_KEY, seen)],
                success=[
                    put(self._root + LEADER_KEY, value, lease=lease.ID),
                    get(self._root + INDEX_KEY),
                ],
                failure=[get(self._root + LEADER_KEY)],
            ),
            "claim",
        )
        if not answer.succeeded:
            holder = answer.responses[0].response_range.kvs
            if holder:
                self._see_leader(holder[0].value, holder[0].mod_revision)
            else:
                self._leader, self._leader_seen = None, 0
            await self._revoke(lease.ID)
            return None
        fence = answer.header.revision
        self._see_leader(value, fence)
        stored = answer.responses[1].response_range.kvs[0]
        self._index_revision = stored.mod_revision
        index, batch_id, _, generation = msgpack.unpackb(stored.value)
        # Commits that we have not been told of are behind us all the same.
        self._head = Head(index, stored.mod_revision, batch_id, generation, self._head.cluster)
        lead = Lead(epoch=epoch, fence=fence)
        self._led_until = fence
        self._lease = lease.ID
        self._keeping = asyncio.get_running_loop().create_task(self._keep(lease.ID))
        await self._settle_left(lead)
        return lead

    async def _keep(self, lease: int) -> None:
        """Renew our lease; without it the leadership ends by itself."""
        while True:
            await asyncio.sleep(self._lease_time / 5)
            with contextlib.suppress(CallFailed):
                if not await self.client.keep_alive(lease, timeout=ANSWER_TIME_MAX):
                    return

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        """Commit atomically; see `Engine.commit`."""
        operations = len(batch.puts) + len(batch.deletes) + len(batch.ranges)
        if operations > self._limits.operations_max or redo.size_of(batch) > self._limits.bytes_max:
            return await self._commit_redo(lead, base, batch)
        changes = [
            *(delete(self._root + start, self._root + end) for start, end in batch.ranges),
            *(delete(self._root + key) for key in batch.deletes),
            *(put(self._root + key, value) for key, value in batch.puts.items()),
        ]
        return await self._commit(lead, base, batch, changes)

    async def _commit(self, lead: Lead, base: int, batch: Batch, changes: list[Any]) -> Head:
        """The transaction that is the commit, sent again until it is known whether it is in."""
        if base != self._head.index:
            raise Fenced(
                f"storage is at index {self._head.index}, the batch was computed on {base}",
                operation="commit",
            )
        generation = self._head.generation if batch.generation is None else batch.generation
        index = [batch.index, batch.id, lead.epoch, generation]
        request = MESSAGES["TxnRequest"](
            compare=[
                compare_revision(self._root + LEADER_KEY, lead.fence),
                compare_revision(self._root + INDEX_KEY, self._index_revision),
            ],
            success=[*changes, put(self._root + INDEX_KEY, _packed(index))],
            failure=[get(self._root + LEADER_KEY), get(self._root + INDEX_KEY)],
        )
        revision = await self._made_at(request, batch)
        self._index_revision = self._scan_revision = self._led_until = revision
        self._redo = []
        self._head = Head(batch.index, revision, batch.id, generation, self._head.cluster)
        return self._head

    async def _made_at(self, request: Any, batch: Batch) -> int:
        """Send a commit; the revision at which it is in. Raises as `commit`."""
        try:
            answer, again = await self._send_commit(request)
        except NoSpace:
            # etcd says so also of the last write for which there was room.
            made = await self._last_commit(batch)
            if made is None:
                raise
            return made
        if answer.succeeded:
            return int(answer.header.revision)
        holder, stored = (reply.response_range.kvs for reply in answer.responses)
        found = await self._find_batch(batch, stored, holder if again else ())
        if found is None:
            raise Fenced(
                "another server has taken over the storage, or committed", operation="commit"
            )
        return found  # An earlier send of it was the commit.

    async def _last_commit(self, batch: Batch) -> int | None:
        """The revision of the last commit if it is this batch."""
        request = MESSAGES["RangeRequest"](key=self._root + INDEX_KEY)
        try:
            stored = (await self._call("Range", request, "commit")).kvs
        except EngineUnavailable as error:
            raise _unknown(f"etcd has no room, and does not say what is in: {error}") from error
        made = stored and msgpack.unpackb(stored[0].value)[1] == batch.id
        return int(stored[0].mod_revision) if made else None

    async def _find_batch(self, batch: Batch, stored: Any, holder: Any) -> int | None:
        """The revision at which a batch is in, None if it is not.

        Args:
            batch: It was refused now.
            stored: The index key, as it is.
            holder: The leader key, as it is; empty if the batch was sent only once.

        Raises:
            OutcomeUnknown: An earlier send of it may be in, below what others have committed.
        """
        for _ in range(2):
            if not stored or stored[0].mod_revision == self._index_revision:
                return None
            if msgpack.unpackb(stored[0].value)[1] == batch.id:
                return int(stored[0].mod_revision)
            if not holder:
                return None
            # Ours can only be in from before who leads now claimed.
            request = MESSAGES["RangeRequest"](
                key=self._root + INDEX_KEY, revision=holder[0].mod_revision
            )
            try:
                stored = (await self._call("Range", request, "commit")).kvs
            except (EngineUnavailable, Compacted) as error:
                raise _unknown(f"could not find out whether a commit is in: {error}") from error
        raise _unknown("several servers have led since a commit was sent")

    async def _send_commit(self, request: Any) -> tuple[Any, bool]:
        """The answer to a transaction; and whether it may have been carried out before that."""
        self._check("commit")
        clock = asyncio.get_running_loop()
        deadline, doubtful = clock.time() + COMMIT_TIME_MAX, False
        while True:
            try:
                left = max(0.1, deadline - clock.time())
                answer = await self.client.call("Txn", request, timeout=min(ANSWER_TIME_MAX, left))
            except CallFailed as error:
                known = translated(error, "commit")
                refused = not isinstance(known, EngineUnavailable)
                doubtful |= (
                    error.sent
                    and not refused
                    and not any(text in error.details for text in _SURELY_NOT_IN)
                )
                if refused or self._given_up or clock.time() >= deadline:
                    if doubtful:
                        raise _unknown(
                            "another server leads, and etcd does not say whether a commit is in"
                            if self._given_up
                            else f"no answer to a commit within {COMMIT_TIME_MAX:g} s: {error}"
                        ) from error
                    raise known from error
            else:
                return answer, doubtful
            await asyncio.sleep(_RETRY_INTERVAL)

    async def give_up(self) -> None:
        """Wait for no answer to a commit any more, since another server leads.

        A commit in flight ends with `OutcomeUnknown`; nothing of it can take effect later.
        """
        self._given_up = True
        await self.client.close()

    async def confirm(self, lead: Lead) -> None:
        """Return if we led at a moment after the call began."""
        answer = await self._call(
            "Txn",
            MESSAGES["TxnRequest"](
                compare=[compare_revision(self._root + LEADER_KEY, lead.fence)],
                success=await self._barrier(),
            ),
            "confirm",
            timeout=ANSWER_TIME_MAX,
        )
        if not answer.succeeded:
            raise Fenced("another server has taken over the storage", operation="confirm")
        self._led_until = max(self._led_until, answer.header.revision)

    async def _barrier(self) -> list[Any]:
        """What makes a comparison true now: nothing, where etcd's reads can be trusted."""
        if self._reads_trusted is None:
            status = await self._call("Status", MESSAGES["StatusRequest"](), "confirm")
            self._reads_trusted = reads_trusted(status.version)
        return [] if self._reads_trusted else [put(self._root + _BARRIER_KEY, b"")]

    async def resign(self, lead: Lead, to: str = "") -> None:
        """Give up leadership so that another server can take it at once; best effort."""
        await self._stop_keeping()
        try:
            await self._call(
                "Txn",
                MESSAGES["TxnRequest"](
                    compare=[compare_revision(self._root + LEADER_KEY, lead.fence)],
                    success=[delete(self._root + LEADER_KEY)],
                ),
                "resign",
            )
            if self._lease:
                await self._revoke(self._lease)
        except EngineUnavailable:
            return  # The lease ends it.

    async def leader(self) -> LeaderInfo | None:
        """Who leads, as far as we have seen."""
        return self._leader

    # Limits and upkeep ------------------------------------------------------------------------

    def limits(self) -> Limits:
        """How large a batch of several commands should be; a single one may be larger."""
        return self._limits

    async def stats(self) -> dict[str, object]:
        """Sizes in bytes, version, alarms of the endpoint that we use."""
        status = await self._call("Status", MESSAGES["StatusRequest"](), "stats")
        return {
            "engine": "etcd",
            "version": status.version,
            "endpoint": self.client.endpoint,
            "size": status.dbSize,
            "size_in_use": status.dbSizeInUse,
            "alarms": list(status.errors),
            "has_leader": bool(status.leader),
        }

    async def maintain(self) -> None:
        """Nothing here: compaction and defragmentation are the cluster's keeper's."""

    async def compact(self, revision: int) -> None:
        """Forget the history before a revision."""
        await self._call("Compact", MESSAGES["CompactionRequest"](revision=revision), "maintain")

    # Redo records -----------------------------------------------------------------------------

    async def _commit_redo(self, lead: Lead, base: int, batch: Batch) -> Head:
        """Commit a batch that no single transaction can hold."""
        record = redo.Record.of(batch)
        parts, header = record.stored(self._limits.bytes_max)
        own = self._root + record.key
        await self._guarded(lead, [delete(own, _end_of(own))])
        for key, part in parts:
            await self._guarded(lead, [put(self._root + key, part)])
        head = await self._commit(lead, base, batch, [put(own, header)])
        await self._settle(lead, record)
        return head

    async def _settle_left(self, lead: Lead) -> None:
        """Finish what an earlier leader committed and could not copy; drop what it did not."""
        answer = await self._call(
            "Range",
            MESSAGES["RangeRequest"](
                key=self._root + redo.PREFIX,
                range_end=_end_of(self._root + redo.PREFIX),
                keys_only=True,
                limit=1,
            ),
            "claim",
        )
        if not answer.kvs:
            return
        for record in await self._read_redo(0):
            await self._settle(lead, record)
        records = self._root + redo.PREFIX
        await self._guarded(lead, [delete(records, _end_of(records))])
        self._redo = []

    async def _settle(self, lead: Lead, record: redo.Record) -> None:
        """Copy a record's changes to their keys; the record goes with the last of them."""
        changes = [delete(self._root + start, self._root + end) for start, end in record.ranges]
        changes += [delete(self._root + key) for key in sorted(record.deletes)]
        size = 0
        for key, value in record.puts.items():
            if size + len(value) > self._limits.bytes_max or (
                len(changes) >= self._limits.operations_max
            ):
                await self._guarded(lead, changes)
                changes, size = [], 0
            changes.append(put(self._root + key, value))
            size += len(key) + len(value)
        for start in range(0, len(changes), self._limits.operations_max):
            await self._guarded(lead, changes[start : start + self._limits.operations_max])
        own = self._root + record.key
        await self._guarded(lead, [delete(own, _end_of(own))])

    async def _guarded(self, lead: Lead, changes: list[Any]) -> None:
        """A transaction of the leader that changes no index; may be sent twice."""
        request = MESSAGES["TxnRequest"](
            compare=[compare_revision(self._root + LEADER_KEY, lead.fence)], success=changes
        )
        answer, _ = await self._send_commit(request)
        if not answer.succeeded:
            raise Fenced("another server has taken over the storage", operation="commit")
        self._scan_revision = answer.header.revision

    async def _read_redo(self, revision: int) -> list[redo.Record]:
        """Records that are committed and not yet copied, oldest first, as of a revision."""
        start, cut = self._root + redo.PREFIX, len(self._root)
        answer = await self._call(
            "Range",
            MESSAGES["RangeRequest"](key=start, range_end=_end_of(start), revision=revision),
            "open",
        )
        return redo.read((pair.key[cut:], pair.value) for pair in answer.kvs)

    # Calls ------------------------------------------------------------------------------------

    async def _call(
        self, method: str, request: Any, operation: str, *, timeout: float = CALL_TIMEOUT
    ) -> Any:
        """A call that may be repeated by whoever needs it."""
        self._check(operation)
        try:
            return await self.client.call(method, request, timeout=timeout)
        except CallFailed as error:
            if "required revision has been compacted" in error.details:
                raise Compacted(error.details, operation=operation) from error
            raise translated(error, operation) from error

    def _check(self, operation: str) -> None:
        if not self._open:
            raise EngineUnavailable("the engine is closed", operation=operation)

    async def _revoke(self, lease: int) -> None:
        await self._call("LeaseRevoke", MESSAGES["LeaseRevokeRequest"](ID=lease), "resign")

    async def _stop_keeping(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None

    def _note_leader(self, pair: Any, *, gone: bool) -> None:
        """The leader key was written, or deleted."""
        if gone:
            self._leader, self._leader_seen = None, 0
        else:
            self._see_leader(pair.value, pair.mod_revision)

    def _see_leader(self, value: bytes, revision: int) -> None:
        server_id, node, address, epoch = msgpack.unpackb(value)
        self._leader = LeaderInfo(server_id, node, address, epoch)
        self._leader_seen = revision
        self._epoch = max(self._epoch, epoch)


def reads_trusted(version: str) -> bool:
    """Whether an etcd release never answers a linearizable read stale after a pause.

    Before 3.4.42, 3.5.28 and 3.6.9 it may. Source: design of storage, §8.
    """
    try:
        major, minor, patch = (int(part) for part in version.split("-")[0].split(".")[:3])
    except ValueError:
        return False
    return (major, minor) > (3, 6) or patch >= _TRUSTED_FROM.get((major, minor), 1 << 30)


_TRUSTED_FROM: Final = {(3, 4): 42, (3, 5): 28, (3, 6): 9}
_BARRIER_KEY: Final = b"m/barrier"


def _unknown(text: str) -> OutcomeUnknown:
    return OutcomeUnknown(text, operation="commit")


def _end_of(prefix: bytes) -> bytes:
    """First key behind all that start with `prefix`, as etcd wants it: a zero byte for none."""
    return prefix_end(prefix) or b"\x00"


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
