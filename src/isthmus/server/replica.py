"""This server's copy of its datacenter's data, and its part in who writes it.

One server leads: it alone runs commands and commits them. The others follow the commits, one
whole revision after the other. States::

    following ─claim─► catching up ─own claim seen─► leading ─fenced, replaced, failed─► following

A claim is safe at any moment, since every commit is fenced with it: a server that was replaced
and does not know it yet commits nothing. When to claim is an `Election`'s business.
Source: design of storage, §7, §8.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from isthmus.errors import EngineError, NoLeader, Unavailable
from isthmus.net.tasks import TaskScope
from isthmus.server.committer import Committer
from isthmus.server.election import Election
from isthmus.server.loading import load_tables
from isthmus.server.restoring import (
    Restoring,
    fill_engine,
    generation_of,
    generation_ranges,
    next_generation,
)
from isthmus.store.commands import Command
from isthmus.store.engine import (
    Change,
    Compacted,
    Corrupt,
    Engine,
    EngineUnavailable,
    Fenced,
    FormatTooNew,
    Head,
    Lead,
    LeaderInfo,
    NoSpace,
)
from isthmus.store.store import Store

logger = logging.getLogger(__name__)

ELECTION_INTERVAL: Final = 0.1
"""Seconds between two questions whether to claim; changes of leadership ask at once."""
CONFIRM_INTERVAL: Final = 0.5
CONFIRMED_MAX: Final = 2.0
"""A leader that could not confirm for so many seconds that it leads answers no reads as such."""
WATCH_RETRY: Final = 0.2
UNREADABLE_RETRY: Final = 5.0
"""Seconds between two attempts to load data that could not be read."""
RESIGN_TIMEOUT: Final = 2.0
RESIGNED_TIME: Final = 3.0
"""Seconds for which a server that handed the leadership over does not claim it again."""
_BATCH_ID_SIZE: Final = 16


class Replica:
    """The data of one server of a datacenter.

    Args:
        store: Tables; `start` fills them.
        engine: Where commits become durable and come from.
        info: Who we are, as the leader's key will say.
        election: When to lead.
        rng: Makes ids of batches.
        changed: Called when we begin or cease to lead, or another server does.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        info: LeaderInfo,
        election: Election,
        rng: Random,
        changed: Callable[[], None],
    ) -> None:
        self.store, self.engine, self._info = store, engine, info
        self._election, self._rng, self._changed = election, rng, changed
        self._tasks = TaskScope()
        self._lead: Lead | None = None
        self._committer: Committer | None = None
        self._committing: asyncio.Task[None] | None = None
        self._seen = 0
        """Engine revision up to which the tables are complete."""
        self._watching: asyncio.Timeout | None = None
        """Ends what we follow, when we begin or cease to lead."""
        self._advanced, self._progress = asyncio.Event(), asyncio.Event()
        self._confirmed_at = self._contact_at = self._followed_at = 0.0
        self._waiters: set[asyncio.Future[None]] = set()
        self._quiet_until = 0.0
        self._stopping = False
        self._leftovers: set[int] = set()
        """Generations of rows that are stored and that nobody reads."""
        self.is_loaded = False
        """Whether the tables hold what the storage had. Before that they are empty; and while it
        has what this release cannot read, they are out of date."""
        self.leader: LeaderInfo | None = None
        """Who leads, as far as we know."""
        self.head: Head | None = None

    # Life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the engine and load the tables; lead at once if there is nobody else to ask.

        Raises:
            EngineError: The storage cannot be used; the class says why. Nothing is left open.
        """
        head = await self.engine.open()
        try:
            fresh = Store(watches=self.store.watches)  # A load that fails leaves nothing behind.
            await self._load(fresh, head)
            self.store.adopt(fresh)
            self.is_loaded = True
            self.leader = await self.engine.leader()
            self._note_contact()
            if self.engine.shared:
                self._tasks.spawn(self._follow())
            await self._campaign_once()
        except BaseException:
            await self._tasks.close()
            self._tasks = TaskScope()  # It may be tried again.
            await self.engine.close()
            raise
        self.head = head
        if self.engine.shared:
            self._tasks.spawn(self._campaign())
            self._tasks.spawn(self._confirm_when_idle())

    async def move(self, engine: Engine, election: Election) -> None:
        """Keep the data in another engine from now on, one that other servers can share.

        Reads go on; writes wait until it is done, and are then made there.

        Args:
            engine: Closed and empty.
            election: When to lead there.

        Raises:
            NoLeader: We do not lead; nothing changed.
            InvalidRequest: The engine is not empty; nothing changed.
            Busy, EngineError: It could not be done; the data is where it was.
        """
        committer = self._committer
        if committer is None:
            raise NoLeader
        assert engine.shared
        assert not self.engine.shared, "servers that share an engine cannot leave it one by one"

        async def work() -> tuple[Engine, list[tuple[bytes, bytes]]]:
            tables = Store()
            for name, rows in self.store.copy_rows().items():
                tables.fill(name, rows.values())
            filled = await fill_engine(
                engine,
                tables,
                index=self.store.index,
                info=self._info,
                batch_id=lambda: self._rng.randbytes(_BATCH_ID_SIZE),
                is_open=lambda: committer.is_open,
            )
            self._seen = (await engine.open()).revision
            old, self.engine = self.engine, engine
            self._election, self._lead = election, filled.lead
            self.store.adopt(filled.store)
            committer.use(engine, filled.lead)
            return old, filled.left

        old, ranges = await committer.exclusive(work, reason="the data is being moved")
        lead, info = self._lead, self._info
        assert lead is not None
        self.leader = LeaderInfo(info.server_id, info.node, info.address, lead.epoch)
        self._note_confirmed()
        self._tell()
        for duty in (self._follow(), self._campaign(), self._confirm_when_idle()):
            self._tasks.spawn(duty)
        await old.close()
        self._tasks.spawn(self._tidy(ranges))

    async def stop(self) -> None:
        """Finish the batch in flight, hand the leadership back, close."""
        self._stopping = True
        lead = self._lead
        await self._step_down("the server stops")
        await self._tasks.close()
        if lead is not None:
            await self._hand_over(lead)
        await self.engine.close()

    async def _load(self, store: Store, head: Head) -> None:
        """Fill empty tables with what the engine has."""
        indexes = await load_tables(store, self.engine, head)
        self._note_generations(indexes, head.generation)
        self._seen = head.revision

    # Following --------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Take over what others commit, for as long as we live.

        While we lead nobody else can, and our own commits need not be decoded again.
        """
        while True:
            window = asyncio.timeout(None)
            try:
                async with window:
                    await self._watch(self._lead, window)
            except TimeoutError:
                assert window.expired(), "nothing else has a time-out here"
            except EngineUnavailable as error:
                logger.debug("storage does not tell of changes: %s", error)
                await asyncio.sleep(WATCH_RETRY)
            except (Compacted, Corrupt, _NewGeneration) as error:
                logger.info("loading all data again: %s", error)
                await self._reload()

    async def _watch(self, lead: Lead | None, window: asyncio.Timeout) -> None:
        self._watching = window
        try:
            if lead is None:
                async for change in self.engine.changes(self._seen):
                    await self._receive(change)
            else:
                async for _ in self.engine.leadership(lead):
                    await self._receive_leader()
        finally:
            self._watching = None

    def _turn(self) -> None:
        """Follow something else from now on."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.reschedule(asyncio.get_running_loop().time())

    async def _receive(self, change: Change) -> None:
        self._note_contact()
        leading = self._lead is not None and change.revision > self._lead.fence
        if change.leadership:
            await self._receive_leader()
        if leading:
            return  # We began to lead meanwhile; what follows comes again if we cease to.
        if change.index:
            if change.generation != self.store.generation:
                raise _NewGeneration("the data was restored from a snapshot")
            if change.index > self.store.index:
                self.store.follow(change)
            else:
                self._note_generations(change.puts, change.generation)
            self._followed_at = self._contact_at
        self._seen = change.revision
        self._advanced.set()

    async def _receive_leader(self) -> None:
        leader = await self.engine.leader()
        if self._lead is not None and (leader is None or leader.epoch != self._lead.epoch):
            await self._step_down("another server leads" if leader else "our lease has run out")
        await self._learn_leader()

    async def _reload(self) -> None:
        """Load everything anew beside what is served, then serve it."""
        await self._step_down("the data is loaded again")
        while True:
            try:
                head = await self.engine.open()
                fresh = Store(watches=self.store.watches)
                await self._load(fresh, head)
            except (EngineUnavailable, Compacted) as error:
                logger.warning("could not load the data, trying again: %s", error)
                await asyncio.sleep(WATCH_RETRY)
            except (Corrupt, FormatTooNew) as error:
                # A release that is not upgraded yet can still pass calls on to the leader.
                logger.error("this server cannot read the data, the others go on: %s", error)
                self.is_loaded = False
                self._set_leader(await self.engine.leader())
                await asyncio.sleep(UNREADABLE_RETRY)
            else:
                break
        self.store.adopt(fresh)
        self.is_loaded = True
        self._set_leader(await self.engine.leader())
        self._progress.set()

    # Leading ----------------------------------------------------------------------------------

    async def _campaign(self) -> None:
        """Claim the leadership whenever it is ours to take."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ELECTION_INTERVAL):
                    await self._progress.wait()
            self._progress.clear()
            try:
                await self._campaign_once()
            except (EngineUnavailable, Fenced, NoSpace) as error:
                logger.debug("could not claim the leadership: %s", error)
                await asyncio.sleep(ELECTION_INTERVAL)

    async def _campaign_once(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._lead is not None or self._stopping or now < self._quiet_until:
            return
        if not self.is_loaded:
            return  # What others committed could not be served, and our claim would fence them.
        leader = self.leader
        other = leader is not None and leader.server_id != self._info.server_id
        preempt = other and leader is not None and self._election.may_preempt(leader)
        if not preempt and not self._election.may_claim(leader if other else None, now=now):
            return
        lead = await self.engine.claim(self._info, preempt=preempt)
        if lead is None:
            return
        if self.engine.shared:
            await self._catch_up(lead)
            holder = await self.engine.leader()
            if holder is None or holder.epoch != lead.epoch:
                await self._learn_leader()  # It was taken from us meanwhile.
                return
        self._begin(lead)

    async def _catch_up(self, lead: Lead) -> None:
        """Wait until all that was committed before our claim is in the tables.

        Raises:
            EngineUnavailable: It takes too long; we do not lead.
        """
        try:
            async with asyncio.timeout(CONFIRMED_MAX):
                while self._seen < lead.fence:
                    self._advanced.clear()
                    await self._advanced.wait()
        except TimeoutError:
            if not self.is_loaded:  # What came meanwhile we cannot read: let others lead.
                await self._hand_over(lead)
            raise EngineUnavailable(
                "claimed the leadership and heard nothing of it", operation="claim"
            ) from None

    def _begin(self, lead: Lead) -> None:
        self._lead = lead
        self._note_confirmed()
        self._turn()
        self._committer = Committer(
            self.store,
            self.engine,
            lead=lead,
            batch_id=lambda: self._rng.randbytes(_BATCH_ID_SIZE),
        )
        self._committing = self._tasks.spawn(self._commit(self._committer))
        info = self._info
        logger.info("this server leads now", extra={"epoch": lead.epoch})
        self.leader = LeaderInfo(info.server_id, info.node, info.address, lead.epoch)
        self._tell()
        if self._leftovers:
            ranges = [pair for number in self._leftovers for pair in generation_ranges(number)]
            self._tasks.spawn(self._tidy(ranges))

    async def _commit(self, committer: Committer) -> None:
        """Run the committer; after an error of the engine this server leads no more."""
        try:
            await committer.run()
        except EngineError as error:
            if self._committer is committer:
                self._cease(f"storage failed: {error}")
                await self._learn_leader()
        except BaseException:
            if self._committer is committer:
                self._cease("a defect stopped the writing of data")
            raise

    async def _step_down(self, reason: str) -> None:
        """Cease to lead; what is in flight ends first."""
        committing = self._committing
        if self._committer is not None:
            self._committer.close()
        if committing is not None:
            await asyncio.wait({committing})
        if self._lead is not None:
            self._cease(reason)
            await self._learn_leader()

    def _cease(self, reason: str) -> None:
        committer = self._committer
        if committer is not None and committer.revision:
            self._seen = committer.revision  # A commit without an answer is behind it.
        self._lead, self._committer, self._committing = None, None, None
        self._turn()
        logger.log(
            logging.INFO if self._stopping else logging.WARNING,
            "this server does not lead any more: %s",
            reason,
        )
        if self.leader is not None and self.leader.server_id == self._info.server_id:
            self.leader = None
        self._tell()

    async def _confirm_when_idle(self) -> None:
        """Make sure now and then that we lead, when no commit says so."""
        clock = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CONFIRM_INTERVAL)
            lead = self._lead
            asked = clock.time()
            if lead is None:
                if asked - self._contact_at >= CONFIRM_INTERVAL:
                    await self._look_for_leader()
                continue
            if asked - self._confirmed_at < CONFIRM_INTERVAL:
                continue
            try:
                await self.engine.confirm(lead)
            except Fenced:
                await self._step_down("another server has taken over")
            except EngineError as error:
                logger.debug("could not confirm that we lead: %s", error)
            else:
                self._note_confirmed(asked)

    async def _look_for_leader(self) -> None:
        """Note that the storage has a leader, when nothing was written that says so."""
        try:
            stats = await self.engine.stats()
        except EngineError as error:
            logger.debug("the storage does not say how it is: %s", error)
        else:
            if stats.get("has_leader", True):
                self._note_contact()

    async def _learn_leader(self) -> None:
        """Who leads, as the storage has last told; a key of ours alone does not make it us."""
        leader = await self.engine.leader()
        if leader is not None and leader.server_id == self._info.server_id and not self._lead:
            leader = None
        self._set_leader(leader)

    def _set_leader(self, leader: LeaderInfo | None) -> None:
        if leader != self.leader:
            self.leader = leader
            self._tell()

    def _tell(self) -> None:
        """Something about the leadership changed."""
        self._progress.set()
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._changed()

    def _note_confirmed(self, asked: float | None = None) -> None:
        """We led at some moment after `asked`: the answer may have waited while we were paused."""
        now = asyncio.get_running_loop().time()
        self._confirmed_at = max(self._confirmed_at, now if asked is None else asked)
        self._note_contact()

    def _note_contact(self) -> None:
        self._contact_at = asyncio.get_running_loop().time()

    def look(self) -> None:
        """The election may have something new to say."""
        self._progress.set()

    # What others ask --------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Whether this server accepts writes."""
        return self._lead is not None

    def is_sure(self) -> bool:
        """Whether we lead and have confirmed it lately, so that reads of the default mode hold."""
        if self._lead is None:
            return False
        if not self.engine.shared:
            return True
        return asyncio.get_running_loop().time() - self._surely_led_at() < CONFIRMED_MAX

    def _surely_led_at(self) -> float:
        committer = self._committer
        return max(self._confirmed_at, committer.committed_at if committer else 0.0)

    @property
    def last_contact(self) -> float:
        """Seconds since we heard of the leader's storage; 0 on a leader that is sure to be it."""
        if self.is_sure():
            return 0.0
        heard_at = self._contact_at if self._lead is None else self._surely_led_at()
        return asyncio.get_running_loop().time() - heard_at

    def heard_at(self) -> float:
        """When we last made or saw a commit, on the loop's clock."""
        committer = self._committer
        return max(self._followed_at, committer.committed_at if committer else 0.0)

    async def leader_changed(self, timeout: float) -> None:
        """Return when something about the leadership changed, or after so many seconds."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait({waiter}, timeout=timeout)
        finally:
            self._waiters.discard(waiter)

    async def submit(self, command: Command) -> object:
        """Make a command durable; return its result. Raises as `Committer.submit`."""
        if self._committer is None:
            raise NoLeader
        return await self._committer.submit(command)

    async def restore(self, fresh: Store, *, index: int) -> int:
        """Put other data in the place of all that is stored; every reader wakes.

        Writes are held meanwhile, as long as they are held at all.

        Args:
            fresh: Tables with the data; not to be used by anyone else any more.
            index: Index that it was taken at.

        Returns:
            The index from which on it is served.

        Raises:
            NoLeader: We do not lead (any more); nothing changed.
            Busy: Too many restores wait already.
            EngineError: The class says what is known.
        """
        committer, lead = self._committer, self._lead
        if committer is None or lead is None:
            raise NoLeader
        restoring = self._restoring(committer, lead)

        async def work() -> tuple[int, list[tuple[bytes, bytes]]]:
            before = self.store.generation
            self._leftovers.add(next_generation(before))
            ranges = await restoring.restore(fresh, index=index)
            self._leftovers.discard(self.store.generation)
            self._leftovers.add(before)
            return self.store.index, ranges

        reached, ranges = await committer.exclusive(work, reason="a snapshot is being restored")
        logger.info("restored a snapshot", extra={"index": reached})
        self._tasks.spawn(self._tidy(ranges))
        return reached

    def _restoring(self, committer: Committer, lead: Lead) -> Restoring:
        return Restoring(
            self.store,
            self.engine,
            lead=lead,
            batch_id=lambda: self._rng.randbytes(_BATCH_ID_SIZE),
            is_open=lambda: committer.is_open,
        )

    async def _tidy(self, ranges: list[tuple[bytes, bytes]]) -> None:
        """Remove rows that nobody reads, piece by piece between the batches."""
        left = set(self._leftovers)
        try:
            for pair in ranges:
                committer, lead = self._committer, self._lead
                if committer is None or lead is None:
                    return
                restoring = self._restoring(committer, lead)
                await committer.exclusive(
                    lambda: restoring.remove([pair]),  # noqa: B023 (awaited at once)
                    reason="old rows are being removed",
                )
        except (EngineError, Unavailable) as error:
            logger.warning("old rows were not removed, the next leader will do it: %s", error)
        else:
            self._leftovers -= left

    def _note_generations(self, keys: Iterable[bytes], current: int) -> None:
        """Remember whose rows are there beside the current generation's."""
        found = {generation_of(key) for key in keys} - {None, current}
        self._leftovers.update(number for number in found if number is not None)

    async def confirm(self) -> None:
        """Return if we surely lead, at a moment after the call began.

        Raises:
            NoLeader: We do not, or cannot know it.
        """
        lead = self._lead
        if lead is None:
            raise NoLeader
        asked = asyncio.get_running_loop().time()
        try:
            await self.engine.confirm(lead)
        except EngineError as error:
            raise NoLeader from error
        self._note_confirmed(asked)

    async def give_up(self, reason: str) -> None:
        """Cease to lead since another server does, of which our storage tells us nothing."""
        await self._step_down(reason)

    async def resign(self, to: str = "") -> None:
        """Hand the leadership over, to a server id if one is named.

        Raises:
            NoLeader: We do not lead.
        """
        lead = self._lead
        if lead is None:
            raise NoLeader
        self._quiet_until = asyncio.get_running_loop().time() + RESIGNED_TIME
        await self._step_down("the leadership is handed over")
        await self._hand_over(lead, to)

    async def _hand_over(self, lead: Lead, to: str = "") -> None:
        """Best effort: without a majority there is nobody to hand it to."""
        with contextlib.suppress(TimeoutError, EngineError):
            async with asyncio.timeout(RESIGN_TIMEOUT):
                await self.engine.resign(lead, to)


class _NewGeneration(EngineError):
    """The rows that we hold are not the current ones any more."""

    def __init__(self, text: str) -> None:
        super().__init__(text, operation="watch")
