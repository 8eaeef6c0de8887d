"""Certificates that are looked at, not trusted."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import ConfigError
from isthmus.net.inspection import look_at_certificate, own_certificate
from isthmus.net.network import TlsDial
from isthmus.net.tls import TlsConfig
from support.certificates import Certificate

DIAL = TlsDial("beta.server.dc2.consul", "consul/rpc-multi")


def config_of(certificate: Certificate) -> TlsConfig:
    return TlsConfig(
        ca_file=str(certificate.ca_file),
        cert_file=str(certificate.cert_file),
        key_file=str(certificate.key_file),
    )


@asynccontextmanager
async def serving(certificate: Certificate) -> AsyncIterator[int]:
    """A TLS server; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    server = await asyncio.start_server(
        lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_own_certificate(certificates: Any) -> None:
    facts = own_certificate(config_of(certificates.alpha))
    assert facts is not None
    assert facts.names == ("alpha.server.dc1.consul", "server.dc1.consul", "localhost")
    assert (facts.issuer, facts.trusted) == ("CN=Consul Agent CA", True)
    assert facts.not_before < facts.not_after
    assert str(certificates.alpha.cert_file) in facts.owner


def test_own_certificate_of_another_ca(certificates: Any) -> None:
    mixed = replace(config_of(certificates.alpha), cert_file=str(certificates.stranger.cert_file))
    facts = own_certificate(mixed)
    assert facts is not None
    assert facts.trusted is False


def test_no_certificate_and_no_file(certificates: Any, tmp_path: Path) -> None:
    assert own_certificate(TlsConfig()) is None
    with pytest.raises(ConfigError):
        own_certificate(TlsConfig(cert_file=str(tmp_path / "none.pem")))


async def test_certificate_that_would_be_refused_is_seen(certificates: Any) -> None:
    async with serving(certificates.stranger) as port:
        facts = await look_at_certificate(
            config_of(certificates.beta), "127.0.0.1", port, DIAL, owner="server beta", timeout=5
        )
    assert facts is not None
    assert (facts.owner, facts.trusted) == ("server beta", False)
    assert facts.names[0] == "alpha.server.dc1.consul"


async def test_nothing_to_see_where_nobody_listens(certificates: Any) -> None:
    async with serving(certificates.beta) as port:
        pass
    assert (
        await look_at_certificate(
            config_of(certificates.beta), "127.0.0.1", port, DIAL, owner="x", timeout=5
        )
        is None
    )
