"""A check that shows the state of another service, on this node or on another.

Source: protocol/http-api.md §6.3; Consul 1.10, agent/checks.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Final

import msgspec

from isthmus.agent.checks.result import Result
from isthmus.agent.local import LocalState
from isthmus.errors import EngineError, RequestError, Unavailable
from isthmus.federation.pacing import Backoff
from isthmus.model.agent import CheckDefinition
from isthmus.model.catalog import (
    CRITICAL,
    PASSING,
    WARNING,
    HealthCheck,
    IndexedHealthChecks,
    IndexedNodeServices,
    NodeRequest,
)
from isthmus.model.record import Record
from isthmus.units import Duration

logger = logging.getLogger(__name__)

LOOK_INTERVAL: Final = 60.0
"""Longest time between two looks, whoever says that something changed."""
_STALE_MAX: Final = 15.0
_RETRY_FIRST, _RETRY_LONGEST, _RETRY_JITTER = 1.0, 60.0, 0.2
_SILENT_FAILURES: Final = 1
"""A single failure to ask is not shown."""

Rpc = Callable[[str, Record], Awaitable[object]]
Report = Callable[[Result], None]


def judge(checks: Iterable[HealthCheck], *, service_id: str, node: str, exists: bool) -> Result:
    """State of a service that has these checks.

    Args:
        checks: Of its node, of whichever service.
        service_id: The service; empty for the node alone.
        node: Where it is; empty for here.
        exists: Whether it is registered there.
    """
    found = [check for check in checks if check.service_id in ("", service_id)]
    if not exists and not any(check.service_id == service_id for check in found):
        return Result(CRITICAL, f"Service {service_id} could not be found on node {node}")
    for status in (CRITICAL, WARNING):
        for check in found:
            if check.status == status:
                return Result(status, f'Aliased check "{check.name}" failing: {check.output}')
    return Result(PASSING, "All checks passing." if found else "No checks found.")


class LocalAlias:
    """Follows a service of this node.

    Args:
        definition: Names the service.
        local: Knows its checks.
        report: Takes the results.
    """

    def __init__(self, definition: CheckDefinition, local: LocalState, report: Report) -> None:
        self._definition, self._local, self._report = definition, local, report

    async def run(self) -> None:
        """Look at once and whenever something changes, until cancelled."""
        service_id, own = self._definition.alias_service, self._definition.check_id
        while True:
            checks = self._local.checks_of(service_id, with_node=True)
            result = judge(
                [check for check in checks if check.check_id != own],
                service_id=service_id,
                node="",
                exists=service_id in self._local.services,
            )
            self._report(result)
            await self._local.wait_for_checks(service_id, LOOK_INTERVAL)


class RemoteAlias:
    """Follows a service of another node, by blocking queries.

    Args:
        definition: Names node and service.
        dc: Our datacenter.
        rpc: Calls to the servers of our datacenter.
        token: Of the check.
        report: Takes the results.
        rng: Source of jitter.
    """

    def __init__(
        self,
        definition: CheckDefinition,
        *,
        dc: str,
        rpc: Rpc,
        token: str,
        report: Report,
        rng: Random,
    ) -> None:
        self._definition, self._rpc, self._report, self._rng = definition, rpc, report, rng
        self._request = NodeRequest(
            datacenter=dc,
            node=definition.alias_node,
            token=token,
            allow_stale=True,
            max_stale_duration=Duration.of(_STALE_MAX),
        )

    async def run(self) -> None:
        """Look at once and whenever something changes there, until cancelled."""
        backoff = Backoff(
            first=_RETRY_FIRST, longest=_RETRY_LONGEST, jitter=_RETRY_JITTER, rng=self._rng
        )
        index, failures = 0, 0
        while True:
            try:
                index, result = await self._look(index)
            except (RequestError, Unavailable, EngineError) as error:
                failures += 1
                if failures > _SILENT_FAILURES:
                    text = f"Failure checking aliased node or service: {error}"
                    self._report(Result(CRITICAL, text))
                await asyncio.sleep(backoff.failed())
                continue
            failures = 0
            backoff.reset()
            self._report(result)

    async def _look(self, index: int) -> tuple[int, Result]:
        """Wait until the checks of the node pass `index`, and judge them."""
        request = msgspec.structs.replace(
            self._request, min_query_index=index, max_query_time=Duration.of(LOOK_INTERVAL)
        )
        reply = await self._rpc("Health.NodeChecks", request)
        assert isinstance(reply, IndexedHealthChecks)
        checks, service_id = reply.health_checks or (), self._definition.alias_service
        exists = any(check.service_id == service_id for check in checks)
        if not exists:
            found = await self._rpc("Catalog.NodeServices", self._request)
            assert isinstance(found, IndexedNodeServices)
            services = found.node_services
            exists = services is not None and service_id in (services.services or {})
        result = judge(
            checks, service_id=service_id, node=self._definition.alias_node, exists=exists
        )
        return max(reply.index, 1), result
