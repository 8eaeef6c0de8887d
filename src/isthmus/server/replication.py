"""One table of the primary, followed by a secondary's leader.

What is done and when, a `federation.replication.Replicator` decides; here it gets the calls to
other datacenters and our own store. Source: protocol/federation.md §10, protocol/rpc.md §8.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from isthmus.errors import EngineError, RequestError, Unavailable
from isthmus.federation.replication import (
    HEARSAY_TIMEOUT,
    AskForGateways,
    FetchRecords,
    FollowRecords,
    ReplicationOutput,
    Replicator,
    RoundDone,
    RoundFailed,
)
from isthmus.model.record import Record
from isthmus.model.reminders import Reminders

R = TypeVar("R", bound=Record)

logger = logging.getLogger(__name__)

REPEATED_WARNING_INTERVAL: Final = 60.0
TRANSIENT: Final = (RequestError, Unavailable, EngineError)
"""What a duty survives: after an `EngineError` either the store recovers or we lead no more."""


class Replication(Generic[R]):
    """Carries out what a replicator wants.

    Args:
        what: What the table holds, in the plural, for the log.
        replicator: Decides.
        primary_dc: The primary datacenter.
        fetch: Reads the records of a datacenter, as soon as their index is greater than one.
        follow: Makes our store equal to records of the primary; returns how many it wrote.
        told: Called when the replicator's locator was told something.
    """

    def __init__(
        self,
        what: str,
        replicator: Replicator[R],
        *,
        primary_dc: str,
        fetch: Callable[[str, int], Awaitable[tuple[int, tuple[R, ...]]]],
        follow: Callable[[tuple[R, ...]], Awaitable[int]],
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._what, self.replicator, self._primary_dc = what, replicator, primary_dc
        self._fetch_from, self._follow_records, self._told = fetch, follow, told
        self._clock = asyncio.get_running_loop()
        self._failures = Reminders(REPEATED_WARNING_INTERVAL)

    async def carry_out(self, output: ReplicationOutput[R]) -> None:
        """Do one thing; an action is answered before this returns."""
        match output:
            case FetchRecords(min_index):
                await self._fetch(min_index)
            case FollowRecords(records):
                await self._follow(records)
            case AskForGateways(dc):
                await self._ask(dc)
            case RoundFailed(text, wait):
                self._warn_of_failed_round(text, wait)
            case RoundDone(write_count, went_back):
                self._failures.forget()
                if write_count:
                    logger.info("replicated %d %s from the primary", write_count, self._what)
                if went_back:
                    logger.warning(
                        "the primary's index of %s went back: reading all of them",
                        self._what,
                        extra={"dc": self._primary_dc},
                    )

    async def _fetch(self, min_index: int) -> None:
        try:
            index, records = await self._fetch_from(self._primary_dc, min_index)
        except TRANSIENT as error:
            self.replicator.fetch_failed(str(error), now=self._clock.time())
        else:
            self.replicator.fetched(records, index, now=self._clock.time())
        self._told()

    async def _follow(self, records: tuple[R, ...]) -> None:
        try:
            write_count = await self._follow_records(records)
        except TRANSIENT as error:
            self.replicator.follow_failed(str(error), now=self._clock.time())
        else:
            self.replicator.followed(write_count, now=self._clock.time())

    async def _ask(self, dc: str) -> None:
        """While cut off from the primary: another secondary may know its gateways of today."""
        try:
            async with asyncio.timeout(HEARSAY_TIMEOUT):
                _, records = await self._fetch_from(dc, 0)
        except (RequestError, Unavailable, TimeoutError) as error:
            logger.debug("could not ask datacenter %s for the primary's gateways: %s", dc, error)
            self.replicator.not_told(now=self._clock.time())
        else:
            self.replicator.told(records, now=self._clock.time())
            self._told()

    def _warn_of_failed_round(self, text: str, wait: float) -> None:
        logger.log(
            logging.WARNING if self._failures.due(now=self._clock.time()) else logging.DEBUG,
            "replication of %s failed, next try in %.0f s: %s",
            self._what,
            wait,
            text,
            extra={"dc": self._primary_dc},
        )
