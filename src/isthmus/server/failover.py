"""Failover of prepared queries: which other datacenters are asked, in which order.

Source: protocol/http-api.md §6.5. Better than Consul: a datacenter that does not answer costs one
dial's time, once; while it cools down the others are asked first, and it itself only when none of
them has what was asked for.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import msgspec

from isthmus.errors import IsthmusError, Unavailable
from isthmus.federation.cooling import Cooling
from isthmus.model.methods import METHODS
from isthmus.model.prepared_query import (
    PreparedQuery,
    PreparedQueryExecuteRemoteRequest,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    QueryDatacenterOptions,
)

METHOD: Final = "PreparedQuery.ExecuteRemote"

_logger = logging.getLogger(__name__)


class Remote(Protocol):
    """Carries calls to servers of other datacenters."""

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        """Have a server of `dc` answer; raises an `IsthmusError` when none does."""


class Failover:
    """Asks other datacenters what a prepared query did not find in ours.

    Args:
        dc: Our datacenter.
        datacenters: Known datacenters, nearest first.
        remote: Carries the calls; None when there is no way to any other datacenter.
    """

    def __init__(
        self, dc: str, *, datacenters: Callable[[], tuple[str, ...]], remote: Remote | None
    ) -> None:
        self._dc, self._datacenters, self._remote = dc, datacenters, remote
        self._cooling = Cooling()

    async def ask(
        self,
        query: PreparedQuery,
        request: PreparedQueryExecuteRequest,
        found: PreparedQueryExecuteResponse,
    ) -> PreparedQueryExecuteResponse:
        """Ask one datacenter after the other until one has instances.

        Args:
            query: Ready to be executed.
            request: What its caller wants; its token, consistency and limit go along.
            found: What there is in our datacenter: no instance.

        Returns:
            The reply of the first datacenter that has any; else `found`. `failovers` counts the
            datacenters up to that one, those included that did not answer.
        """
        candidates = order(query.service.failover, self._datacenters(), own=self._dc)
        for number, dc in self._turns(candidates):
            reply = await self._ask(dc, query, request)
            if reply is not None and reply.nodes:
                return msgspec.structs.replace(reply, failovers=number)
        return msgspec.structs.replace(found, failovers=len(candidates))

    def _turns(self, candidates: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        """Datacenters to ask, each with how many were passed up to it; those in doubt at last."""
        doubtful = []
        for number, dc in enumerate(candidates, 1):
            if self._is_doubtful(dc):
                doubtful.append(dc)
            else:
                yield number, dc
        for dc in doubtful:
            yield len(candidates), dc

    def _is_doubtful(self, dc: str) -> bool:
        now = asyncio.get_running_loop().time()
        return self._cooling.is_cooling(dc, now=now)

    async def _ask(
        self, dc: str, query: PreparedQuery, request: PreparedQueryExecuteRequest
    ) -> PreparedQueryExecuteResponse | None:
        if self._remote is None:
            return None
        remote = PreparedQueryExecuteRemoteRequest(
            datacenter=dc,
            query=query,
            limit=request.limit,
            connect=request.connect,
            token=request.token,
            allow_stale=request.allow_stale,
            require_consistent=request.require_consistent,
            max_stale_duration=request.max_stale_duration,
        )
        try:
            reply: PreparedQueryExecuteResponse = await self._remote.call(
                dc, METHOD, remote, METHODS[METHOD].reply
            )
        except IsthmusError as error:
            if isinstance(error, Unavailable):
                self._cooling.failed(dc, now=asyncio.get_running_loop().time())
            _logger.warning(
                "a prepared query could not be executed in another datacenter: %s",
                error,
                extra={"dc": dc, "service": query.service.service},
            )
            return None
        self._cooling.forget(dc)
        return reply


def order(failover: QueryDatacenterOptions, known: tuple[str, ...], *, own: str) -> tuple[str, ...]:
    """Datacenters to ask: the nearest, then those that are named, each once and only if known.

    Args:
        failover: What the query says.
        known: All datacenters, nearest first.
        own: The one that has been asked already.
    """
    others = [dc for dc in known if dc != own]
    named = [dc for dc in failover.datacenters or () if dc in others]
    return tuple(dict.fromkeys([*others[: max(0, failover.nearest_n)], *named]))
