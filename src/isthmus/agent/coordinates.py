"""What the agent does with the pools' coordinates: tells the servers its own, sorts by the WAN's.

Source: protocol/gossip.md §14.5.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Final, Protocol

from isthmus.errors import EngineError, RequestError, Unavailable
from isthmus.federation.router import Router
from isthmus.model.coordinate import Coord, CoordinateUpdateRequest, DatacenterMap
from isthmus.model.record import Record

logger = logging.getLogger(__name__)

UPDATES_RATE_MAX: Final = 64.0
"""Reports per second that all agents of a datacenter make together; Consul's number."""
INTERVAL_MIN: Final = 15.0
"""Seconds between two reports of one agent, at least; Consul's number."""
_SETTLING_TIME: Final = 1.0
"""Seconds before the first report: by then the catalog has our node."""


class Pool(Protocol):
    """What is needed of a gossip pool."""

    def members(self) -> tuple[object, ...]:
        """Members now, ours included."""

    def coordinate(self) -> Coord:
        """Where we lie."""

    def coordinates(self) -> Mapping[str, Coord]:
        """Where the members lie, as far as that is known."""


class CoordinateReports:
    """Tells the servers where our node lies, again and again.

    The larger the pool, the rarer each agent reports, and no two at the same moments.

    Args:
        dc: Our datacenter.
        node: Our node.
        pool: The LAN pool.
        rpc: Leads to a server.
        rng: Source of jitter.
    """

    def __init__(
        self,
        *,
        dc: str,
        node: str,
        pool: Pool,
        rpc: Callable[[str, Record], Awaitable[object]],
        rng: Random,
    ) -> None:
        self._dc, self._node, self._pool, self._rpc, self._rng = dc, node, pool, rpc, rng

    async def run(self) -> None:
        """Report for ever."""
        # A whole datacenter may have been started at once: even so the rate is kept.
        await asyncio.sleep(_SETTLING_TIME + self._rng.uniform(0, self._share))
        while True:
            interval = max(INTERVAL_MIN, self._share)
            wait = interval + self._rng.uniform(0, interval)
            request = CoordinateUpdateRequest(
                datacenter=self._dc, node=self._node, coord=self._pool.coordinate()
            )
            try:
                await self._rpc("Coordinate.Update", request)
            except (RequestError, Unavailable, EngineError) as error:
                logger.warning(
                    "could not tell the servers our coordinate, next try in %.0f s: %s", wait, error
                )
            await asyncio.sleep(wait)

    @property
    def _share(self) -> float:
        """Seconds that one round of all agents takes at the highest rate."""
        return len(self._pool.members()) / UPDATES_RATE_MAX


class WanCoordinates:
    """Where the servers of all datacenters lie (`server.endpoints.context.WanView`).

    Args:
        router: Knows the servers.
        dc: Our datacenter.
        pool: The WAN pool; None while there is none.
    """

    def __init__(self, router: Router, *, dc: str, pool: Callable[[], Pool | None]) -> None:
        self._router, self._dc, self._pool = router, dc, pool

    def datacenters(self) -> tuple[str, ...]:
        """Datacenters that have servers, nearest first."""
        pool = self._pool()
        if pool is None:
            return self._router.datacenters()
        return self._router.datacenters_by_distance(
            self._dc, origin=pool.coordinate(), coordinates=pool.coordinates()
        )

    def maps(self) -> tuple[DatacenterMap, ...]:
        """Coordinates of the servers of each datacenter."""
        pool = self._pool()
        return self._router.datacenter_maps(pool.coordinates() if pool is not None else {})
