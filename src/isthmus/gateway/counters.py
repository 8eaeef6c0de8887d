"""What the gateway counts, and a copy of it for tests and logs."""

from dataclasses import dataclass, field
from typing import Final

from isthmus.mesh.routes import RouteKind

REFUSALS: Final = (
    "unknown_name",
    "no_name",
    "not_tls",
    "hello_too_long",
    "hello_timeout",
    "hello_evicted",
    "hello_closed",
    "connections_max",
)
"""Why a connection ended before it had a route; the names of `Counters` fields."""


@dataclass(slots=True)
class RouteCounters:
    """Of one route. Bytes include the ClientHello."""

    kind: RouteKind
    connections: int = 0
    failures: int = 0
    """Connections for which no endpoint could be reached."""
    open: int = 0
    bytes_up: int = 0
    """From clients to endpoints."""
    bytes_down: int = 0


@dataclass(slots=True)
class Counters:
    """Of the whole gateway since it started.

    Attributes:
        routes: By pattern.
        open: Connections now open, including those whose hello is awaited.
        accepted: Connections accepted.
        unknown_name: Refused: no route for the server name.
        no_name: Refused: TLS without a server name.
        not_tls: Refused: no TLS at all, or a malformed ClientHello.
        hello_too_long, hello_timeout: Refused for the hello's size, or for lateness.
        hello_evicted: Refused as the oldest of too many whose hello was awaited.
        hello_closed: The client left before its hello was complete, as TCP health checks do.
        connections_max: Refused because too many were open.
        attempts: Connections to endpoints attempted.
        attempts_failed: Of these: refused, timed out or lost before an answer.
        accept_failures: `accept` failed for want of descriptors or memory.
    """

    routes: dict[str, RouteCounters] = field(default_factory=dict)
    open: int = 0
    accepted: int = 0
    unknown_name: int = 0
    no_name: int = 0
    not_tls: int = 0
    hello_too_long: int = 0
    hello_timeout: int = 0
    hello_evicted: int = 0
    hello_closed: int = 0
    connections_max: int = 0
    attempts: int = 0
    attempts_failed: int = 0
    accept_failures: int = 0

    def of_route(self, pattern: str, kind: RouteKind) -> RouteCounters:
        """Counters of a route, made at its first connection."""
        counters = self.routes.get(pattern)
        if counters is None:
            counters = self.routes[pattern] = RouteCounters(kind)
        return counters
