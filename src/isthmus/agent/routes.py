"""Route tables for the mesh gateways that are registered with this agent.

Computed from what our own datacenter knows, so that a gateway's routes are as fresh as that and
never wait for another datacenter. Source: protocol/mesh.md §3, protocol/federation.md §17, §18.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from isthmus.agent.tables import Known, Reading, Tables
from isthmus.mesh.gateways import LAN, endpoints, remote_gateways
from isthmus.mesh.routes import Endpoint, GatewayFacts, LocalServer, RouteTable, route_table
from isthmus.model.address import lan_address
from isthmus.model.catalog import CheckServiceNode, NodeService
from isthmus.names import MESH_GATEWAY_KIND, WAN_FEDERATION_META

WAIT_MAX: Final = 600.0
WAIT_MIN: Final = 5.0
"""Seconds in which a client agent may learn what it has not asked for before."""


class GatewayRoutes:
    """Answers gateways that ask for their routes.

    Args:
        dc: Our datacenter.
        domain: DNS domain of the federation.
        trust_domain: ``<cluster uuid>.consul``; None while there is no certificate authority.
        tables: What is known of servers, proxies and other datacenters.
        services: Services registered with this agent, by id.
    """

    def __init__(
        self,
        *,
        dc: str,
        domain: str,
        trust_domain: str | None,
        tables: Tables,
        services: Callable[[], Mapping[str, NodeService]],
    ) -> None:
        self._dc, self._domain, self._trust_domain = dc, domain, trust_domain
        self._tables, self._services = tables, services
        self._waiting: set[asyncio.Future[None]] = set()

    async def table(self, service_id: str, known_hash: str, wait: float) -> RouteTable | None:
        """Routes of a gateway, as soon as they differ from `known_hash` or `wait` is over.

        Returns:
            None when no mesh gateway of that id is registered here.

        Raises:
            Unavailable: We know of no server yet, or stop.
        """
        deadline = asyncio.get_running_loop().time() + min(wait, WAIT_MAX)
        while True:
            gateway = self._services().get(service_id)
            if gateway is None or gateway.kind != MESH_GATEWAY_KIND:
                return None
            left = deadline - asyncio.get_running_loop().time()
            known = await self._tables.read(max(left, WAIT_MIN))
            table = route_table(self._facts(gateway, known.value))
            left = deadline - asyncio.get_running_loop().time()
            if table.hash != known_hash or left <= 0:
                return table
            await self._wait(known, left)

    def registrations_changed(self) -> None:
        """A local service was registered or removed: those who wait look again."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self, known: Reading, seconds: float) -> None:
        """Until the tables or our registrations change, at most so long."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            async with asyncio.TaskGroup() as group:
                # It looks anew: something may change before this task has its first turn.
                watching = group.create_task(self._tables.changed(known, seconds))
                either: set[asyncio.Future[Any]] = {watching, waiter}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                watching.cancel()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._waiting.discard(waiter)

    def _facts(self, gateway: NodeService, known: Known) -> GatewayFacts:
        others = {
            state.datacenter: state.mesh_gateways or ()
            for state in known.states
            if state.datacenter != self._dc
        }
        return GatewayFacts(
            dc=self._dc,
            domain=self._domain,
            trust_domain=self._trust_domain,
            exposes_servers=(gateway.meta or {}).get(WAN_FEDERATION_META) == "1",
            servers=tuple(_server(instance) for instance in known.servers),
            gateways={dc: remote_gateways((), found) for dc, found in others.items()},
            server_gateways={
                dc: remote_gateways((), found, exposing_only=True) for dc, found in others.items()
            },
            services=_by_destination(known.proxies),
        )


def _server(instance: CheckServiceNode) -> LocalServer:
    host, port = lan_address(instance)
    return LocalServer(instance.node.node if instance.node is not None else "", host, port)


def _by_destination(proxies: tuple[CheckServiceNode, ...]) -> dict[str, tuple[Endpoint, ...]]:
    grouped: dict[str, list[CheckServiceNode]] = {}
    for proxy in proxies:
        if proxy.service is not None and (name := proxy.service.proxy.destination_service_name):
            grouped.setdefault(name, []).append(proxy)
    return {name: endpoints(found, LAN) for name, found in grouped.items()}
