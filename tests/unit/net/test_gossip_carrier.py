"""Packets into other datacenters that cannot be sent: every kind of failure is a lost ping."""

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar

import pytest

from isthmus.errors import MalformedPacket, Unavailable
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.roster import MemberFailed
from isthmus.names import split_wan_name
from isthmus.net.gossip_driver import PoolDriver
from support.memory_network import MemoryInbound, connection_pair
from support.pool_drivers import Drivers, statuses
from support.virtual_loop import now, run_virtual

P = TypeVar("P", bound=asyncio.BaseProtocol)
FAILURES: dict[str, Callable[[], BaseException]] = {
    "no gateway known": lambda: Unavailable("Remote DC has no server currently reachable"),
    "refused": lambda: ConnectionRefusedError(111, "Connection refused"),
    "reset": lambda: ConnectionResetError(104, "Connection reset by peer"),
    "broken pipe": lambda: BrokenPipeError(32, "Broken pipe"),
    "no route to host": lambda: OSError(113, "No route to host"),
    "time-out": lambda: TimeoutError("timed out"),
    "TLS alert": lambda: ssl.SSLError(1, "tlsv1 alert internal error"),
    "TLS closed": lambda: ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    "certificate": lambda: ssl.SSLCertVerificationError(1, "certificate verify failed"),
    "end of stream": lambda: asyncio.IncompleteReadError(b"", 4),
    "not TLS at all": lambda: MalformedPacket("not a ServerHello"),
    "given up by its dial": asyncio.CancelledError,
}


class Carrier:
    """Carries to the drivers it knows, until it is told to fail."""

    def __init__(self, dc: str) -> None:
        self._dc = dc
        self.drivers: dict[str, PoolDriver] = {}
        self.failure: Callable[[], BaseException] | None = None

    def carries(self, node_name: str) -> bool:
        return split_wan_name(node_name)[1] != self._dc

    async def send_packet(self, node_name: str, packet: bytes) -> None:
        await asyncio.sleep(0.001)
        if self.failure is not None:
            raise self.failure()
        self.drivers[node_name].receive_packet(packet, None)

    async def open_stream(self, node_name: str, factory: Callable[[], P], *, timeout: float) -> P:
        await asyncio.sleep(0.001)
        if self.failure is not None:
            raise Unavailable("no gateway")
        near, far = connection_pair()
        protocol = factory()
        near.start(protocol)
        self.drivers[node_name].accept_stream(MemoryInbound(far))
        return protocol


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_packet_that_was_not_sent_is_a_lost_ping(failure: Callable[[], BaseException]) -> None:
    """protocol/gossip.md §15, §16: the reference abandons such probes without a suspicion."""

    async def story() -> None:
        drivers = Drivers(GossipConfig.wan())
        carriers = {name: Carrier(split_wan_name(name)[1]) for name in ("a.dc1", "b.dc2")}
        pools = {
            name: await drivers.open(name, carrier=carrier, route_by_name=True)
            for name, carrier in carriers.items()
        }
        for carrier in carriers.values():
            carrier.drivers = pools
        await pools["b.dc2"].join(["a.dc1/192.0.2.2"], ignore_old=True)
        await asyncio.sleep(20)
        assert set(statuses(pools["a.dc1"])) == set(pools)
        carriers["a.dc1"].failure = failure
        begun = now()
        await drivers.until(lambda: failed(drivers, "a.dc1") == ["b.dc2"], within=100)
        assert 30 <= now() - begun <= 60  # The suspicion's 30 s, and a probe or two of 5 s.
        stats = await pools["a.dc1"].stats()
        assert int(stats["packets_not_carried"]) >= int(stats["packets_failed"]) > 0
        carriers["a.dc1"].failure = None
        await drivers.until(lambda: statuses(pools["a.dc1"])["b.dc2"] == "alive", within=120)
        await drivers.close()

    run_virtual(story())


def failed(drivers: Drivers, name: str) -> list[str]:
    return [event.member.name for event in drivers.events[name] if isinstance(event, MemberFailed)]
