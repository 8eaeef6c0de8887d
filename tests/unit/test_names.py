"""Names that two programs must agree on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import InvalidNodeName
from isthmus.names import (
    ANY_SERVER,
    Alpn,
    host_port,
    server_name,
    split_host_port,
    split_wan_name,
    wan_name,
)

LABELS = st.text(alphabet="abcXYZ019-_", min_size=1, max_size=12)


@given(node=LABELS, dc=LABELS)
def test_wan_name_is_node_and_datacenter(node: str, dc: str) -> None:
    assert split_wan_name(wan_name(node, dc)) == (node, dc)


@pytest.mark.parametrize(
    ("name", "parts"),
    [("a.dc2", ("a", "dc2")), (".dc2", ("", "dc2")), ("*.dc1", ("*", "dc1"))],
)
def test_wan_names_split_at_their_one_dot(name: str, parts: tuple[str, str]) -> None:
    """federation.md §15.1; an empty node is refused only by the handshake that follows."""
    assert split_wan_name(name) == parts


@pytest.mark.parametrize("name", ["a", "a.b.dc2", "", "a.", ".", "a..dc2"])
def test_other_names_encode_no_datacenter(name: str) -> None:
    with pytest.raises(InvalidNodeName, match="node name does not encode a datacenter"):
        split_wan_name(name)


@pytest.mark.parametrize(
    ("dc", "domain", "node", "name"),
    [
        ("dc1", "consul", "alpha", "alpha.server.dc1.consul"),
        ("dc1", "consul", ANY_SERVER, "server.dc1.consul"),
        ("dc1", "consul.", "alpha", "alpha.server.dc1.consul"),
        ("dc2", "example.org.", "*", "server.dc2.example.org"),
        ("dc2", "consul", "DC2S0", "DC2S0.server.dc2.consul"),
    ],
)
def test_server_names_are_those_of_the_certificates(
    dc: str, domain: str, node: str, name: str
) -> None:
    """federation.md §6.3."""
    assert server_name(dc, domain, node) == name


def test_server_name_without_a_node_means_any() -> None:
    assert server_name("dc1", "consul") == "server.dc1.consul"


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("10.0.0.1", 8443, "10.0.0.1:8443"),
        ("gateway.example", 443, "gateway.example:443"),
        ("::1", 8300, "[::1]:8300"),
        ("fe80::1%eth0", 1, "[fe80::1%eth0]:1"),
    ],
)
def test_host_and_port_are_joined_and_split(host: str, port: int, address: str) -> None:
    assert host_port(host, port) == address
    assert split_host_port(address) == (host, port)


@given(host=st.ip_addresses().map(str), port=st.integers(1, 65535))
def test_every_address_survives(host: str, port: int) -> None:
    assert split_host_port(host_port(host, port)) == (host, port)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("10.0.0.1", "missing port"),
        ("::1", "missing port"),
        ("", "missing port"),
        ("::1:8300", "missing port"),
        (":8300", "missing host"),
        ("[]:8300", "missing host"),
        ("a:", "bad port"),
        ("a:0", "bad port"),
        ("a:65536", "bad port"),
        ("a:x", "bad port"),
        ("a:-1", "bad port"),
        ("a:٣", "bad port"),
    ],
)
def test_other_addresses_are_refused(address: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        split_host_port(address)


def test_protocols_are_offered_in_consul_order() -> None:
    assert [str(alpn) for alpn in Alpn] == [
        "consul/rpc-single",
        "consul/raft",
        "consul/rpc-multi",
        "consul/rpc-snapshot",
        "consul/rpc-gossip",
        "consul/rpc-grpc",
        "consul/wan-gossip/packet",
        "consul/wan-gossip/stream",
    ]
