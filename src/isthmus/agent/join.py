"""Retry-join: repeated attempts to join a pool, and finding the primary's gateways.

Source: protocol/federation.md §3, §4. Better than Consul: an attempt waits for the moment at
which it can succeed (a gateway is known); the first failures are followed by short waits, since
sites often start together; and the primary's gateways are looked up again for as long as the
agent runs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from random import Random
from typing import Final

from isthmus.errors import IsthmusError
from isthmus.federation.pacing import Backoff, TokenBucket
from isthmus.net.tasks import TaskScope

logger = logging.getLogger(__name__)

RETRY_FIRST: Final = 0.5  # Seconds after the first failure; doubles up to the interval.
REJOIN_INTERVAL: Final = 1.0  # Longest wait between two attempts at one datacenter.
REJOIN_RATE: Final = 20.0  # Attempts per second at all of them, in the long run.
REJOIN_BURST: Final = 20
REJOIN_CHECK_INTERVAL: Final = 30.0  # Repair only: a lost datacenter is an event.
_JITTER: Final = 0.2
_REPEATED_WARNING_INTERVAL: Final = 60.0


class JoinGaveUp(IsthmusError):
    """All attempts failed for as long as `retry_max` allows; the agent stops, as asked for."""


class RetryJoin:
    """Join a pool, again and again until one attempt reaches a member.

    Args:
        pool: Name of the pool in log lines: ``LAN`` or ``WAN``.
        addresses: What to join, ``[name/]host:port``.
        join: Attempts it; returns how many were contacted, raises when none was.
        interval: Longest wait between attempts, in seconds.
        rng: Source of jitter.
        attempts_max: Give up after so many that failed, and not before they would have taken
            their time with a whole interval between two of them; 0 for never.
        ready: Returns once an attempt can succeed at all. When it takes longer than `interval`,
            that counts as a failed attempt.
    """

    def __init__(
        self,
        *,
        pool: str,
        addresses: Sequence[str],
        join: Callable[[Sequence[str]], Awaitable[int]],
        interval: float,
        rng: Random,
        attempts_max: int = 0,
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._pool, self._addresses, self._join = pool, tuple(addresses), join
        self._interval, self._attempts_max, self._ready = interval, attempts_max, ready
        self._backoff = Backoff(
            first=min(RETRY_FIRST, interval), longest=interval, jitter=_JITTER, rng=rng
        )
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Something changed that may let the next attempt succeed: try soon."""
        self._news.set()

    async def run(self) -> None:
        """Return once joined.

        Raises:
            JoinGaveUp: After `attempts_max` failures, an interval apart.
        """
        clock = asyncio.get_running_loop()
        attempts, give_up_at = 0, clock.time() + (self._attempts_max - 1) * self._interval
        warned_at = -_REPEATED_WARNING_INTERVAL
        while True:
            wait = None
            if await self._is_ready():
                self._news.clear()  # News during an attempt make the next one an early one.
                try:
                    count = await self._join(self._addresses)
                except (IsthmusError, OSError) as error:
                    wait = self._backoff.failed()
                    repeated = clock.time() - warned_at < _REPEATED_WARNING_INTERVAL
                    warned_at = warned_at if repeated else clock.time()
                    logger.log(
                        logging.DEBUG if repeated else logging.WARNING,
                        "could not join the %s pool, next try in %.1f s: %s",
                        self._pool,
                        wait,
                        error,
                    )
                else:
                    logger.info("joined the %s pool by contacting %d nodes", self._pool, count)
                    return
            attempts += 1
            if 0 < self._attempts_max <= attempts and clock.time() >= give_up_at:
                raise JoinGaveUp(
                    f"could not join the {self._pool} pool in {attempts} attempts (retry_max); "
                    f"check that one of these is reachable: {', '.join(self._addresses)}"
                )
            if wait is not None:
                await self._wait(wait)

    async def _is_ready(self) -> bool:
        """Wait until an attempt can succeed; False when it could not for a whole interval."""
        if self._ready is None:
            return True
        try:
            async with asyncio.timeout(self._interval):
                await self._ready()
        except TimeoutError:
            logger.warning(
                "cannot join the %s pool yet: no mesh gateway that leads there is known",
                self._pool,
            )
            return False
        return True

    async def _wait(self, seconds: float) -> None:
        """Wait, but after news no longer than after a first failure."""
        least = min(RETRY_FIRST, seconds)
        await asyncio.sleep(least)
        try:
            async with asyncio.timeout(seconds - least):
                await self._news.wait()
        except TimeoutError:
            return
        self._backoff.reset()


class Rejoin:
    """Bring back the datacenters that we know of and have no living server of in the WAN pool.

    After a restart the pool is empty, and after a long fault everybody of a datacenter counts as
    failed. Gateways make it simple: any server of a datacenter can be asked for by the name ``*``,
    so the federation states, which are durable, are all that has to be remembered.

    Args:
        known: Datacenters that have a federation state.
        present: Datacenters that have a living server in the WAN pool.
        join: Joins through any server of a datacenter; raises when none was reached.
        rng: Source of jitter.
    """

    def __init__(
        self,
        *,
        known: Callable[[], Collection[str]],
        present: Callable[[], Collection[str]],
        join: Callable[[str], Awaitable[object]],
        rng: Random,
    ) -> None:
        self._known, self._present, self._join, self._rng = known, present, join, rng
        self._running: set[str] = set()  # Datacenters that a task tries to bring back.
        self._news = asyncio.Event()

    def wake(self) -> None:
        """A datacenter or a way to it may have become known, or lost."""
        self._news.set()

    async def run(self) -> None:
        """Rejoin until cancelled."""
        clock = asyncio.get_running_loop()
        bucket = TokenBucket(rate=REJOIN_RATE, burst=REJOIN_BURST, now=clock.time())
        scope = TaskScope()
        try:
            while True:
                self._news.clear()
                for dc in sorted(self._missing() - self._running):
                    self._running.add(dc)
                    scope.spawn(self._bring_back(dc, bucket))
                try:
                    async with asyncio.timeout(REJOIN_CHECK_INTERVAL):
                        await self._news.wait()
                except TimeoutError:
                    continue
        finally:
            await scope.close()

    def _missing(self) -> set[str]:
        return set(self._known()) - set(self._present())

    async def _bring_back(self, dc: str, bucket: TokenBucket) -> None:
        clock = asyncio.get_running_loop()
        backoff = Backoff(first=RETRY_FIRST, longest=REJOIN_INTERVAL, jitter=_JITTER, rng=self._rng)
        try:
            while dc in self._missing():
                await asyncio.sleep(bucket.take(now=clock.time()))
                try:
                    await self._join(dc)
                    logger.info("rejoined datacenter %s", dc, extra={"dc": dc})
                except (IsthmusError, OSError) as error:
                    logger.debug("could not rejoin datacenter %s: %s", dc, error, extra={"dc": dc})
                await asyncio.sleep(backoff.failed())
        finally:
            self._running.discard(dc)


async def discover_primary_gateways(
    resolve: Callable[[], Awaitable[Sequence[str]]],
    refresh: Callable[[Sequence[str]], None],
    *,
    interval: float,
) -> None:
    """Hand the addresses of the primary's gateways to the server, and keep them fresh.

    Args:
        resolve: Evaluates `primary_gateways`; ``host:port`` each.
        refresh: Takes them to the locator (the server's
            ``refresh_primary_gateway_fallback_addresses``).
        interval: Seconds between two evaluations, `primary_gateways_interval`.
    """
    while True:
        try:
            addresses = await resolve()
        except (IsthmusError, OSError) as error:
            logger.warning("could not find the primary's gateways: %s", error)
        else:
            if addresses:
                refresh(addresses)
            else:
                logger.warning("no mesh gateways found in primary_gateways")
        await asyncio.sleep(interval)
