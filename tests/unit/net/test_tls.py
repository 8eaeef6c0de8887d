"""TLS configuration: files, mistakes, reload, and who may act as a server."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import ConfigError
from isthmus.names import Alpn
from isthmus.net.network import TlsAccept, TlsDial
from isthmus.net.tls import (
    HandshakeFailed,
    TlsConfig,
    TlsConfigurator,
    TlsDisabled,
    certificate_names,
    describe,
    server_dcs,
)
from support.certificates import Authority, Certificate


def config_of(certificate: Certificate, **others: Any) -> TlsConfig:
    return TlsConfig(
        **{
            "ca_file": str(certificate.ca_file),
            "cert_file": str(certificate.cert_file),
            "key_file": str(certificate.key_file),
            **others,
        }
    )


def san(*names: str) -> dict[str, Any]:
    """A certificate as ``getpeercert`` shows it."""
    return {"subjectAltName": tuple(("DNS", name) for name in names)}


NATIVE = TlsAccept(require_client=True, alpn=True)
ANNOUNCED = TlsAccept(require_client=False, alpn=False)
BY_NAME = TlsDial("alpha.server.dc1.consul", Alpn.RPC_MULTI)


def test_contexts_check_what_they_must(certificates: Any) -> None:
    tls = TlsConfigurator(config_of(certificates.alpha))
    assert tls.native_tls
    assert tls.incoming(NATIVE).verify_mode is ssl.CERT_REQUIRED
    assert tls.incoming(ANNOUNCED).verify_mode is ssl.CERT_NONE
    assert tls.outgoing(BY_NAME).check_hostname
    unnamed = tls.outgoing(TlsDial(""))
    assert (unnamed.check_hostname, unnamed.verify_mode) == (False, ssl.CERT_REQUIRED)


@pytest.mark.parametrize("name", ["", *Alpn])
def test_every_protocol_that_is_dialled_has_a_context(certificates: Any, name: str) -> None:
    tls = TlsConfigurator(config_of(certificates.alpha))
    if name in {Alpn.RAFT, Alpn.RPC_SINGLE, Alpn.RPC_GOSSIP}:
        with pytest.raises(TlsDisabled):
            tls.outgoing(TlsDial("server.dc1.consul", name))
    else:
        tls.outgoing(TlsDial("server.dc1.consul", name))


def test_without_files_tls_is_disabled() -> None:
    tls = TlsConfigurator(TlsConfig())
    assert not tls.native_tls
    with pytest.raises(TlsDisabled, match="incoming TLS disabled"):
        tls.incoming(ANNOUNCED)
    with pytest.raises(TlsDisabled, match="outgoing TLS disabled"):
        tls.outgoing(BY_NAME)


def test_with_a_certificate_only_clients_cannot_be_checked(certificates: Any) -> None:
    tls = TlsConfigurator(config_of(certificates.alpha, ca_file=""))
    tls.incoming(ANNOUNCED)
    assert (tls.cert_loaded, tls.ca_loaded, tls.native_tls) == (True, False, False)
    with pytest.raises(TlsDisabled):
        tls.incoming(NATIVE)


def test_with_a_ca_only_servers_are_dialled_without_certificate(certificates: Any) -> None:
    tls = TlsConfigurator(TlsConfig(ca_file=str(certificates.authority.ca_file)))
    tls.outgoing(BY_NAME)
    assert not tls.native_tls


def test_a_directory_of_cas_is_read_whole(certificates: Any, tmp_path: Path) -> None:
    for index, made in enumerate((certificates.alpha, certificates.stranger)):
        (tmp_path / f"{index}.pem").write_bytes(made.ca_file.read_bytes())
    config = config_of(certificates.alpha, ca_file="", ca_path=str(tmp_path))
    tls = TlsConfigurator(config)
    assert tls.ca_loaded
    assert len(tls.incoming(NATIVE).get_ca_certs()) == 2


@pytest.mark.parametrize("version", ["tls10", "tls11", "tls12", "tls13"])
def test_the_oldest_version_is_configurable(certificates: Any, version: str) -> None:
    tls = TlsConfigurator(config_of(certificates.alpha, tls_min_version=version))
    names = {"tls10": "TLSv1", "tls11": "TLSv1_1", "tls12": "TLSv1_2", "tls13": "TLSv1_3"}
    assert tls.incoming(NATIVE).minimum_version.name == names[version]


def test_all_mistakes_are_told_together(certificates: Any, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    with pytest.raises(ConfigError) as caught:
        TlsConfigurator(
            TlsConfig(
                ca_file=str(garbage),
                ca_path=str(tmp_path / "nowhere"),
                cert_file=str(certificates.alpha.cert_file),
                key_file=str(tmp_path / "missing.pem"),
                tls_min_version="ssl3",
            )
        )
    keys = {mistake.key for mistake in caught.value.mistakes}
    assert keys == {"ca_file", "ca_path", "key_file", "tls_min_version"}
    assert "missing.pem" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "key"), [({"key_file": ""}, "key_file"), ({"cert_file": ""}, "cert_file")]
)
def test_a_certificate_without_its_key_is_a_mistake(
    certificates: Any, given: dict[str, str], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        TlsConfigurator(config_of(certificates.alpha, **given))
    assert [mistake.key for mistake in caught.value.mistakes] == [key]


def test_a_key_of_another_certificate_is_a_mistake(certificates: Any) -> None:
    with pytest.raises(ConfigError, match="key values mismatch"):
        TlsConfigurator(config_of(certificates.alpha, key_file=str(certificates.beta.key_file)))


def test_an_empty_ca_directory_is_a_mistake(certificates: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file in"):
        TlsConfigurator(config_of(certificates.alpha, ca_path=str(tmp_path)))


def test_reload_takes_new_files_for_new_handshakes(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    made = authority.issue("server.dc1.consul")
    tls = TlsConfigurator(config_of(made))
    before = tls.incoming(NATIVE)
    renewed = authority.issue("server.dc1.consul")
    made.cert_file.write_bytes(renewed.cert_file.read_bytes())
    made.key_file.write_bytes(renewed.key_file.read_bytes())
    tls.reload()
    assert tls.incoming(NATIVE) is not before


def test_a_failed_reload_changes_nothing(certificates: Any) -> None:
    tls = TlsConfigurator(config_of(certificates.alpha))
    before = tls.incoming(NATIVE)
    with pytest.raises(ConfigError):
        tls.reload(config_of(certificates.alpha, key_file="/nowhere"))
    assert tls.incoming(NATIVE) is before
    assert tls.config == config_of(certificates.alpha)


@pytest.mark.parametrize(
    ("names", "dcs"),
    [
        (["server.dc1.consul"], {"dc1"}),
        (["alpha.server.dc1.consul", "localhost"], {"dc1"}),
        (["*.server.dc2.consul", "server.DC2.Consul"], {"dc2"}),
        (["server.dc1.consul", "server.dc2.consul"], {"dc1", "dc2"}),
        (["client.dc1.consul"], set()),
        (["server.dc1.other"], set()),
        (["server.consul"], set()),
        (["server..consul"], set()),
        (["consul"], set()),
        ([], set()),
    ],
)
def test_a_certificate_proves_the_datacenters_of_its_server_names(
    names: list[str], dcs: set[str]
) -> None:
    assert server_dcs(san(*names), "consul.") == dcs


def test_only_dns_names_count() -> None:
    certificate = {"subjectAltName": (("IP Address", "127.0.0.1"), ("DNS", "A.b"))}
    assert certificate_names(certificate) == ("a.b",)
    assert certificate_names(None) == ()


def test_a_clients_certificate_cannot_act_as_a_server() -> None:
    tls = TlsConfigurator(TlsConfig())
    tls.check_client(san("server.dc9.consul"))
    with pytest.raises(HandshakeFailed, match=r"client\.dc1\.consul"):
        tls.check_client(san("client.dc1.consul"))
    with pytest.raises(HandshakeFailed):
        tls.check_client(None)


def test_consuls_laxness_can_be_had() -> None:
    TlsConfigurator(TlsConfig(allow_client_certificates=True)).check_client(
        san("client.dc1.consul")
    )


def test_what_went_wrong_is_said_in_words() -> None:
    assert describe(HandshakeFailed("in words")) == "in words"
    assert describe(ssl.SSLError(1, "[SSL: X] x")) == "[ssl: x] x"


def test_configurator_that_reads_no_files_keeps_the_switches() -> None:
    tls = TlsConfigurator(TlsConfig(ca_file="ca", cert_file="c", key_file="k"), read_files=False)
    assert tls.native_tls
    with pytest.raises(TlsDisabled):
        tls.outgoing(TlsDial("server.dc1.consul"))
    tls.reload(TlsConfig())
    assert not tls.native_tls
