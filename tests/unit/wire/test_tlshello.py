"""ClientHellos as Consul sends them, cut, spread over records, and broken."""

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.wire.tlshello import HELLO_SIZE_MAX, ClientHello, parse_client_hello

_VECTORS = Path(__file__).parents[2] / "vectors" / "federation" / "client_hello.json"
HELLOS: list[dict[str, Any]] = json.loads(_VECTORS.read_text())["hellos"]
CONSUL_HELLO = bytes.fromhex(HELLOS[0]["record_hex"])


def openssl_hello(server_name: str = "", alpn: list[str] | None = None) -> bytes:
    """The first flight of this machine's OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    engine = context.wrap_bio(incoming, outgoing, server_hostname=server_name or None)
    with pytest.raises(ssl.SSLWantReadError):
        engine.do_handshake()
    return outgoing.read()


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def name_list(*entries: tuple[int, bytes]) -> bytes:
    names = b"".join(
        kind.to_bytes(1, "big") + len(name).to_bytes(2, "big") + name for kind, name in entries
    )
    return extension(0, len(names).to_bytes(2, "big") + names)


def alpn_list(*names: bytes) -> bytes:
    body = b"".join(len(name).to_bytes(1, "big") + name for name in names)
    return extension(16, len(body).to_bytes(2, "big") + body)


def make_hello(*extensions: bytes, body: bytes | None = None) -> bytes:
    """A ClientHello in one record."""
    if body is None:
        joined = b"".join(extensions)
        body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
        if extensions:
            body += len(joined).to_bytes(2, "big") + joined
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def spread(hello: bytes, sizes: list[int]) -> bytes:
    """The same handshake message over several records."""
    message, records = hello[5:], b""
    while message:
        size = sizes.pop() if sizes else len(message)
        piece, message = message[:size], message[size:]
        records += b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
    return records


@pytest.mark.parametrize("hello", HELLOS, ids=lambda hello: f"{hello['sni']} {hello['alpn']}")
def test_hellos_of_consul_name_their_server_and_protocol(hello: dict[str, Any]) -> None:
    data = bytes.fromhex(hello["record_hex"])
    expected = ClientHello(hello["sni"], tuple(hello["alpn"]), len(data))
    assert parse_client_hello(data) == expected
    assert parse_client_hello(data + b"what follows") == expected


def test_hellos_of_openssl_are_read() -> None:
    data = openssl_hello("Alpha.Server.DC1.consul", ["a", "consul/rpc-multi"])
    assert parse_client_hello(data) == ClientHello(
        "alpha.server.dc1.consul", ("a", "consul/rpc-multi"), len(data)
    )


def test_hello_without_extensions_has_no_name() -> None:
    data = make_hello()
    assert parse_client_hello(data) == ClientHello("", (), len(data))


@given(cut=st.integers(0, len(CONSUL_HELLO) - 1))
def test_every_prefix_is_incomplete(cut: int) -> None:
    assert parse_client_hello(CONSUL_HELLO[:cut]) is None


@given(sizes=st.lists(st.integers(1, 400), max_size=300), cut=st.integers(0, 5000))
def test_hello_may_be_spread_over_records(sizes: list[int], cut: int) -> None:
    data = spread(CONSUL_HELLO, sizes)
    whole = parse_client_hello(data)
    assert whole == ClientHello(HELLOS[0]["sni"], tuple(HELLOS[0]["alpn"]), len(data))
    if cut < len(data):
        assert parse_client_hello(data[:cut]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x15",
        b"\x16\x02",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x10\x02",
        b"\x16\x03\x01\x40\x01\x01",
        b"\x16\x03\x01\x10\x00\x01\x00\x50\x00",
        make_hello(name_list((0, b"a")), name_list((0, b"b"))),
        make_hello(name_list((0, b"a"), (0, b"b"))),
        make_hello(name_list((1, b"a"))),
        make_hello(name_list((0, b""))),
        make_hello(name_list((0, b"caf\xc3\xa9"))),
        make_hello(name_list((0, b"a\x00b"))),
        make_hello(alpn_list(b"x"), alpn_list(b"x")),
        make_hello(alpn_list()),
        make_hello(alpn_list(b"x", b"")),
        make_hello(extension(16, b"\x00\x02\x05x")),
        make_hello(
            body=b"\x03\x03" + bytes(32) + b"\x21" + bytes(33) + b"\x00\x02\x13\x01\x01\x00"
        ),
        make_hello(body=b"\x03\x03" + bytes(32) + b"\x00\x00\x03\x13\x01\x00\x01\x00"),
        make_hello(body=b"\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x00"),
        make_hello(body=b"\x03\x03" + bytes(10)),
        make_hello(body=b""),
    ],
    ids=lambda data: data[:60].hex(),
)
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        parse_client_hello(data)


def test_hello_above_the_limit_is_refused_at_its_header() -> None:
    announced = (HELLO_SIZE_MAX + 1).to_bytes(3, "big")
    with pytest.raises(MalformedPacket, match="limit"):
        parse_client_hello(b"\x16\x03\x01\x01\x00\x01" + announced)


@given(data=st.binary(max_size=600))
def test_any_bytes_are_a_hello_or_refused_or_incomplete(data: bytes) -> None:
    """The border to strangers: nothing but `MalformedPacket` may come out."""
    for candidate in (data, b"\x16\x03\x01" + data, make_hello(body=data)):
        try:
            result = parse_client_hello(candidate)
        except MalformedPacket:
            continue
        assert result is None or isinstance(result, ClientHello)


@given(at=st.integers(0, len(CONSUL_HELLO) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_never_raises_anything_else(at: int, byte: int) -> None:
    data = bytearray(CONSUL_HELLO)
    data[at] = byte
    try:
        parse_client_hello(bytes(data))
    except MalformedPacket:
        return
