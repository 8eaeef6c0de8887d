"""Certificates parse back to what was asked for, and verify."""

import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isthmus.cli.certificates import (
    CertificateError,
    Role,
    SignedPair,
    create_ca,
    create_certificate,
    make_ca,
    make_certificate,
)

WALL = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def ca() -> SignedPair:
    return make_ca(wall=WALL)


def parsed(pair: SignedPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def common_name(certificate: x509.Certificate) -> str | bytes:
    return certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        found.get_values_for_type(x509.DNSName),
        [str(address) for address in found.get_values_for_type(x509.IPAddress)],
    )


def test_ca_is_a_ca(ca: SignedPair) -> None:
    certificate = parsed(ca)
    extensions = certificate.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.key_encipherment
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert common_name(certificate) == f"Consul Agent CA {certificate.serial_number}"
    assert certificate.not_valid_after_utc == WALL + timedelta(days=1825)
    certificate.verify_directly_issued_by(certificate)


@pytest.mark.parametrize(
    ("role", "node", "first", "addresses"),
    [
        (Role.SERVER, "", ["server.dc2.consul"], ["127.0.0.1"]),
        (Role.SERVER, "alpha", ["alpha.server.dc2.consul", "server.dc2.consul"], ["127.0.0.1"]),
        (Role.SERVER, "*", ["*.server.dc2.consul", "server.dc2.consul"], ["127.0.0.1"]),
        (Role.CLIENT, "", ["client.dc2.consul"], ["127.0.0.1"]),
        (Role.CLI, "", ["cli.dc2.consul"], []),
    ],
)  # fmt: skip
def test_names_say_role_datacenter_and_node(
    ca: SignedPair, role: Role, node: str, first: list[str], addresses: list[str]
) -> None:
    certificate = parsed(make_certificate(ca, role=role, dc="dc2", node=node, wall=WALL))
    assert names(certificate) == ([*first, "localhost"], addresses)
    assert common_name(certificate) == f"{role.value}.dc2.consul"
    assert certificate.not_valid_after_utc == WALL + timedelta(days=365)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate.verify_directly_issued_by(parsed(ca))


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def test_usages_are_those_of_the_role(ca: SignedPair) -> None:
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    found = {role: usages(parsed(make_certificate(ca, role=role, wall=WALL))) for role in Role}
    assert found == {Role.SERVER: both, Role.CLIENT: both[::-1], Role.CLI: []}


def test_additional_names_and_addresses(ca: SignedPair) -> None:
    pair = make_certificate(
        ca, dc="dc1", domain="example.com.", dns_names=["*.server.dc1.example.com", "x.org"],
        ip_addresses=["10.0.0.1", "fd00::1"], wall=WALL,
    )  # fmt: skip
    assert names(parsed(pair)) == (
        ["server.dc1.example.com", "localhost", "*.server.dc1.example.com", "x.org"],
        ["127.0.0.1", str(ip_address("10.0.0.1")), "fd00::1"],
    )


def test_ca_with_constraints_and_cluster_id() -> None:
    certificate = parsed(
        make_ca(
            domain="d", cluster_id="c1", name_constraint=True, constraint_names=["x"], wall=WALL
        )
    )
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    permitted = found.permitted_subtrees or []
    assert [name.value for name in permitted] == ["localhost", "d", "x"]
    uris = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert uris.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://c1.d"]


def test_what_does_not_go_together_is_refused(ca: SignedPair) -> None:
    with pytest.raises(CertificateError, match="-node requires -server"):
        make_certificate(ca, role=Role.CLIENT, node="a")
    with pytest.raises(CertificateError, match=r"must not contain '\.' or '/'"):
        make_certificate(ca, node="a.b")
    with pytest.raises(CertificateError, match="-days must be from 1"):
        make_certificate(ca, days=0)
    with pytest.raises(CertificateError, match="does not appear to be an IPv4 or IPv6 address"):
        make_certificate(ca, ip_addresses=["nowhere"])
    with pytest.raises(CertificateError, match="do not belong together"):
        make_certificate(SignedPair(ca.certificate, make_ca().key))
    with pytest.raises(CertificateError, match="no PEM certificate"):
        make_certificate(SignedPair(b"?", ca.key))


def test_files_count_up_and_keys_are_private(tmp_path: Path) -> None:
    ca, ca_key = create_ca(tmp_path)
    assert (ca.name, ca_key.name) == ("consul-agent-ca.pem", "consul-agent-ca-key.pem")
    first = create_certificate(tmp_path, ca=ca, ca_key=ca_key, dc="dc2", node="a")
    second = create_certificate(tmp_path, ca=ca, ca_key=ca_key, dc="dc2", node="b")
    assert [path.name for path in (*first, *second)] == [
        "dc2-server-consul-0.pem",
        "dc2-server-consul-0-key.pem",
        "dc2-server-consul-1.pem",
        "dc2-server-consul-1-key.pem",
    ]
    assert {path.stat().st_mode & 0o777 for path in (ca_key, first[1], second[1])} == {0o600}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    ca, ca_key = create_ca(tmp_path)
    before = (ca.read_bytes(), ca_key.read_bytes())
    with pytest.raises(CertificateError, match=r"consul-agent-ca\.pem already exists\."):
        create_ca(tmp_path)
    ca.unlink()
    with pytest.raises(CertificateError, match=r"consul-agent-ca-key\.pem already exists\."):
        create_ca(tmp_path)
    assert not ca.exists()
    assert ca_key.read_bytes() == before[1]


def test_a_folder_that_cannot_be_written_to_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="cannot be written: No such file"):
        create_ca(tmp_path / "none")


def test_ca_of_another_kind_of_key_is_refused(ca: SignedPair) -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(CertificateError, match="must be an elliptic curve key"):
        make_certificate(SignedPair(ca.certificate, key))


def test_long_names_are_refused(ca: SignedPair) -> None:
    with pytest.raises(CertificateError, match="from 1 to 64 characters"):
        make_certificate(ca, dc="d" * 60)


def test_missing_ca_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="isthmus tls ca create"):
        create_certificate(tmp_path, ca=tmp_path / "ca.pem", ca_key=tmp_path / "k.pem")


def handshake(
    folder: Path, server: tuple[Path, Path], client: tuple[Path, Path], name: str
) -> None:
    """Run a TLS handshake in memory, both sides with certificates.

    Raises:
        ssl.SSLError: One side refuses the other.
    """
    ca = folder / "consul-agent-ca.pem"
    accept = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    accept.verify_mode = ssl.CERT_REQUIRED
    accept.load_cert_chain(*server)
    dial = ssl.create_default_context(cafile=ca)
    dial.load_cert_chain(*client)
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    ends = [
        accept.wrap_bio(a, b, server_side=True),
        dial.wrap_bio(c, d, server_hostname=name),
    ]
    done = [False, False]
    for _ in range(10):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
                done[number] = True
            except ssl.SSLWantReadError:
                pass
            c.write(b.read())
            a.write(d.read())
    assert done == [True, True]


def test_servers_federate_with_these_certificates(tmp_path: Path) -> None:
    ca, ca_key = create_ca(tmp_path)
    alpha = create_certificate(tmp_path, ca=ca, ca_key=ca_key, dc="dc1", node="alpha")
    every = create_certificate(tmp_path, ca=ca, ca_key=ca_key, dc="dc2", node="*")
    handshake(tmp_path, alpha, every, "alpha.server.dc1.consul")
    handshake(tmp_path, alpha, every, "server.dc1.consul")
    handshake(tmp_path, every, alpha, "any.server.dc2.consul")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, alpha, every, "beta.server.dc1.consul")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_agrees(tmp_path: Path) -> None:
    ca, ca_key = create_ca(tmp_path)
    paths = [create_certificate(tmp_path, ca=ca, ca_key=ca_key, role=role)[0] for role in Role]
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(ca), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
