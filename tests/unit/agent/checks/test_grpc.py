"""gRPC checks against a health service on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from isthmus.agent.checks.grpc import probe_grpc
from isthmus.agent.checks.result import Result
from isthmus.agent.checks.tls import CheckTls
from isthmus.model.agent import CheckDefinition
from isthmus.net.tls import TlsConfig, TlsConfigurator
from support.certificates import Authority, Certificate

TIMEOUT = 30.0
STATUSES = {b"": 1, b"\x0a\x03web": 2, b"\x0a\x03new": 77}
"""Health by encoded request: the server's, that of `web`, a word that we do not know of `new`."""

Handler = Callable[[bytes, Any], Awaitable[bytes]]


async def check(request: bytes, context: Any) -> bytes:
    if request not in STATUSES:
        await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes([0x08, STATUSES[request]])


@asynccontextmanager
async def serving(
    handler: Handler = check, certificate: Certificate | None = None, *, demand: bool = False
) -> AsyncIterator[str]:
    """A health service; yields its address."""
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(handler)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method}),)
    )
    if certificate is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials(
            [(certificate.key_file.read_bytes(), certificate.cert_file.read_bytes())],
            certificate.ca_file.read_bytes() if demand else None,
            demand,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def probe(target: str, *, timeout: float = TIMEOUT, **fields: Any) -> Result:
    tls = fields.pop("tls", CheckTls())
    return await probe_grpc(CheckDefinition(grpc=target, **fields), timeout=timeout, tls=tls)


async def test_serving_passes() -> None:
    async with serving() as address:
        found = await probe(address)
        assert found == Result("passing", f"gRPC check {address}: success")


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("web", "serving status: NOT_SERVING"),
        ("new", "serving status: 77"),
        ("gone", "NOT_FOUND: unknown service"),
        ("x" * 200, "too long"),
    ],
)
async def test_everything_else_is_critical(service: str, words: str) -> None:
    async with serving() as address:
        found = await probe(f"{address}/{service}")
    assert found.status == "critical"
    assert words in found.output
    assert found.output.startswith(f"gRPC {address}/{service}")


@pytest.mark.parametrize("answer", [b"", b"\xff\xff", b"\x12\x01x"])
async def test_answer_that_is_no_health_is_critical(answer: bytes) -> None:
    async def odd(_request: bytes, _context: Any) -> bytes:
        return answer

    async with serving(odd) as address:
        assert (await probe(address)).status == "critical"


async def test_nobody_there_is_critical() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    found = await probe(f"{host}:{port}")
    assert found.status == "critical"
    assert "UNAVAILABLE" in found.output


async def test_silence_is_critical_in_time() -> None:
    async def silent(_request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(1000)
        return b""

    async with serving(silent) as address:
        found = await probe(address, timeout=0.2)
    assert found.status == "critical"


@pytest.mark.parametrize("target", ["", "nonsense", "h\x00:1"])
async def test_address_that_cannot_be_used_is_critical(target: str) -> None:
    for tls in (False, True):
        assert (await probe(target, timeout=2.0, grpc_use_tls=tls)).status == "critical"


# TLS -------------------------------------------------------------------------------------------


def agents(authority: Authority) -> CheckTls:
    certificate = authority.issue("agent.example")
    config = TlsConfig(
        ca_file=str(certificate.ca_file),
        cert_file=str(certificate.cert_file),
        key_file=str(certificate.key_file),
    )
    return CheckTls(TlsConfigurator(config), use_agents=True, agent_name="agent.example")


async def test_certificate_is_checked_unless_that_is_switched_off(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(certificate=authority.issue("web.example")) as address:
        assert (await probe(address, grpc_use_tls=True)).status == "critical"
        found = await probe(address, grpc_use_tls=True, tls_skip_verify=True)
        assert found.status == "passing", found.output


async def test_agents_certificate_and_authority_are_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls, certificate = agents(authority), authority.issue("web.example")
    async with serving(certificate=certificate, demand=True) as address:
        assert (await probe(address, grpc_use_tls=True, tls=tls)).status == "critical"
        found = await probe(address, grpc_use_tls=True, tls=tls, tls_server_name="web.example")
        assert found.status == "passing", found.output
