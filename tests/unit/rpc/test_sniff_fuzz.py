"""Whatever a connection begins with, somebody is chosen to speak with it or it is refused."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import UnknownProtocol
from isthmus.names import Alpn
from isthmus.rpc.sniff import Speaks, choose_alpn, sniff_alpn, sniff_byte, sniff_inner_byte
from isthmus.wire.tlshello import ClientHello


@given(first=st.integers(0, 255), native_tls=st.booleans())
def test_any_first_byte_is_a_protocol_or_refused(first: int, native_tls: bool) -> None:
    with contextlib.suppress(UnknownProtocol):
        assert isinstance(sniff_byte(first, native_tls=native_tls), Speaks)
    try:
        inner = sniff_inner_byte(first)
    except UnknownProtocol:
        return
    assert inner not in {Speaks.TLS, Speaks.TLS_INSECURE, Speaks.NATIVE_TLS}


@given(offered=st.lists(st.text(max_size=40) | st.sampled_from([str(name) for name in Alpn])))
def test_any_names_are_a_choice_of_ours_or_refused(offered: list[str]) -> None:
    try:
        chosen = choose_alpn(ClientHello(server_name="", alpn=tuple(offered), size=0))
    except UnknownProtocol:
        assert not set(offered) & set(Alpn)
    else:
        assert chosen is None if not offered else chosen in offered


@given(name=st.text(max_size=60))
def test_any_negotiated_name_is_a_protocol_or_refused(name: str) -> None:
    try:
        assert isinstance(sniff_alpn(name), Speaks)
    except UnknownProtocol:
        assert name not in set(Alpn) or name in {Alpn.RPC_GOSSIP}
