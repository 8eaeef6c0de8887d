"""Who speaks: the tables of type bytes and ALPN names."""

import pytest

from isthmus.errors import UnknownProtocol
from isthmus.names import Alpn
from isthmus.rpc.sniff import Speaks, choose_alpn, sniff_alpn, sniff_byte, sniff_inner_byte
from isthmus.wire.tlshello import ClientHello

TYPE_BYTES = {
    0: Speaks.RPC_SINGLE,
    1: Speaks.RAFT,
    3: Speaks.TLS,
    4: Speaks.RPC_MULTI,
    5: Speaks.SNAPSHOT,
    7: Speaks.TLS_INSECURE,
    8: Speaks.GRPC,
}


@pytest.mark.parametrize("native_tls", [True, False])
@pytest.mark.parametrize(("first", "speaks"), TYPE_BYTES.items())
def test_type_bytes(first: int, speaks: Speaks, native_tls: bool) -> None:
    assert sniff_byte(first, native_tls=native_tls) is speaks


@pytest.mark.parametrize("first", [2, 6])
def test_removed_and_commercial_type_bytes_are_unknown(first: int) -> None:
    with pytest.raises(UnknownProtocol, match="unrecognized RPC byte"):
        sniff_byte(first, native_tls=True)


@pytest.mark.parametrize("first", [9, 0x13, 0x16, 0x80, 0xFF])
def test_greater_bytes_are_tls_only_with_ca_and_certificate(first: int) -> None:
    assert sniff_byte(first, native_tls=True) is Speaks.NATIVE_TLS
    with pytest.raises(UnknownProtocol):
        sniff_byte(first, native_tls=False)


@pytest.mark.parametrize("first", [0, 1, 4, 5, 8])
def test_inner_bytes(first: int) -> None:
    assert sniff_inner_byte(first) is TYPE_BYTES[first]


@pytest.mark.parametrize("first", [2, 3, 6, 7, 0x16])
def test_tls_inside_tls_is_refused(first: int) -> None:
    with pytest.raises(UnknownProtocol):
        sniff_inner_byte(first)


def hello(*alpn: str) -> ClientHello:
    return ClientHello("server.dc1.consul", alpn, 300)


def test_our_order_decides_between_alpn_names() -> None:
    """Seen on Consul: packet wins over stream, whichever the client names first."""
    offered = hello(Alpn.WAN_GOSSIP_STREAM, Alpn.WAN_GOSSIP_PACKET)
    assert choose_alpn(offered) is Alpn.WAN_GOSSIP_PACKET


def test_unknown_alpn_names_are_passed_over() -> None:
    assert choose_alpn(hello("foo", Alpn.RPC_MULTI)) is Alpn.RPC_MULTI
    assert choose_alpn(hello()) is None
    with pytest.raises(UnknownProtocol, match="foo"):
        choose_alpn(hello("foo"))


@pytest.mark.parametrize("name", [alpn for alpn in Alpn if alpn is not Alpn.RPC_GOSSIP])
def test_every_alpn_name_but_the_commercial_one_is_known(name: Alpn) -> None:
    assert isinstance(sniff_alpn(name), Speaks)


@pytest.mark.parametrize("name", ["", "foo", Alpn.RPC_GOSSIP])
def test_other_alpn_names_are_not_served(name: str) -> None:
    with pytest.raises(UnknownProtocol):
        sniff_alpn(name)
