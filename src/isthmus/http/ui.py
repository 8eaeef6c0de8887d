"""``/v1/internal/ui``: overviews for the web interface and for tools.

Source: protocol/http-api.md §6.10.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from isthmus.errors import InvalidRequest
from isthmus.http.context import Context
from isthmus.http.options import read_options
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Route
from isthmus.model.catalog import (
    CRITICAL,
    PASSING,
    WARNING,
    CheckServiceNode,
    IndexedNodeDump,
    IndexedNodesWithGateways,
    NodeInfo,
    NodeRequest,
    NodeService,
    ServiceDumpRequest,
)
from isthmus.model.query import DatacenterRequest
from isthmus.model.record import Record

_PROXY: Final = "connect-proxy"
_TRANSPARENT: Final = "transparent"
_EXTERNAL_SOURCE: Final = "external-source"
_NO_METRICS: Final = "Metrics proxy is not enabled"


class GatewayConfig(Record, frozen=True, kw_only=True):
    """How services are bound to a gateway: not at all, as no config entry binds them yet."""


class ServiceSummary(Record, frozen=True, kw_only=True):
    """All instances of a service at a glance.

    Attributes:
        checks_passing, checks_warning, checks_critical: Checks of its instances, of their nodes
            and of the proxies before it, each counted once.
        transparent_proxy: Whether all proxies before it take its traffic unasked.
    """

    json_omit_empty = frozenset({"kind"})

    kind: str = ""
    name: str = ""
    datacenter: str = ""
    tags: tuple[str, ...] | None = None
    nodes: tuple[str, ...] | None = None
    external_sources: tuple[str, ...] | None = None
    instance_count: int = 0
    checks_passing: int = 0
    checks_warning: int = 0
    checks_critical: int = 0
    gateway_config: GatewayConfig = GatewayConfig()
    transparent_proxy: bool = False
    connected_with_proxy: bool = False
    connected_with_gateway: bool = False


class _Tally:
    """What is known of a service while its instances are counted."""

    def __init__(self) -> None:
        self.kind = self.datacenter = ""
        self.tags: set[str] = set()
        self.sources: dict[str, None] = {}
        self.nodes: list[str] = []
        self.checks: dict[tuple[str, str], str] = {}
        self.modes: list[str] = []

    def add_checks(self, instance: CheckServiceNode) -> None:
        """Count the checks of an instance and of its node."""
        for check in instance.checks or ():
            self.checks[check.node, check.check_id] = check.status

    def add(self, instance: CheckServiceNode, service: NodeService) -> None:
        """Count an instance."""
        if instance.node is not None:
            self.nodes.append(instance.node.node)
            self.datacenter = instance.node.datacenter
        self.kind = service.kind
        self.tags.update(service.tags or ())
        if source := (service.meta or {}).get(_EXTERNAL_SOURCE):
            self.sources[source] = None
        self.add_checks(instance)

    def summary(self, name: str) -> ServiceSummary:
        """What it comes to."""
        states = list(self.checks.values())
        return ServiceSummary(
            kind=self.kind,
            name=name,
            datacenter=self.datacenter,
            tags=tuple(sorted(self.tags)) or None,
            nodes=tuple(sorted(self.nodes)) or None,
            external_sources=tuple(self.sources) or None,
            instance_count=len(self.nodes),
            checks_passing=states.count(PASSING),
            checks_warning=states.count(WARNING),
            checks_critical=states.count(CRITICAL),
            transparent_proxy=bool(self.modes) and set(self.modes) == {_TRANSPARENT},
            connected_with_proxy=bool(self.modes),
        )


def summarize(instances: Iterable[CheckServiceNode]) -> list[ServiceSummary]:
    """One summary for each service, by name; also for one that only its proxies tell of."""
    tallies: dict[str, _Tally] = {}
    for instance in instances:
        service = instance.service
        if service is None:
            continue
        tallies.setdefault(service.service, _Tally()).add(instance, service)
        if service.kind == _PROXY and service.proxy is not None:
            behind = tallies.setdefault(service.proxy.destination_service_name, _Tally())
            behind.add_checks(instance)
            behind.modes.append(service.proxy.mode)
    return [tallies[name].summary(name) for name in sorted(tallies)]


async def services(context: Context, request: Request) -> Response:
    """All services at a glance."""
    options = read_options(request, context.local.datacenter, namespaced=True)
    reply = await context.call(
        "Internal.ServiceDump",
        ServiceDumpRequest(**options.fields()),  # type: ignore[arg-type]
        IndexedNodesWithGateways,
    )
    return context.json(request, summarize(reply.nodes or ()), meta=reply)


async def nodes(context: Context, request: Request) -> Response:
    """All nodes with their services and checks."""
    options = read_options(request, context.local.datacenter, namespaced=True)
    reply = await context.call(
        "Internal.NodeDump",
        DatacenterRequest(**options.fields()),  # type: ignore[arg-type]
        IndexedNodeDump,
    )
    return context.json(request, [_listed(one) for one in reply.dump or ()], meta=reply)


async def node(context: Context, request: Request) -> Response:
    """One node with its services and checks."""
    options = read_options(request, context.local.datacenter, namespaced=True)
    if not request.argument:
        raise InvalidRequest("Missing node name")
    reply = await context.call(
        "Internal.NodeInfo",
        NodeRequest(**options.fields(), node=request.argument),  # type: ignore[arg-type]
        IndexedNodeDump,
    )
    if not reply.dump:
        return Response(404)
    return context.json(request, _listed(reply.dump[0]), meta=reply)


def _listed(one: NodeInfo) -> NodeInfo:
    """The node with lists in any case."""
    return msgspec.structs.replace(one, services=one.services or (), checks=one.checks or ())


async def metrics_proxy(_context: Context, _request: Request) -> Response:
    """Refuse to fetch metrics for a browser: nothing is configured that it could fetch."""
    return Response.text(404, _NO_METRICS)


ROUTES: Final = (
    Route("/v1/internal/ui/services", {"GET": services}, tells_state=True),
    Route("/v1/internal/ui/nodes", {"GET": nodes}, tells_state=True),
    Route("/v1/internal/ui/node/", {"GET": node}, tells_state=True),
    Route("/v1/internal/ui/metrics-proxy/", {"GET": metrics_proxy}),
)
