"""A certificate authority for agents, and the certificates it signs.

Names, usages and file names are those that Consul's tools make, so both sides of a federation can
use either's. The ``NODE.server.DC.DOMAIN`` name is the one a server of another datacenter dials
through gateways; without it nobody there can answer that server.

Source: protocol/cli-config-dns.md §1.2, "Certificates"; protocol/federation.md §19.
"""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isthmus.errors import IsthmusError
from isthmus.names import server_name

CA_DAYS: Final = 1825  # Consul's default
CERTIFICATE_DAYS: Final = 365  # Consul's default
BACKDATED: Final = timedelta(minutes=5)
"""Certificates are valid from this long ago, for machines whose clocks are behind."""

_ORGANIZATION: Final = "isthmus"
_KEY_MODE: Final = 0o600
_CERTIFICATE_MODE: Final = 0o644


class CertificateError(IsthmusError):
    """A certificate cannot be made as asked. No file was written or changed."""


class Role(Enum):
    """Who a certificate is for."""

    SERVER = "server"
    CLIENT = "client"
    CLI = "cli"


@dataclass(frozen=True, slots=True)
class SignedPair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


def make_ca(
    *,
    domain: str = "consul",
    days: int = CA_DAYS,
    common_name: str = "",
    cluster_id: str = "",
    name_constraint: bool = False,
    constraint_names: Sequence[str] = (),
    wall: datetime | None = None,
) -> SignedPair:
    """Make a certificate authority.

    Args:
        domain: Domain of the agents' names.
        days: How long it is valid.
        common_name: Of its subject; empty: ``Consul Agent CA SERIAL``.
        cluster_id: If given, the CA carries ``spiffe://CLUSTER_ID.DOMAIN``.
        name_constraint: It signs names in `domain`, ``localhost`` and `constraint_names` only.
        constraint_names: See there.
        wall: When it is made; None: now.
    """
    _check_days(days)
    wall, serial = wall or _now(), x509.random_serial_number()
    domain = domain.rstrip(".")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(common_name or f"Consul Agent CA {serial}")
    builder = (
        _builder(subject, subject, key.public_key(), serial=serial, days=days, wall=wall)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature", "key_cert_sign", "crl_sign"), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    if cluster_id:
        uri = x509.UniformResourceIdentifier(f"spiffe://{cluster_id}.{domain}")
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    if name_constraint:
        permitted = [x509.DNSName(name) for name in ("localhost", domain, *constraint_names)]
        constraints = x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)
        builder = builder.add_extension(constraints, critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_certificate(
    ca: SignedPair,
    *,
    role: Role = Role.SERVER,
    dc: str = "dc1",
    node: str = "",
    domain: str = "consul",
    days: int = CERTIFICATE_DAYS,
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[str] = (),
    wall: datetime | None = None,
) -> SignedPair:
    """Make a certificate that `ca` signs.

    Args:
        ca: The authority.
        role: What its holder may be.
        dc: Datacenter in its names.
        node: Server's node name, ``*`` for all of `dc`; servers only. Federation through mesh
            gateways needs it.
        domain: Domain in its names.
        days: How long it is valid.
        dns_names: Additional names.
        ip_addresses: Additional addresses.
        wall: When it is made; None: now.

    Raises:
        CertificateError: Something of this does not go together.
    """
    _check_days(days)
    if node and role is not Role.SERVER:
        raise CertificateError("-node requires -server")
    if "." in node or "/" in node:
        raise CertificateError(f"node name {node!r} must not contain '.' or '/'")
    issuer, issuer_key = _load_ca(ca)
    domain = domain.rstrip(".")
    name = server_name(dc, domain) if role is Role.SERVER else f"{role.value}.{dc}.{domain}"
    names = [name, "localhost", *dns_names]
    if node:
        names.insert(0, f"{node}.{name}")
    addresses = [] if role is Role.CLI else ["127.0.0.1"]
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(
            _subject(name),
            issuer.subject,
            key.public_key(),
            serial=x509.random_serial_number(),
            days=days,
            wall=wall or _now(),
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature", "key_encipherment"), critical=True)
        .add_extension(_authority(issuer), critical=False)
        .add_extension(_alternative_names(names, [*addresses, *ip_addresses]), critical=False)
    )
    usages = {
        Role.SERVER: [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        Role.CLIENT: [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
        Role.CLI: [],
    }[role]
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return _pair(builder.sign(issuer_key, hashes.SHA256()), key)


def ca_paths(folder: Path, domain: str = "consul") -> tuple[Path, Path]:
    """File names of an authority: certificate, key."""
    name = domain.rstrip(".")
    return folder / f"{name}-agent-ca.pem", folder / f"{name}-agent-ca-key.pem"


def create_ca(
    folder: Path,
    *,
    domain: str = "consul",
    days: int = CA_DAYS,
    common_name: str = "",
    cluster_id: str = "",
    name_constraint: bool = False,
    constraint_names: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Make a certificate authority and write ``DOMAIN-agent-ca.pem`` and ``-ca-key.pem``.

    Returns:
        Where certificate and key are.

    Raises:
        CertificateError: One of the files exists, or cannot be written.
    """
    paths = ca_paths(folder, domain)
    for path in paths:
        if path.exists():
            raise CertificateError(f"{path.name} already exists.")
    pair = make_ca(
        domain=domain,
        days=days,
        common_name=common_name,
        cluster_id=cluster_id,
        name_constraint=name_constraint,
        constraint_names=constraint_names,
    )
    _write_pair(pair, *paths)
    return paths


def create_certificate(
    folder: Path,
    *,
    ca: Path,
    ca_key: Path,
    role: Role = Role.SERVER,
    dc: str = "dc1",
    node: str = "",
    domain: str = "consul",
    days: int = CERTIFICATE_DAYS,
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Make a certificate and write ``DC-ROLE-DOMAIN-N.pem`` and ``-N-key.pem``.

    N is the first number from 0 of which neither file exists.

    Returns:
        Where certificate and key are.

    Raises:
        CertificateError: The authority cannot be read, what is asked does not go together, or the
            files cannot be written.
    """
    pair = make_certificate(
        _read_ca(ca, ca_key),
        role=role,
        dc=dc,
        node=node,
        domain=domain,
        days=days,
        dns_names=dns_names,
        ip_addresses=ip_addresses,
    )
    stem = f"{dc}-{role.value}-{domain.rstrip('.')}"
    for number in count():
        paths = (folder / f"{stem}-{number}.pem", folder / f"{stem}-{number}-key.pem")
        if not any(path.exists() for path in paths):
            break
    _write_pair(pair, *paths)
    return paths


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 -- a door: the operator's clock is meant.


def _check_days(days: int) -> None:
    if not 0 < days <= 36500:
        raise CertificateError(f"-days must be from 1 to 36500, not {days}")


def _subject(common_name: str) -> x509.Name:
    if not 0 < len(common_name) <= 64:
        raise CertificateError(f"the name {common_name!r} must have from 1 to 64 characters")
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    serial: int,
    days: int,
    wall: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(wall - BACKDATED)
        .not_valid_after(wall + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*used: str) -> x509.KeyUsage:
    kinds = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    assert set(used) <= set(kinds)
    return x509.KeyUsage(**{kind: kind in used for kind in kinds})


def _alternative_names(
    names: Sequence[str], addresses: Sequence[str]
) -> x509.SubjectAlternativeName:
    general: list[x509.GeneralName] = []
    try:
        general += [x509.DNSName(name) for name in dict.fromkeys(names)]
        general += [x509.IPAddress(ipaddress.ip_address(one)) for one in dict.fromkeys(addresses)]
    except ValueError as error:
        raise CertificateError(str(error)) from error
    return x509.SubjectAlternativeName(general)


def _authority(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _read_ca(ca: Path, ca_key: Path) -> SignedPair:
    try:
        return SignedPair(ca.read_bytes(), ca_key.read_bytes())
    except OSError as error:
        raise CertificateError(
            f"CA file {error.filename} cannot be read: {error.strerror}; "
            "create one with: isthmus tls ca create"
        ) from error


def _load_ca(pair: SignedPair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"the CA is no PEM certificate with a plain key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("the CA's key must be an elliptic curve key")
    if certificate.public_key() != key.public_key():
        raise CertificateError("the CA's certificate and key do not belong together")
    return certificate, key


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> SignedPair:
    return SignedPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )


def _write_pair(pair: SignedPair, certificate: Path, key: Path) -> None:
    """Write both files or none; the key is never readable by others, not even for a moment."""
    _write(certificate, pair.certificate, _CERTIFICATE_MODE)
    try:
        _write(key, pair.key, _KEY_MODE)
    except CertificateError:
        certificate.unlink()
        raise


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise CertificateError(f"{path.name} already exists.") from error
    except OSError as error:
        raise CertificateError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
