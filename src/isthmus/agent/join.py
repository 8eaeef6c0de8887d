"""Retry-join: repeated attempts to join a pool, and finding the primary's gateways.

When an attempt is made, `isthmus.federation.joining` decides; the primary's gateways are looked
up again for as long as the agent runs. Source: protocol/federation.md §3, §4.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from random import Random
from typing import Final

from isthmus.errors import IsthmusError
from isthmus.federation.joining import (
    AwaitReady,
    GaveUp,
    JoinOutput,
    JoinRetry,
    NotReady,
    Rejoining,
    TryFailed,
    TryJoin,
)
from isthmus.model.reminders import Reminders
from isthmus.net.tasks import TaskScope, pause

logger = logging.getLogger(__name__)

_REPEATED_WARNING_INTERVAL: Final = 60.0
REUNION_INTERVAL: Final = 2.0
"""Seconds between two attempts to reach a server that failed. Serf tries one failed member every
30 s; but servers need each other, and are few."""


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
        bound_by: Configuration key that bounds the attempts, named when they are over.
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
        bound_by: str = "retry_max",
    ) -> None:
        self._bound_by = bound_by
        self._pool, self._addresses, self._join = pool, tuple(addresses), join
        self._interval, self._attempts_max, self._ready = interval, attempts_max, ready
        self._rng = rng
        self._core: JoinRetry | None = None
        self._news = asyncio.Event()
        self._failures = Reminders(_REPEATED_WARNING_INTERVAL)

    def wake(self) -> None:
        """Something changed that may let the next attempt succeed: try soon."""
        if self._core is not None:
            self._core.wake()
            self._news.set()

    async def run(self) -> None:
        """Return once joined.

        Raises:
            JoinGaveUp: After `attempts_max` failures, an interval apart.
        """
        clock = asyncio.get_running_loop()
        core = self._core = JoinRetry(
            interval=self._interval,
            attempts_max=self._attempts_max,
            gated=self._ready is not None,
            rng=self._rng,
            now=clock.time(),
        )
        while True:
            core.handle_timer(now=clock.time())
            while outputs := core.take_outputs():
                for output in outputs:
                    await self._carry_out(core, output)
            if core.ended:
                return
            due = core.next_timer()
            assert due is not None, "an action was not answered"
            await pause(self._news, due - clock.time())

    async def _carry_out(self, core: JoinRetry, output: JoinOutput) -> None:
        clock = asyncio.get_running_loop()
        match output:
            case AwaitReady(timeout):
                if await self._is_ready(timeout):
                    core.ready()
                else:
                    core.not_ready(now=clock.time())
            case TryJoin():
                try:
                    count = await self._join(self._addresses)
                except (IsthmusError, OSError) as error:
                    core.join_failed(str(error), now=clock.time())
                else:
                    core.joined()
                    logger.info("joined the %s pool by contacting %d nodes", self._pool, count)
            case TryFailed(text, wait):
                self._warn(text, wait, now=clock.time())
            case NotReady():
                logger.warning(
                    "cannot join the %s pool yet: no mesh gateway that leads there is known",
                    self._pool,
                )
            case GaveUp(attempts):
                times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                raise JoinGaveUp(
                    f"could not join the {self._pool} pool in {times} ({self._bound_by}); "
                    f"check that one of these is reachable: {', '.join(self._addresses)}"
                )

    async def _is_ready(self, timeout: float) -> bool:
        """Wait until an attempt can succeed; False when it could not for so long."""
        assert self._ready is not None
        try:
            async with asyncio.timeout(timeout):
                await self._ready()
        except TimeoutError:
            return False
        return True

    def _warn(self, text: str, wait: float, *, now: float) -> None:
        logger.log(
            logging.WARNING if self._failures.due(now=now) else logging.DEBUG,
            "could not join the %s pool, next try in %.1f s: %s",
            self._pool,
            wait,
            text.rstrip(),  # Consul's list of errors ends with empty lines.
        )


class Rejoin:
    """Bring back the datacenters that we know of and have no living server of in the WAN pool.

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
        self._known, self._present, self._join = known, present, join
        self._clock = asyncio.get_running_loop()
        self._core = Rejoining(missing=self._missing, rng=rng, now=self._clock.time())
        self._news = asyncio.Event()

    def wake(self) -> None:
        """A datacenter or a way to it may have become known, or lost."""
        self._core.wake(now=self._clock.time())
        self._news.set()

    async def run(self) -> None:
        """Rejoin until cancelled."""
        scope = TaskScope()
        try:
            while True:
                self._core.handle_timer(now=self._clock.time())
                for output in self._core.take_outputs():
                    scope.spawn(self._bring_back(output.dc))
                await pause(self._news, self._core.next_timer() - self._clock.time())
        finally:
            await scope.close()

    def _missing(self) -> set[str]:
        return set(self._known()) - set(self._present())

    async def _bring_back(self, dc: str) -> None:
        try:
            await self._join(dc)
            logger.info("rejoined datacenter %s", dc, extra={"dc": dc})
        except (IsthmusError, OSError) as error:
            logger.debug("could not rejoin datacenter %s: %s", dc, error, extra={"dc": dc})
        except BaseException:
            self._core.forget(dc)
            raise
        self._core.tried(dc, now=self._clock.time())
        self._news.set()


class Reunion:
    """Try the servers of our datacenter that the LAN pool holds for failed, again and again.

    One that was cut off is then a member soon after the network is back.

    Args:
        failed: Join addresses (``name/host:port``) of those servers, as of now.
        join: Attempts one; raises when it was not reached.
    """

    def __init__(
        self,
        *,
        failed: Callable[[], Collection[str]],
        join: Callable[[Sequence[str]], Awaitable[int]],
    ) -> None:
        self._failed, self._join = failed, join
        self._trying: set[str] = set()

    async def run(self) -> None:
        """Try until cancelled; each server has one attempt at a time."""
        scope = TaskScope()
        try:
            while True:
                await asyncio.sleep(REUNION_INTERVAL)
                for address in sorted(set(self._failed()) - self._trying):
                    self._trying.add(address)
                    scope.spawn(self._try(address))
        finally:
            await scope.close()

    async def _try(self, address: str) -> None:
        try:
            await self._join([address])
            logger.info("reached a server again that had failed: %s", address)
        except (IsthmusError, OSError) as error:
            logger.debug("a failed server is still out of reach: %s", error)
        finally:
            self._trying.discard(address)


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
