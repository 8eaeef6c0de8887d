"""Which endpoint to try first: turns by weight, and endpoints ejected after repeated failures."""

from collections.abc import Collection
from dataclasses import dataclass

from isthmus.gateway.config import GatewayConfig
from isthmus.mesh.routes import Endpoint

ANSWER_SECONDS_MAX = 1.0
"""What took longer hung, and is no measure of patience."""


@dataclass(slots=True)
class _Faults:
    in_a_row: int = 0
    ejections: int = 0
    ejected_until: float = 0.0
    doubted_until: float = 0.0


class EndpointHealth:
    """Memory of what dialling each endpoint led to.

    An endpoint that failed `eject_failures` times in a row is ejected for `eject_time`. When it
    comes back a single failure ejects it again, for twice as long; a success clears its record.
    Ejected endpoints are tried last instead of never: so never are all of them out. So are, for
    `doubt_time`, endpoints that were overtaken: one that hangs costs the dials after the first
    nothing.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._faults: dict[tuple[str, int], _Faults] = {}
        self._answer_seconds: dict[tuple[str, int], float] = {}
        self._turn = 0

    def order(self, endpoints: tuple[Endpoint, ...], *, now: float) -> list[Endpoint]:
        """Order in which to try the endpoints of a route.

        The first one takes turns, each in proportion to its weight; the others follow it in
        their given order, those ejected last.
        """
        if len(endpoints) < 2:
            return list(endpoints)
        first = self._first(endpoints)
        ordered = [*endpoints[first:], *endpoints[:first]]
        if self._faults:
            ordered.sort(key=lambda endpoint: self._is_last_resort(endpoint, now=now))
        return ordered

    def _first(self, endpoints: tuple[Endpoint, ...]) -> int:
        self._turn += 1
        ticket = self._turn % sum([endpoint.weight for endpoint in endpoints])
        for position, endpoint in enumerate(endpoints):
            ticket -= endpoint.weight
            if ticket < 0:
                return position
        raise AssertionError("a ticket below the sum of the weights")

    def _is_last_resort(self, endpoint: Endpoint, *, now: float) -> bool:
        faults = self._faults.get((endpoint.host, endpoint.port))
        return faults is not None and now < max(faults.ejected_until, faults.doubted_until)

    def answer_seconds(self, endpoint: Endpoint) -> float:
        """How long the endpoint took to answer last; 0 while unknown."""
        return self._answer_seconds.get((endpoint.host, endpoint.port), 0.0)

    def is_ejected(self, endpoint: Endpoint, *, now: float) -> bool:
        """Whether the endpoint is only a last resort now."""
        faults = self._faults.get((endpoint.host, endpoint.port))
        return faults is not None and now < faults.ejected_until

    def worked(self, endpoint: Endpoint, *, seconds: float = 0.0) -> None:
        """Note that the endpoint answered, so long after it was connected."""
        self._answer_seconds[endpoint.host, endpoint.port] = min(seconds, ANSWER_SECONDS_MAX)
        if self._faults:
            self._faults.pop((endpoint.host, endpoint.port), None)

    def overtaken(self, endpoint: Endpoint, *, now: float) -> None:
        """Note that another endpoint, asked later, answered before this one."""
        self.failed(endpoint, now=now)
        faults = self._faults[endpoint.host, endpoint.port]
        faults.doubted_until = now + self._config.doubt_time

    def failed(self, endpoint: Endpoint, *, now: float) -> None:
        """Note that the endpoint could not be reached, or did not answer in time."""
        faults = self._faults.setdefault((endpoint.host, endpoint.port), _Faults())
        faults.in_a_row += 1
        if faults.in_a_row >= self._config.eject_failures and now >= faults.ejected_until:
            time_out = self._config.eject_time * 2**faults.ejections
            faults.ejected_until = now + min(time_out, self._config.eject_time_max)
            faults.ejections = min(faults.ejections + 1, 16)  # 2**16 is far beyond the bound.

    def keep_only(self, endpoints: Collection[Endpoint]) -> None:
        """Forget endpoints that no route names any more."""
        known = {(endpoint.host, endpoint.port) for endpoint in endpoints}
        for memory in (self._faults, self._answer_seconds):
            for address in memory.keys() - known:
                del memory[address]
