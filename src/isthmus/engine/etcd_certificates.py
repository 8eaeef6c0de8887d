"""Certificates of a datacenter's etcd members: an authority of their own, made once.

Agents' certificates do not do: etcd compares the address that it dials with the names inside, and
agents' names are not addresses. So each datacenter has one authority for its storage, whose key is
kept in that storage; a member makes its own key and has it signed.
Source: design of storage, §10 "TLS".
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isthmus.engine.etcd_access import MemberFiles
from isthmus.errors import InvalidRequest

AUTHORITY_TIME: Final = timedelta(days=3650)
CERTIFICATE_TIME: Final = timedelta(days=365)
RENEWAL_TIME: Final = CERTIFICATE_TIME / 3
"""A certificate that is valid for less than this is renewed."""
_BACKDATED: Final = timedelta(minutes=5)
_LOOPBACK: Final = ipaddress.ip_address("127.0.0.1")


@dataclass(frozen=True, slots=True)
class Authority:
    """Certificate and key that sign, PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str, *, wall: datetime) -> Authority:
    """Make the authority of a datacenter's storage."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), wall, AUTHORITY_TIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def make_key() -> bytes:
    """A new private key, PEM."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def make_request(key: bytes, *, name: str, addresses: Sequence[str]) -> bytes:
    """A request to have a key signed, PEM.

    Args:
        key: Private key, PEM.
        name: Id of the server.
        addresses: IP addresses that its member is dialled at.
    """
    private = _load_key(key)
    names = [x509.IPAddress(address) for address in _addresses(addresses)]
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(private, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def sign(authority: Authority, request: bytes, *, name: str, wall: datetime) -> bytes:
    """The certificate that answers a request, PEM.

    Args:
        authority: Who signs.
        request: From `make_request`.
        name: Id of the server that sent it; nothing else is signed.
        wall: Now.

    Raises:
        InvalidRequest: It is malformed, of another server, or asks for more than addresses.
    """
    try:
        asked = x509.load_pem_x509_csr(request)
        valid = asked.is_signature_valid
        names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        common = asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise InvalidRequest(f"the certificate request cannot be read: {error}") from error
    if not valid or [str(item.value) for item in common] != [name]:
        raise InvalidRequest("the certificate request is not of the server that sent it")
    if any(not isinstance(item, x509.IPAddress) for item in names):
        raise InvalidRequest("the certificate request asks for more than IP addresses")
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    key = _load_key(authority.key)
    public = asked.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise InvalidRequest("the certificate request has a key of another kind than ours")
    certificate = (
        _builder(asked.subject, issuer.subject, public, wall, CERTIFICATE_TIME)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def needs_renewal(certificate: bytes, *, addresses: Sequence[str], wall: datetime) -> bool:
    """Whether a certificate runs out soon, or lacks one of these addresses."""
    try:
        held = x509.load_pem_x509_certificate(certificate)
        names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return True
    known = set(names.get_values_for_type(x509.IPAddress))
    wanted = set(_addresses(addresses))
    return held.not_valid_after_utc - wall < RENEWAL_TIME or not wanted <= known


def own_key(files: MemberFiles) -> bytes:
    """Our key, PEM; made at the first call."""
    files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not files.key.exists():
        _write(files.key, make_key())
    return files.key.read_bytes()


def keep_certificate(files: MemberFiles, *, ca: bytes, certificate: bytes) -> None:
    """Keep what was signed. etcd reads it again at every handshake."""
    files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(files.ca, ca)
    _write(files.certificate, certificate)


def _write(path: Path, data: bytes) -> None:
    """Replace a file at once, readable by us alone."""
    fresh = path.with_name(path.name + ".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(data)
    fresh.replace(path)


def _addresses(
    texts: Sequence[str],
) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return list(dict.fromkeys([*(ipaddress.ip_address(text) for text in texts), _LOOPBACK]))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    wall: datetime,
    time: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(wall - _BACKDATED)
        .not_valid_after(wall + time)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_key(key: bytes) -> ec.EllipticCurvePrivateKey:
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private
