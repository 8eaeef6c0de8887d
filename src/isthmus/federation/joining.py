"""When a pool is joined, and joined again: attempts, waits between them, and when to stop.

Source: protocol/federation.md §3, §4. Better than Consul: an attempt waits for the moment at
which it can succeed; the first failures are followed by short waits, since sites often start
together; and a datacenter that is known is brought back for as long as the agent runs.
"""

import heapq
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import Final, TypeAlias

from isthmus.federation.pacing import Backoff, TokenBucket

RETRY_FIRST: Final = 0.5  # Seconds after the first failure; doubles up to the interval.
REJOIN_INTERVAL: Final = 1.0  # Longest wait between two attempts at one datacenter.
REJOIN_RATE: Final = 20.0  # Attempts per second at all of them, in the long run.
REJOIN_BURST: Final = 20
REJOIN_CHECK_INTERVAL: Final = 30.0  # Repair only: a lost datacenter is an event.
_JITTER: Final = 0.2


# Join once ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Action: wait until an attempt can succeed; answer `ready`, or `not_ready` after `timeout`."""

    timeout: float


@dataclass(frozen=True, slots=True)
class TryJoin:
    """Action: join; answer `joined` or `join_failed` once."""


@dataclass(frozen=True, slots=True)
class TryFailed:
    """Event: an attempt failed; the next is in `wait` seconds at the latest."""

    text: str
    wait: float


@dataclass(frozen=True, slots=True)
class NotReady:
    """Event: for a whole interval no attempt could have succeeded."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Event: all attempts failed for as long as was allowed; there will be no other."""

    attempts: int


JoinOutput: TypeAlias = AwaitReady | TryJoin | TryFailed | NotReady | GaveUp


class _Stage(Enum):
    """What a retrying join waits for."""

    AWAITING = auto()
    """That an attempt can succeed."""
    JOINING = auto()
    WAITING = auto()
    """News, or the end of a wait after a failure."""
    ENDED = auto()


class JoinRetry:
    """Joins a pool: again and again until one attempt reaches a member.

    Args:
        interval: Longest wait between attempts, in seconds.
        attempts_max: Give up after so many that failed, and not before they would have taken
            their time with a whole interval between two of them; 0 for never.
        gated: Whether to ask before each attempt that it can succeed. When that takes longer than
            `interval`, it counts as a failed attempt.
        rng: Source of jitter.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(
        self, *, interval: float, attempts_max: int, gated: bool, rng: Random, now: float
    ) -> None:
        self._interval, self._attempts_max, self._gated = interval, attempts_max, gated
        self._backoff = Backoff(
            first=min(RETRY_FIRST, interval), longest=interval, jitter=_JITTER, rng=rng
        )
        self._attempts, self._give_up_at = 0, now + (attempts_max - 1) * interval
        self._news = False
        self._due = self._news_at = now  # `_news_at`: no news bring an attempt before it.
        self._outputs: list[JoinOutput] = []
        self._stage = _Stage.AWAITING
        self._begin()

    @property
    def ended(self) -> bool:
        """Whether it joined or gave up."""
        return self._stage is _Stage.ENDED

    def wake(self) -> None:
        """Something changed that may let the next attempt succeed: try soon."""
        self._news = True

    def ready(self) -> None:
        """An attempt can succeed."""
        assert self._stage is _Stage.AWAITING
        self._try()

    def not_ready(self, *, now: float) -> None:
        """For the whole time-out of `AwaitReady` none could."""
        assert self._stage is _Stage.AWAITING
        self._outputs.append(NotReady())
        if not self._give_up(now=now):
            self._begin()

    def joined(self) -> None:
        """The attempt reached a member: that is all."""
        assert self._stage is _Stage.JOINING
        self._stage = _Stage.ENDED

    def join_failed(self, text: str, *, now: float) -> None:
        """The attempt reached nobody."""
        assert self._stage is _Stage.JOINING
        wait = self._backoff.failed()
        self._outputs.append(TryFailed(text, wait))
        if not self._give_up(now=now):
            self._stage = _Stage.WAITING
            self._due, self._news_at = now + wait, now + min(RETRY_FIRST, wait)

    def next_timer(self) -> float | None:
        """Moment at which `handle_timer` is due; None while an answer is awaited, or at the end."""
        if self._stage is not _Stage.WAITING:
            return None
        return self._news_at if self._news else self._due

    def handle_timer(self, *, now: float) -> None:
        """Do what is due by `now`; may be called early or late."""
        due = self.next_timer()
        if due is None or now < due:
            return
        if self._news:
            self._backoff.reset()
        self._begin()

    def take_outputs(self) -> list[JoinOutput]:
        """Remove and return all that is to be done, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _begin(self) -> None:
        if self._gated:
            self._stage = _Stage.AWAITING
            self._outputs.append(AwaitReady(self._interval))
        else:
            self._try()

    def _try(self) -> None:
        self._news = False  # News during an attempt make the next one an early one.
        self._stage = _Stage.JOINING
        self._outputs.append(TryJoin())

    def _give_up(self, *, now: float) -> bool:
        self._attempts += 1
        if not 0 < self._attempts_max <= self._attempts or now < self._give_up_at:
            return False
        self._stage = _Stage.ENDED
        self._outputs.append(GaveUp(self._attempts))
        return True


# Bring back ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JoinDatacenter:
    """Action: join through any server of a datacenter; answer `tried` once."""

    dc: str


class Rejoining:
    """Brings back the datacenters that we know of and have no living server of in the WAN pool.

    After a restart the pool is empty, and after a long fault everybody of a datacenter counts as
    failed. Gateways make it simple: any server of a datacenter can be asked for by the name ``*``,
    so the federation states, which are durable, are all that has to be remembered.

    Args:
        missing: Datacenters that have a federation state and no living server in the WAN pool.
        rng: Source of jitter.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(self, *, missing: Callable[[], Collection[str]], rng: Random, now: float) -> None:
        self._missing, self._rng = missing, rng
        self._bucket = TokenBucket(rate=REJOIN_RATE, burst=REJOIN_BURST, now=now)
        self._backoffs: dict[str, Backoff] = {}  # Of the datacenters that are being brought back.
        self._turns: list[tuple[float, str, bool]] = []  # When; who; whether it has its token.
        self._look_at = now
        self._outputs: list[JoinDatacenter] = []

    def wake(self, *, now: float) -> None:
        """A datacenter or a way to it may have become known, or lost."""
        self._look_at = now

    def tried(self, dc: str, *, now: float) -> None:
        """An attempt ended, well or not: what it brought is seen after a wait."""
        heapq.heappush(self._turns, (now + self._backoffs[dc].failed(), dc, False))

    def forget(self, dc: str) -> None:
        """An attempt will never be answered: the next look may begin another."""
        del self._backoffs[dc]

    def next_timer(self) -> float:
        """Moment at which `handle_timer` is due, on the driver's clock."""
        return min(self._turns[0][0], self._look_at) if self._turns else self._look_at

    def handle_timer(self, *, now: float) -> None:
        """Do what is due by `now`; may be called early or late."""
        if now < self.next_timer():
            return
        missing = set(self._missing())
        if now >= self._look_at:
            self._look_at = now + REJOIN_CHECK_INTERVAL
            for dc in sorted(missing - self._backoffs.keys()):
                self._backoffs[dc] = Backoff(
                    first=RETRY_FIRST, longest=REJOIN_INTERVAL, jitter=_JITTER, rng=self._rng
                )
                self._queue(dc, now=now)
        while self._turns and self._turns[0][0] <= now:
            _, dc, has_token = heapq.heappop(self._turns)
            if has_token:
                self._outputs.append(JoinDatacenter(dc))
            elif dc in missing:
                self._queue(dc, now=now)
            else:
                del self._backoffs[dc]

    def take_outputs(self) -> list[JoinDatacenter]:
        """Remove and return all that is to be done, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _queue(self, dc: str, *, now: float) -> None:
        heapq.heappush(self._turns, (now + self._bucket.take(now=now), dc, True))
