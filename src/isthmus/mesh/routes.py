"""The route table of a mesh gateway: TLS server name → who may be dialled for it.

Computed by the agent out of plain facts, sent to the gateway process as JSON, looked up there
for every connection. The same table is what Envoy would be told as filter chains.

Source: protocol/mesh.md §2, §3.5, §9; protocol/federation.md §18.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from isthmus.errors import MalformedPacket
from isthmus.names import host_port, server_name

TABLE_VERSION: Final = 1
"""Version of the JSON form. A reader refuses a table of a higher version."""

WEIGHT_MAX: Final = 128
"""Consul clamps the weight of an endpoint to this."""

_ANY: Final = "*"
_INTERNAL: Final = ".internal."


class RouteKind(enum.StrEnum):
    """What a route leads to; counters are grouped by it."""

    LOCAL_SERVER = "local-server"
    """One named server of our own datacenter."""
    LOCAL_SERVERS = "local-servers"
    """Any server of our own datacenter."""
    REMOTE_SERVERS = "remote-servers"
    """Gateways of another datacenter, for its servers."""
    LOCAL_SERVICE = "local-service"
    """Instances of a service (or subset of one) in our own datacenter."""
    REMOTE_DATACENTER = "remote-datacenter"
    """Gateways of another datacenter, for its services."""


class Endpoint(msgspec.Struct, frozen=True):
    """An address that may be dialled.

    Attributes:
        host: IPv4 or IPv6 address, or a host name, which is resolved when it is dialled.
        port: TCP port.
        weight: Share of the connections, 1 to `WEIGHT_MAX`, relative to the others of its route.
    """

    host: str
    port: int
    weight: int = 1

    def __str__(self) -> str:
        return host_port(self.host, self.port)


class Route(msgspec.Struct, frozen=True):
    """Where connections for one pattern of server names go.

    Attributes:
        kind: Class of the route.
        dc: Datacenter that the name is in.
        endpoints: Candidates, equal but for their weights; empty when the name is known and
            nobody serves it now.
    """

    kind: RouteKind
    dc: str
    endpoints: tuple[Endpoint, ...]


class RouteTable(msgspec.Struct, frozen=True):
    """All routes of a gateway.

    Attributes:
        routes: By pattern, all in lower case. A pattern is a server name; it may begin with
            ``*.`` (one or more labels) and end in ``.internal.*`` (any trust domain).
        hash: Content hash, 16 hex digits, by which a reader asks for anything newer.
        version: Of the JSON form.
    """

    routes: dict[str, Route] = {}
    hash: str = ""
    version: int = TABLE_VERSION

    def lookup(self, sni: str) -> tuple[str, Route] | None:
        """Find the route of a server name: the exact name, else the longest ``*.suffix``.

        Args:
            sni: As the client sent it, in any case.

        Returns:
            Pattern and route; None when no pattern matches.
        """
        name = sni.lower()
        if _ANY in name:
            return None
        found = self._find(name)
        if found is None and _INTERNAL in name:
            inside, _, _ = name.rpartition(_INTERNAL)
            found = self._find(f"{inside}{_INTERNAL}{_ANY}")
        return found

    def _find(self, name: str) -> tuple[str, Route] | None:
        route = self.routes.get(name)
        if route is not None:
            return name, route
        suffix = name
        while True:
            _, dot, suffix = suffix.partition(".")
            if not dot:
                return None
            pattern = f"{_ANY}.{suffix}"
            route = self.routes.get(pattern)
            if route is not None:
                return pattern, route

    def to_json(self) -> bytes:
        """JSON form: ``{"routes":{pattern:{"kind","dc","endpoints":[…]}},"hash","version"}``."""
        return _encoder.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> "RouteTable":
        """Read the JSON form; unknown keys are ignored.

        Raises:
            MalformedPacket: No JSON, not of this form, or of a newer version.
        """
        try:
            table = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedPacket(f"route table: {error}") from error
        if table.version > TABLE_VERSION:
            raise MalformedPacket(
                f"route table of version {table.version}, known up to {TABLE_VERSION}"
            )
        return table


_encoder: Final = msgspec.json.Encoder(order="deterministic")
_decoder: Final = msgspec.json.Decoder(RouteTable)


class LocalServer(msgspec.Struct, frozen=True):
    """A server of our own datacenter.

    Attributes:
        node: LAN node name.
        host: LAN address.
        port: Server RPC port.
    """

    node: str
    host: str
    port: int


class GatewayFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a route table is computed from.

    Attributes:
        dc: Datacenter of the gateway.
        domain: DNS domain of the agents.
        trust_domain: ``<cluster uuid>.consul``; None while unknown: then service routes match
            any trust domain.
        exposes_servers: The gateway carries ``consul-wan-federation``: it serves servers' names.
        servers: Own servers.
        gateways: Gateways of every other known datacenter (WAN addresses), possibly none.
        server_gateways: The same for the gateways that expose servers; a datacenter that is
            missing here uses those of `gateways`.
        services: Instances that speak the mesh's TLS (LAN addresses), by ``<service>`` or
            ``<subset>.<service>``.
    """

    dc: str
    domain: str = "consul"
    trust_domain: str | None = None
    exposes_servers: bool = False
    servers: tuple[LocalServer, ...] = ()
    gateways: Mapping[str, tuple[Endpoint, ...]] = {}
    server_gateways: Mapping[str, tuple[Endpoint, ...]] = {}
    services: Mapping[str, tuple[Endpoint, ...]] = {}


def route_table(facts: GatewayFacts) -> RouteTable:
    """Compute the route table; equal facts give an equal table with an equal hash.

    Endpoints without a host or a port are left out, weights are clamped, an address given twice
    counts once. Should two facts claim one name, servers come before services and our own
    datacenter before others.
    """
    import hashlib  # Loads OpenSSL, which the gateway process, a mere reader, can do without.

    routes: dict[str, Route] = {}
    for pattern, route in (*_server_routes(facts), *_service_routes(facts)):
        routes.setdefault(pattern.lower(), route)
    content = _encoder.encode(routes)
    return RouteTable(routes, hashlib.blake2b(content, digest_size=8).hexdigest())


def _server_routes(facts: GatewayFacts) -> Iterator[tuple[str, Route]]:
    if not facts.exposes_servers:
        return
    everyone = []
    for server in facts.servers:
        endpoint = Endpoint(server.host, server.port)
        everyone.append(endpoint)
        name = server_name(facts.dc, facts.domain, server.node)
        yield name, Route(RouteKind.LOCAL_SERVER, facts.dc, _usable([endpoint]))
    yield (
        server_name(facts.dc, facts.domain),
        Route(RouteKind.LOCAL_SERVERS, facts.dc, _usable(everyone)),
    )
    for dc in sorted({*facts.gateways, *facts.server_gateways} - {facts.dc}):
        gateways = facts.server_gateways.get(dc, facts.gateways.get(dc, ()))
        route = Route(RouteKind.REMOTE_SERVERS, dc, _usable(gateways))
        name = server_name(dc, facts.domain)
        yield name, route
        yield f"*.{name}", route


def _service_routes(facts: GatewayFacts) -> Iterator[tuple[str, Route]]:
    trusted = (facts.trust_domain or _ANY).rstrip(".")
    for name, instances in sorted(facts.services.items()):
        pattern = f"{name}.default.{facts.dc}.internal.{trusted}"
        yield pattern, Route(RouteKind.LOCAL_SERVICE, facts.dc, _usable(instances))
    for dc, gateways in sorted(facts.gateways.items()):
        if dc != facts.dc:
            pattern = f"*.{dc}.internal.{trusted}"
            yield pattern, Route(RouteKind.REMOTE_DATACENTER, dc, _usable(gateways))


def _usable(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Endpoints that can be dialled: complete, each address once, weights within bounds."""
    by_address: dict[tuple[str, int], Endpoint] = {}
    for endpoint in endpoints:
        if endpoint.host and 0 < endpoint.port < 65536:
            weight = min(max(endpoint.weight, 1), WEIGHT_MAX)
            by_address.setdefault(
                (endpoint.host, endpoint.port), Endpoint(endpoint.host, endpoint.port, weight)
            )
    return tuple(by_address.values())
