"""TLS by names: the same peers are refused, with the same words, as by the real one."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import ProtocolError
from isthmus.names import Alpn
from isthmus.net.network import Inbound, TlsAccept, TlsDial
from isthmus.net.tls import AlpnRefused, HandshakeEnded, HandshakeFailed, TlsDisabled
from isthmus.sim.fabric import HostNetwork
from isthmus.sim.handshake import Certificate, client_hello, names_match
from isthmus.sim.stream import RECORD_DATA, record
from isthmus.wire.tlshello import parse_client_hello
from support.fabrics import LATENCY, Accept, Lab, Recorder

NATIVE = TlsAccept(require_client=True, alpn=True)
DIAL = TlsDial("beta.server.dc1.consul", Alpn.RPC_MULTI)


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


def dial(
    lab: Lab,
    tls: TlsDial,
    accept: Accept,
    *,
    preamble: bytes = b"",
    network: HostNetwork | None = None,
) -> Recorder:
    """Dial from alpha, by another network of its if one is given, to beta: there waits `accept`."""
    lab.listen(lab.beta, accept)
    network = network or lab.alpha.network
    work = network.dial(Recorder, "10.0.1.2", 80, tls=tls, timeout=5, preamble=preamble)
    try:
        return lab.run(lab.alpha, work)
    finally:
        lab.sleep(LATENCY * 3)


def test_peers_of_one_ca_speak_and_know_each_other(lab: Lab) -> None:
    accept = Accept(NATIVE)
    near = dial(lab, DIAL, accept)
    (far,) = accept.made
    near.transport.write(b"a" * 40_000)
    far.transport.write(b"b")
    lab.sleep(1)
    assert (far.data, near.data) == (b"a" * 40_000, b"b")
    certificate = far.transport.get_extra_info("peercert")
    assert ("DNS", "alpha.server.dc1.consul") in certificate["subjectAltName"]
    assert near.transport.get_extra_info("ssl_object")
    assert not near.transport.can_write_eof()


def test_client_hello_is_really_there(lab: Lab) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []
    accept = Accept()

    async def look(inbound: Inbound) -> None:
        assert await inbound.first_byte() == 0x16
        hello = await inbound.hello()
        assert hello is not None
        seen.append((hello.server_name, hello.alpn))
        inbound.close()

    accept.on_accept = look
    with pytest.raises(HandshakeEnded, match="ended the connection"):
        dial(lab, DIAL, accept)
    assert seen == [(DIAL.server_name, (DIAL.alpn,))]


@pytest.mark.parametrize(
    ("tls", "files", "ours", "theirs"),
    [
        (
            TlsDial("alpha.server.dc2.consul", Alpn.RPC_MULTI),
            {},
            "Hostname mismatch, certificate is not valid for 'alpha.server.dc2.consul'",
            "the peer refused our certificate: bad certificate",
        ),
        (
            DIAL,
            {"ca_file": "other.pem", "cert_file": "alpha.pem", "key_file": "k"},
            "unable to get local issuer certificate",
            "the peer refused our certificate: unknown ca",
        ),
        (
            TlsDial(DIAL.server_name, "h2"),
            {},
            "the peer refused the handshake: no application protocol",
            "no application protocol",
        ),
    ],
)
def test_refusal_in_the_handshake_is_told_to_both(
    lab: Lab, tls: TlsDial, files: dict[str, str], ours: str, theirs: str
) -> None:
    accept = Accept(NATIVE)
    with pytest.raises(HandshakeFailed, match=ours):
        dial(lab, tls, accept, network=lab.network(lab.alpha, **files) if files else None)
    assert [str(error) for error in accept.errors] == [theirs]
    assert lab.alpha.host.connection_count == lab.beta.host.connection_count == 0


@pytest.mark.parametrize(
    ("files", "told", "logged"),
    [
        (
            {"ca_file": "ca.pem"},
            "the peer refused our certificate: certificate required",
            "peer did not return a certificate",
        ),
        (
            {"ca_file": "ca.pem", "cert_file": "stranger.pem", "key_file": "k"},
            "the peer refused our certificate: unknown ca",
            "the peer's certificate is refused: unable to get local issuer certificate",
        ),
    ],
)
def test_client_certificate_is_refused_after_the_client_s_handshake(
    lab: Lab, files: dict[str, str], told: str, logged: str
) -> None:
    """As in TLS 1.3, where the client is done first and learns of it from an alert."""
    lab.fabric.certificates["stranger.pem"] = Certificate("stranger-ca.pem", ("server.dc1.consul",))
    accept = Accept(NATIVE)
    near = dial(lab, DIAL, accept, network=lab.network(lab.alpha, **files))
    assert [str(error) for error in accept.errors] == [logged]
    assert isinstance(near.lost[0], HandshakeFailed)
    assert str(near.lost[0].args[1]) == told


def test_certificate_of_a_client_may_not_act_as_a_server(lab: Lab) -> None:
    lab.fabric.certificates["client.pem"] = Certificate("ca.pem", ("client.dc1.consul",))
    accept = Accept(NATIVE)
    network = lab.network(lab.alpha, ca_file="ca.pem", cert_file="client.pem", key_file="k")
    near = dial(lab, DIAL, accept, network=network)
    assert "not a server's" in str(accept.errors[0])
    assert near.lost


def test_protocol_that_was_not_agreed_upon_is_refused_by_the_client(lab: Lab) -> None:
    with pytest.raises(AlpnRefused, match="does not speak"):
        dial(lab, DIAL, Accept(TlsAccept(require_client=False, alpn=False)))


def test_tls_behind_a_type_byte(lab: Lab) -> None:
    accept = Accept(TlsAccept(require_client=False, alpn=False), skip=1)
    near = dial(lab, TlsDial(""), accept, preamble=b"\x03")
    near.transport.write(b"inside")
    lab.sleep(1)
    assert accept.made[0].data == b"inside"
    assert accept.made[0].transport.get_extra_info("peercert") is None


def test_without_a_ca_nothing_is_tried(lab: Lab) -> None:
    lines = len(lab.lines)
    network = lab.network(lab.alpha)
    work = network.dial(Recorder, "10.0.1.2", 80, tls=DIAL, timeout=5)
    with pytest.raises(TlsDisabled):
        lab.run(lab.alpha, work)
    assert len(lab.lines) == lines


def test_without_a_certificate_nothing_is_accepted(lab: Lab) -> None:
    accept = Accept(NATIVE)
    lab.beta.network = lab.network(lab.beta, ca_file="ca.pem")
    with pytest.raises(HandshakeEnded):
        dial(lab, DIAL, accept)
    assert isinstance(accept.errors[0], TlsDisabled)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request", record(RECORD_DATA, b"x"), b"\x16"]
)
def test_answer_that_is_no_tls_fails_the_handshake(lab: Lab, answer: bytes) -> None:
    accept = Accept()

    async def reply(inbound: Inbound) -> None:
        protocol = await inbound.start(Recorder(), tls=None)
        protocol.transport.write(answer)
        protocol.transport.close()

    accept.on_accept = reply
    with pytest.raises(HandshakeFailed):
        dial(lab, DIAL, accept)


def test_hello_that_is_cut_off_is_an_error(lab: Lab) -> None:
    errors: list[Exception] = []
    accept = Accept()

    async def look(inbound: Inbound) -> None:
        try:
            await inbound.hello()
        except ProtocolError as error:
            errors.append(error)

    accept.on_accept = look
    lab.listen(lab.beta, accept)

    async def work() -> None:
        near = await lab.alpha.network.dial(Recorder, "10.0.1.2", 80, tls=None, timeout=5)
        near.transport.write(client_hello("server.dc1.consul", (), bytes(32))[:20])
        near.transport.close()

    lab.run(lab.alpha, work())
    lab.sleep(1)
    assert len(errors) == 1


label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@given(
    names=st.lists(label, min_size=0, max_size=4),
    alpn=st.lists(st.from_regex(r"[a-z0-9/.-]{1,30}", fullmatch=True), max_size=4),
    random=st.binary(min_size=32, max_size=32),
)
def test_every_hello_is_read_as_it_was_meant(
    names: list[str], alpn: list[str], random: bytes
) -> None:
    name = ".".join(names)
    data = client_hello(name, alpn, random)
    hello = parse_client_hello(data + b"more")
    assert hello is not None
    assert (hello.server_name, hello.alpn, hello.size) == (name, tuple(alpn), len(data))


@pytest.mark.parametrize(
    ("names", "wanted", "matches"),
    [
        (("server.dc1.consul",), "server.dc1.consul", True),
        (("Server.DC1.consul",), "server.dc1.CONSUL", True),
        (("*.server.dc1.consul",), "alpha.server.dc1.consul", True),
        (("*.server.dc1.consul",), "a.b.server.dc1.consul", False),
        (("*.server.dc1.consul",), "server.dc1.consul", False),
        (("server.dc2.consul",), "server.dc1.consul", False),
        ((), "server.dc1.consul", False),
    ],
)
def test_names_match_as_in_certificates(names: tuple[str, ...], wanted: str, matches: bool) -> None:
    assert names_match(names, wanted) is matches
