"""Hosts on a fabric, for the tests of the network of whole agents."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from isthmus.net.network import Inbound, TlsAccept
from isthmus.net.tls import TlsConfig, TlsConfigurator
from isthmus.sim.fabric import Fabric, Host, HostNetwork
from isthmus.sim.handshake import Certificate
from isthmus.sim.loop import HostLoop, Timeline
from isthmus.sim.network import LinkModel, Network, Shape
from isthmus.sim.trace import Trace

T = TypeVar("T")

LATENCY = 0.01


class Site:
    """A host, its loop and its network."""

    def __init__(self, host: Host, loop: HostLoop, network: HostNetwork) -> None:
        self.host, self.loop, self.network = host, loop, network


class Lab:
    """Two hosts of dc1, a gateway and a server of dc2; 10 ms between any two."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        model = LinkModel(median=LATENCY, shape=Shape.CONSTANT)
        self.links = Network(Random(1), within=model, between=model)
        self.lines: list[str] = []
        self.trace = Trace(lambda: self.timeline.now, sink=self.lines.append)
        self.fabric = Fabric(self.timeline, self.links, random=Random(2).random, trace=self.trace)
        self.alpha = self.site("alpha", "dc1", "10.0.1.1")
        self.beta = self.site("beta", "dc1", "10.0.1.2")
        self.gate = self.site("gate", "dc2", "10.0.2.9", is_gateway=True)
        self.gamma = self.site("gamma", "dc2", "10.0.2.1")

    def site(self, name: str, dc: str, address: str, *, is_gateway: bool = False) -> Site:
        host = self.fabric.host(name, dc=dc, addresses=[address], is_gateway=is_gateway)
        names = (f"{name}.server.{dc}.consul", f"server.{dc}.consul")
        self.fabric.certificates[f"{name}.pem"] = Certificate("ca.pem", names)
        tls = self.tls(ca_file="ca.pem", cert_file=f"{name}.pem", key_file="key.pem")
        loop = self.timeline.loop(name)
        network = HostNetwork(self.fabric, host, entropy=bytes, tls=tls)
        loop.network = network
        return Site(host, loop, network)

    def tls(self, *, ca_file: str = "", cert_file: str = "", key_file: str = "") -> TlsConfigurator:
        config = TlsConfig(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        return TlsConfigurator(config, read_files=False)

    def network(self, site: Site, **files: str) -> HostNetwork:
        """The network of a host with other certificates."""
        return HostNetwork(self.fabric, site.host, entropy=bytes, tls=self.tls(**files))

    def run(self, site: Site, work: Coroutine[Any, Any, T]) -> T:
        return self.timeline.run(site.loop, work)

    def sleep(self, seconds: float) -> None:
        self.run(self.alpha, asyncio.sleep(seconds))

    def listen(self, site: Site, accept: "Accept", port: int = 80) -> None:
        address = site.host.addresses[0]
        self.run(site, site.network.listen(address, port, accept))

    def close(self) -> None:
        self.timeline.close()


class Recorder(asyncio.Protocol):
    """Takes down what happens to a connection."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self.lost: list[Exception | None] = []
        self.paused_count = self.resumed_count = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)

    def pause_writing(self) -> None:
        self.paused_count += 1

    def resume_writing(self) -> None:
        self.resumed_count += 1


class Accept:
    """Accepts connections: starts a `Recorder` on each."""

    def __init__(self, tls: TlsAccept | None = None, *, skip: int = 0) -> None:
        self.tls, self.skip = tls, skip
        self.made: list[Recorder] = []
        self.inbounds: list[Inbound] = []
        self.errors: list[Exception] = []
        self.on_accept: Callable[[Inbound], Coroutine[Any, Any, None]] | None = None

    async def __call__(self, inbound: Inbound) -> None:
        self.inbounds.append(inbound)
        if self.on_accept is not None:
            await self.on_accept(inbound)
            return
        try:
            self.made.append(await inbound.start(Recorder(), tls=self.tls, skip=self.skip))
        except OSError as error:
            self.errors.append(error)
