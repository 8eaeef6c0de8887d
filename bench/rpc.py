"""RPC calls between two servers on loopback, in clear and with TLS: latency, calls per second."""

import asyncio
import tempfile
import time
from pathlib import Path

from bench.figures import percentile, show
from isthmus.model.methods import METHODS
from isthmus.model.query import DatacenterRequest
from isthmus.model.record import Record
from isthmus.net.client import ServerTarget
from isthmus.net.direct import DirectDialer
from isthmus.net.listener import ListenerConfig, PeerInfo, ServerListener
from isthmus.net.pool import RpcPool
from isthmus.net.sockets import SocketNetwork
from isthmus.net.tls import TlsConfig, TlsConfigurator
from isthmus.wire.tlshello import parse_client_hello

_ROUNDS = 5
_CALLS = 2000
_CALLERS = 32


class _Echo:
    """Answers every call with a short text."""

    def request_type(self, method: str) -> type[Record]:
        kind: type[Record] = METHODS[method].request
        return kind

    async def call(self, method: str, request: Record, peer: PeerInfo) -> object:
        return "127.0.0.1:8300"


def main() -> None:
    """Both ends share one thread, so a server alone does about twice as many calls."""
    _measure_hello()
    asyncio.run(_measure("in clear", None))
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_measure("TLS", _certificates(Path(directory))))


def _measure_hello() -> None:
    hello = _hello()
    samples = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for _ in range(20_000):
            parse_client_hello(hello)
        samples.append((time.perf_counter() - started) / 20_000 * 1e6)
    show("ClientHello: SNI and ALPN", samples, "us", "5 us")


def _hello() -> bytes:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["consul/rpc-multi"])
    outgoing = ssl.MemoryBIO()
    engine = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="alpha.server.dc1.consul")
    try:
        engine.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise RuntimeError("the handshake is over before it began")


async def _measure(what: str, tls: TlsConfigurator | None) -> None:
    network = SocketNetwork(tls)
    config = ListenerConfig() if tls is None else ListenerConfig.of_tls(tls)
    listener = ServerListener(network, config, _Echo())
    await listener.start("127.0.0.1", 0)
    pool = RpcPool(DirectDialer(network, tls=tls is not None))
    target = ServerTarget("dc1", "alpha", *listener.address)

    async def call() -> None:
        await pool.call(
            target, "Status.Leader", DatacenterRequest(datacenter="dc1"), str, timeout=10
        )

    async def calls(count: int) -> None:
        for _ in range(count):
            await call()

    await calls(100)
    medians, rates = [], []
    for _ in range(_ROUNDS):
        samples = []
        for _ in range(_CALLS // 4):
            started = time.perf_counter()
            await call()
            samples.append((time.perf_counter() - started) * 1e6)
        medians.append(percentile(samples, 0.5))
        started = time.perf_counter()
        await asyncio.gather(*(calls(_CALLS // _CALLERS) for _ in range(_CALLERS)))
        rates.append(_CALLS / (time.perf_counter() - started))
    show(f"one call, {what}, p50", medians, "us")
    show(f"{_CALLERS} callers on one connection, {what}", rates, "calls/s")
    await pool.close()
    await listener.close()


def _certificates(directory: Path) -> TlsConfigurator:
    """A CA and one certificate, made here and now."""
    import subprocess

    key, cert = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=bench", "-keyout", key, "-out", cert),
            *("-addext", "subjectAltName=DNS:server.dc1.consul"),
        ],
        check=True,
        capture_output=True,
    )
    return TlsConfigurator(
        TlsConfig(
            ca_file=str(cert),
            cert_file=str(cert),
            key_file=str(key),
            verify_incoming=True,
            allow_client_certificates=True,
        )
    )


if __name__ == "__main__":
    main()
