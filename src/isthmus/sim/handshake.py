"""TLS of the simulated network: who may speak to whom, without cryptography.

What a gateway reads is real: the ClientHello with its server name and protocols. What follows
only names certificates instead of proving them, and is judged as TLS would judge the real ones,
with the same errors. It travels as bytes of the connection, so it passes through gateways::

    client  -- ClientHello -->  server
    client  <-- record 22: the server's certificate, protocol chosen, whether ours is wanted --
    client  -- record 22: our certificate -->  server        (or either side: record 21, an alert)
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from isthmus.errors import ProtocolError, UnknownProtocol
from isthmus.net.network import TlsAccept, TlsDial
from isthmus.net.tls import AlpnRefused, HandshakeEnded, HandshakeFailed
from isthmus.rpc.sniff import choose_alpn
from isthmus.sim.stream import (
    RECORD_ALERT,
    RECORD_HANDSHAKE,
    RECORD_HEADER_SIZE,
    End,
    explain_alert,
    record,
)
from isthmus.wire.tlshello import HELLO_SIZE_MAX, ClientHello, parse_client_hello

CERTIFICATE_SIZE: Final = 900
"""Bytes that a real certificate takes in a handshake, about."""

_ENDED: Final = "the peer ended the connection in the handshake"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that is only its names.

    Attributes:
        issuer: Name of the CA file that it is checked with.
        names: DNS names; the first label may be ``*``.
    """

    issuer: str
    names: tuple[str, ...]

    def as_peer(self) -> dict[str, Any]:
        """As ``SSLObject.getpeercert`` returns it."""
        return {"subjectAltName": tuple(("DNS", name) for name in self.names)}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one side of a handshake has.

    Attributes:
        trusted: CA files.
        own: Our certificate; None without one.
    """

    trusted: Collection[str]
    own: Certificate | None


class _Shown(msgspec.Struct, array_like=True):
    """What one side shows the other."""

    issuer: str = ""
    names: tuple[str, ...] = ()
    alpn: str = ""
    wants_certificate: bool = False
    padding: str = ""


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Shown)


def client_hello(server_name: str, alpn: Sequence[str], random: bytes) -> bytes:
    """A ClientHello of TLS 1.2's form, in one record (RFC 8446 §4.1.2)."""
    assert len(random) == 32
    extensions = b""
    if server_name:
        name = server_name.encode("ascii")
        entry = b"\0" + _sized(name, 2)
        extensions += b"\0\0" + _sized(_sized(entry, 2), 2)
    if alpn:
        names = b"".join(_sized(name.encode("ascii"), 1) for name in alpn)
        extensions += b"\0\x10" + _sized(_sized(names, 2), 2)
    body = b"\x03\x03" + random + b"\0" + _sized(b"\x13\x01", 2) + b"\x01\0" + _sized(extensions, 2)
    return record(RECORD_HANDSHAKE, b"\x01" + _sized(body, 3))


def _sized(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width, "big") + data


async def dial_handshake(
    end: End, tls: TlsDial, credentials: Credentials, *, entropy: Callable[[int], bytes]
) -> None:
    """Do the dialling side's part.

    Raises:
        HandshakeFailed: As the real network would; nothing was sent but what TLS sends.
    """
    end.push(client_hello(tls.server_name, (tls.alpn,) if tls.alpn else (), entropy(32)))
    shown = await _read(end)
    server = Certificate(shown.issuer, shown.names)
    problem = ""
    if server.issuer not in credentials.trusted:
        problem, alert = "unable to get local issuer certificate", 48
    elif tls.server_name and not names_match(server.names, tls.server_name):
        name = tls.server_name
        problem, alert = f"Hostname mismatch, certificate is not valid for '{name}'.", 42
    if problem:
        end.push(record(RECORD_ALERT, bytes((2, alert))))
        raise HandshakeFailed(f"the peer's certificate is refused: {problem}")
    end.push(_record_of(credentials.own if shown.wants_certificate else None))
    if tls.alpn and shown.alpn != tls.alpn:
        raise AlpnRefused(f"the peer does not speak {tls.alpn}")


async def accept_handshake(
    end: End, tls: TlsAccept, credentials: Credentials
) -> tuple[str, dict[str, Any] | None]:
    """Do the accepting side's part.

    Returns:
        The protocol that was agreed upon, empty for none, and the client's certificate as
        ``getpeercert`` returns it; None when none was demanded.

    Raises:
        HandshakeFailed: The client was told why, or told us why.
    """
    hello = await read_hello(end)
    if hello is None:
        raise HandshakeFailed("no TLS")
    end.take(hello.size)
    alpn = ""
    if tls.alpn:
        try:
            alpn = choose_alpn(hello) or ""
        except UnknownProtocol as error:
            raise _refused(end, 120, "no application protocol") from error
    end.push(_record_of(credentials.own, alpn=alpn, wants_certificate=tls.require_client))
    shown = await _read(end)
    if not tls.require_client:
        return alpn, None
    if not shown.issuer:
        raise _refused(end, 116, "peer did not return a certificate")
    if shown.issuer not in credentials.trusted:
        text = "the peer's certificate is refused: unable to get local issuer certificate"
        raise _refused(end, 48, text)
    return alpn, Certificate(shown.issuer, shown.names).as_peer()


async def read_hello(end: End) -> ClientHello | None:
    """Look at the ClientHello without taking it; None when it is no TLS.

    Raises:
        ProtocolError: It starts like one and is malformed, too long, or cut off.
    """
    wanted = 1
    while True:
        data = await end.peek(wanted)
        if data[:1] != bytes((RECORD_HANDSHAKE,)):
            return None
        hello = parse_client_hello(data)
        if hello is not None:
            return hello
        if len(data) < wanted or len(data) > HELLO_SIZE_MAX:
            raise ProtocolError("connection ended within its ClientHello")
        wanted = len(data) + 1


def names_match(names: Collection[str], wanted: str) -> bool:
    """Whether one of a certificate's names is the wanted one (RFC 6125 §6.4)."""
    wanted = wanted.lower()
    _, _, rest = wanted.partition(".")
    return any(name.lower() in {wanted, f"*.{rest}"} for name in names)


def _record_of(
    certificate: Certificate | None, *, alpn: str = "", wants_certificate: bool = False
) -> bytes:
    shown = _Shown(alpn=alpn, wants_certificate=wants_certificate)
    if certificate is not None:
        shown.issuer, shown.names = certificate.issuer, certificate.names
        shown.padding = " " * CERTIFICATE_SIZE
    return record(RECORD_HANDSHAKE, _encode(shown))


async def _read(end: End) -> _Shown:
    """What the other side shows.

    Raises:
        HandshakeFailed: It sent an alert, or something else.
        HandshakeEnded: It sent nothing more.
    """
    head = await end.peek(RECORD_HEADER_SIZE)
    if len(head) < RECORD_HEADER_SIZE:
        raise HandshakeEnded(_ENDED)
    size = RECORD_HEADER_SIZE + int.from_bytes(head[3:5], "big")
    if len(await end.peek(size)) < size:
        raise HandshakeEnded(_ENDED)
    data = end.take(size)
    if data[0] == RECORD_ALERT:
        raise HandshakeFailed(explain_alert(data[-1]))
    try:
        if data[0] != RECORD_HANDSHAKE:
            raise msgspec.DecodeError("another record")
        return _decoder.decode(data[RECORD_HEADER_SIZE:])
    except msgspec.DecodeError as error:
        raise HandshakeFailed("wrong version number") from error


def _refused(end: End, alert: int, text: str) -> HandshakeFailed:
    end.push(record(RECORD_ALERT, bytes((2, alert))))
    return HandshakeFailed(text)
