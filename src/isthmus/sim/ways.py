"""Ways through gateways: which gateways a dial meets, where it ends, and how long that takes.

A dial's fate is decided when it begins: which hop refuses, hangs, or leads on. Its time is made of
the hops' median latencies, so that dials cost no chance and few events.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct

from isthmus.mesh.routes import Endpoint, RouteKind
from isthmus.net.wan import CANDIDATES_MAX, STAGGER
from isthmus.sim.datacenter import Datacenter
from isthmus.sim.gateways import CONFIG, Gateway
from isthmus.sim.network import Machine, Network
from isthmus.sim.world import Process, ProcessState

HANDSHAKE_TRIPS: Final = 2
"""Round trips of TCP and TLS 1.3 until both sides may send."""
HOPS_MAX: Final = 4
"""Gateways on one way; production ways have two."""
_REMOTE: Final = RouteKind.REMOTE_SERVERS  # Looking a name up in an enumeration takes long.
_RUNNING: Final = ProcessState.RUNNING


class Way(Struct, frozen=True):
    """A way to a server.

    Attributes:
        path: Machines, ours first, the server's last.
        gateways: Those on the path.
        tried: Addresses that did not lead there, tried before.
        address: The one that did.
        seconds: Until the connection can be used.
    """

    path: tuple[Machine, ...]
    gateways: tuple[Gateway, ...]
    tried: tuple[str, ...]
    address: str
    seconds: float


class NoWay(Struct, frozen=True):
    """There is none now.

    Attributes:
        tried: Addresses that did not lead there.
        seconds: Until that is clear.
        text: Why, in words.
        hangs: Nobody refused it: the dial runs into its time-out.
    """

    tried: tuple[str, ...]
    seconds: float
    text: str
    hangs: bool


class _Leg(Struct, frozen=True):
    """A gateway or server that was reached: what is behind it, and how long that took."""

    path: tuple[Machine, ...]
    gateways: tuple[Gateway, ...]
    seconds: float


class _Stop(Struct, frozen=True):
    """It was not reached, or did not lead on."""

    seconds: float
    text: str
    hangs: bool = False


class Ways:
    """Finds ways through the gateways that there are.

    Args:
        network: Says which links are cut, and how long they are.
        datacenters: All of them, by name.
        server_at: Process of the server on a machine's address; None: there is none.
        resolve: Addresses that a ``host:port`` with a host name stands for now; none for others.
    """

    def __init__(
        self,
        network: Network,
        datacenters: dict[str, Datacenter],
        server_at: Callable[[str], Process | None],
        resolve: Callable[[str], Sequence[str]],
    ) -> None:
        self._network, self._datacenters, self._server_at = network, datacenters, server_at
        self._resolve = resolve
        self._inside: dict[str, Gateway] = {}
        self._outside: dict[str, Gateway] = {}

    def place(self, gateway: Gateway) -> None:
        """A gateway listens at its addresses."""
        inside, outside = gateway.addresses
        self._inside[inside] = self._outside[outside] = gateway

    def remove(self, gateway: Gateway) -> None:
        """Nobody listens at a gateway's addresses any more."""
        inside, outside = gateway.addresses
        del self._inside[inside], self._outside[outside]

    def find(
        self, source: Machine, candidates: Sequence[str], *, dc: str, node: str, now: float
    ) -> Way | NoWay:
        """Dial server `node` of `dc` over the first of the candidates that leads there.

        As `net.wan.GatewayDialer` does it: the next candidate is tried at once after a refusal,
        and a little later beside one that hangs.

        Args:
            source: Machine of the server that dials.
            candidates: ``host:port`` of gateways, best first.
            dc: Datacenter of the server that is meant.
            node: Its node name; ``*`` for any.
            now: World's time.
        """
        waited, tried, texts, hangs = 0.0, list[str](), list[str](), False
        for address, place in islice(self._places(candidates), CANDIDATES_MAX):
            found = self._through(source, place, dc, node, now=now, hops=1)
            if isinstance(found, _Leg):
                return Way(
                    (source, *found.path),
                    found.gateways,
                    tuple(tried),
                    address,
                    waited + found.seconds,
                )
            tried.append(address)
            texts.append(f"{place}: {found.text}")
            hangs |= found.hangs
            waited += min(found.seconds, STAGGER)
        return NoWay(tuple(tried), waited, "; ".join(texts) or "no gateway is known", hangs)

    def _places(self, candidates: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Candidates, and what each stands for now."""
        for address in candidates:
            for place in self._resolve(address) or (address,):
                yield address, place

    def _through(
        self, source: Machine, address: str, dc: str, node: str, *, now: float, hops: int
    ) -> _Leg | _Stop:
        """Connect to a gateway and let it lead on."""
        gateway = self._listener(source, address)
        if gateway is None:
            return _Stop(STAGGER, "no such host answers", hangs=True)
        machine = gateway.process.machine
        entered = self._connect(source, machine, gateway.process)
        if isinstance(entered, _Stop):
            return entered
        host = gateway.host
        route = self._datacenters[host.dc].route(dc, node)
        if route is None or hops >= HOPS_MAX:
            return _Stop(entered, f"gateway {host.name} closed: no route to {dc}")
        waited, stop = entered, None
        remote = route.kind is _REMOTE
        for endpoint in gateway.order(route.endpoints, now=now):
            further = (
                self._through(machine, str(endpoint), dc, node, now=now, hops=hops + 1)
                if remote
                else self._server(machine, endpoint)
            )
            if isinstance(further, _Leg):
                gateway.health.worked(endpoint, seconds=further.seconds)
                return _Leg(
                    (machine, *further.path),
                    (gateway, *further.gateways),
                    waited + further.seconds,
                )
            gateway.health.failed(endpoint, now=now)
            waited += min(further.seconds, CONFIG.stagger)
            hangs = further.hangs or (stop is not None and stop.hangs)
            stop = _Stop(waited, further.text, hangs)
        return stop or _Stop(waited, f"gateway {host.name} has nobody to dial")

    def _server(self, source: Machine, endpoint: Endpoint) -> _Leg | _Stop:
        """Connect from a gateway to a server of its own datacenter."""
        process = self._server_at(endpoint.host)
        if process is None:
            return _Stop(STAGGER, f"no such host answers: {endpoint}", hangs=True)
        reached = self._connect(source, process.machine, process)
        if isinstance(reached, _Stop):
            return reached
        return _Leg((process.machine,), (), reached)

    def _connect(self, source: Machine, target: Machine, process: Process) -> float | _Stop:
        """Seconds of a handshake between two machines, or why there is none."""
        there, back = self._network.link(source, target), self._network.link(target, source)
        state = process.state
        if there.cut or back.cut or state is ProcessState.SILENT:
            return _Stop(STAGGER, f"no answer from {target.name}", hangs=True)
        trip = there.typical + back.typical
        if state is _RUNNING:
            return HANDSHAKE_TRIPS * trip
        if state is ProcessState.CRASHED:
            return _Stop(trip, f"connection refused by {target.name}")
        return _Stop(STAGGER, f"{target.name} accepts and hangs", hangs=True)

    def _listener(self, source: Machine, address: str) -> Gateway | None:
        """Who listens at an address, seen from a machine.

        Inside addresses lead nowhere from another datacenter, nor the other way round.
        """
        gateway = self._inside.get(address)
        if gateway is not None:
            return gateway if gateway.process.machine.group == source.group else None
        gateway = self._outside.get(address)
        if gateway is None or gateway.process.machine.group == source.group:
            return None
        return gateway
