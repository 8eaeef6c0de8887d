"""Looks at certificates without judging them: ours on disk, and a server's through a gateway.

For diagnosis only; nothing is ever sent on a connection made here.
"""

import asyncio
import ssl
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.errors import ConfigError
from isthmus.federation.diagnosis import CertificateFacts
from isthmus.net.network import TlsDial
from isthmus.net.tls import TlsConfig, dns_names

if TYPE_CHECKING:
    from cryptography import x509

_SHUTDOWN_TIMEOUT = 0.5


def own_certificate(config: TlsConfig) -> CertificateFacts | None:
    """What our certificate says, and whether our CA made it; None when there is none.

    Raises:
        ConfigError: A file cannot be read.
    """
    from cryptography import x509  # Here, because it is slow to import.

    if not config.cert_file:
        return None
    try:
        chain = x509.load_pem_x509_certificates(Path(config.cert_file).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError([]) from error
    return _facts(chain, f"this server ({config.cert_file})", _authorities(config))


async def look_at_certificate(
    config: TlsConfig, host: str, port: int, dial: TlsDial, *, owner: str, timeout: float
) -> CertificateFacts | None:
    """The certificate that a server shows, whether or not we would accept it.

    Args:
        config: Our certificate, which the server wants to see, and our CA.
        host: Of the gateway.
        port: Of the gateway.
        dial: Server name and ALPN to ask for.
        owner: Whose certificate it should be, in words.
        timeout: Seconds for all of it.

    Returns:
        What it says; None when no certificate was shown.
    """
    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # It is looked at, not trusted.
    if config.cert_file and config.key_file:
        context.load_cert_chain(config.cert_file, config.key_file)
    if dial.alpn:
        context.set_alpn_protocols([dial.alpn])
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(
                host,
                port,
                ssl=context,
                server_hostname=dial.server_name,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
            )
    except (OSError, TimeoutError):
        return None
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    if not shown:
        return None
    return _facts([x509.load_der_x509_certificate(shown)], owner, _authorities(config))


def _facts(
    chain: "list[x509.Certificate]", owner: str, authorities: "list[x509.Certificate]"
) -> CertificateFacts:
    first = chain[0]
    return CertificateFacts(
        owner=owner,
        names=dns_names(first),
        issuer=first.issuer.rfc4514_string(),
        not_before=first.not_valid_before_utc.astimezone(UTC),
        not_after=first.not_valid_after_utc.astimezone(UTC),
        trusted=_is_trusted(chain, authorities) if authorities else None,
    )


def _is_trusted(chain: "list[x509.Certificate]", authorities: "list[x509.Certificate]") -> bool:
    """Whether one of the CAs made the certificate, or the last of its intermediates."""
    return any(_made_by(certificate, ca) for certificate in chain for ca in authorities)


def _made_by(certificate: "x509.Certificate", ca: "x509.Certificate") -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _authorities(config: TlsConfig) -> "list[x509.Certificate]":
    from cryptography import x509

    files = [Path(config.ca_file)] if config.ca_file else []
    try:
        if config.ca_path:
            files += sorted(path for path in Path(config.ca_path).iterdir() if path.is_file())
        return [
            certificate
            for path in files
            for certificate in x509.load_pem_x509_certificates(path.read_bytes())
        ]
    except (OSError, ValueError):
        return []
