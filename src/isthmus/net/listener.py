"""The server port: accepts, finds out what speaks, hands over; answers RPC.

The first byte is looked at, never guessed; whatever a peer does wrong costs it this one
connection. Gossip connections are handed on unstarted, since their handshake belongs to the
gossip thread's loop. Source: protocol/rpc.md §1, protocol/federation.md §13.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from isthmus.errors import IsthmusError, MalformedPacket, ProtocolError, UnknownProtocol
from isthmus.model.record import Record
from isthmus.net.connections import ConnectionSet, SharedMemory
from isthmus.net.multiplex import MultiplexProtocol
from isthmus.net.network import Inbound, Listening, Network, TlsAccept
from isthmus.net.tasks import TaskScope
from isthmus.net.tls import (
    HandshakeFailed,
    TlsConfigurator,
    certificate_names,
    outlive_end,
    server_dcs,
)
from isthmus.rpc.calls import CallMalformed, CallReceived, ServerChannel
from isthmus.rpc.replies import Answers
from isthmus.rpc.sniff import Speaks, choose_alpn, sniff_alpn, sniff_byte, sniff_inner_byte
from isthmus.rpc.yamux import (
    DataReceived,
    Output,
    Role,
    SessionClosed,
    SessionConfig,
    StreamDrained,
    StreamEnded,
    StreamOpened,
    StreamReset,
)
from isthmus.wire.blob import message_from_plain
from isthmus.wire.netrpc import RequestHeader
from isthmus.wire.tlshello import RECORD_HANDSHAKE, ClientHello

P = TypeVar("P", bound=asyncio.BaseProtocol)

INCOMPLETE_SIZE_MAX: Final = 64 * 1024 * 1024
"""Bytes of incomplete requests that one connection may make us hold."""
INCOMPLETE_TOTAL_MAX: Final = 128 * 1024 * 1024
"""The same of all connections; then one of the address that holds most is dropped. Memory is
twice that: an incomplete request is held by the reader and by its scanner.
"""
UNREAD_SIZE_MAX: Final = 256 * 1024
"""Bytes held of requests that follow a running one, on a connection without yamux."""
UNSENT_TOTAL_MAX: Final = 256 * 1024 * 1024
"""Bytes of answers that callers do not take, of all connections; then one is dropped likewise."""
REFUSAL_TOLD_INTERVAL: Final = 60.0
"""Seconds between two log lines about addresses with too many connections."""
REASONS_TOLD_MAX: Final = 10
"""Refused connections of one kind that are logged with their reason in each such interval."""

_KIND_SIZE: Final = 20  # Characters of a reason, without its numbers, that say of which kind it is.
_NUMBERS: Final = re.compile(r"\d+")
_KINDS_MAX: Final = 64
_RECORD_ALERT: Final = 0x15
_ALERT_UNEXPECTED_MESSAGE: Final = bytes.fromhex("1503010002020a")
_ALERT_NO_APPLICATION_PROTOCOL: Final = bytes.fromhex("15030100020278")
_INTERNAL_ERROR: Final = "internal error"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """Who calls.

    Attributes:
        host: Address it comes from; a gateway's for calls of other datacenters.
        port: Port it comes from.
        names: DNS names of its certificate; empty when none was demanded.
        dcs: Datacenters whose server the certificate proves it to be.
        alpn: Negotiated ALPN name; empty behind a type byte.
        is_client: Its certificate is no server's, and it may not act as one.
    """

    host: str
    port: int
    names: tuple[str, ...] = ()
    dcs: frozenset[str] = frozenset()
    alpn: str = ""
    is_client: bool = False


class Dispatcher(Protocol):
    """Answers calls."""

    def request_type(self, method: str) -> type[Record]:
        """Type of a method's argument.

        Raises:
            RequestError: There is no such method; the text is Go's.
        """

    async def call(self, method: str, request: Record, peer: PeerInfo) -> object:
        """Answer one call; cancelled when the caller gives up or its connection ends.

        Raises:
            IsthmusError: The text is what the caller gets.
        """


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """Limits and switches of the server port; times in seconds.

    Attributes:
        handshake_timeout: From accepting to a protocol that speaks, TLS handshake included.
        connections_per_client: From one address; more are closed at once.
        connections_per_gateway: The same from a gateway's, behind which whole datacenters come.
        native_tls: We have a CA and a certificate: great first bytes are TLS.
        demand_tls: Refuse what comes in clear.
        demand_certificate: Demand a client certificate in TLS behind the type byte; native TLS
            always does.
        domain: DNS domain of the federation.
        allow_client_certificates: A certificate that is no server's may act as one all the same.
        session: Limits of yamux sessions.
        incomplete_total_max: Bytes of incomplete requests that all connections hold together.
        unsent_total_max: Bytes of answers that all callers together do not take.
    """

    handshake_timeout: float = 5.0
    connections_per_client: int = 100
    connections_per_gateway: int = 2048
    native_tls: bool = False
    demand_tls: bool = False
    demand_certificate: bool = False
    domain: str = "consul"
    allow_client_certificates: bool = False
    session: SessionConfig = field(default_factory=SessionConfig)
    incomplete_total_max: int = INCOMPLETE_TOTAL_MAX
    unsent_total_max: int = UNSENT_TOTAL_MAX

    def __post_init__(self) -> None:
        """Check the relations between the values."""
        assert self.handshake_timeout > 0
        assert self.connections_per_client > 0
        assert self.connections_per_gateway > 0

    @classmethod
    def of_tls(
        cls,
        tls: TlsConfigurator,
        *,
        handshake_timeout: float = 5.0,
        connections_per_client: int = 100,
    ) -> "ListenerConfig":
        """Switches as the TLS configuration asks for them."""
        demand = tls.config.demands_tls_for_rpc
        return cls(
            handshake_timeout=handshake_timeout,
            connections_per_client=connections_per_client,
            native_tls=tls.native_tls,
            demand_tls=demand,
            demand_certificate=demand,
            domain=tls.config.domain,
            allow_client_certificates=tls.config.allow_client_certificates,
        )


class ServerListener:
    """The server port of one agent.

    Args:
        network: Where to listen.
        config: Limits and switches.
        dispatcher: Answers the calls.
        on_gossip_packets: Takes an unstarted connection that carries gossip packets; it must
            `start` it with a client certificate demanded, or close it. May do so on another
            thread's loop. None: such connections are closed.
        on_gossip_stream: The same for a gossip stream.
        handlers: Makes protocols for what is not served here (snapshot, gRPC, Raft); what has
            none is closed.
        is_gateway: Whether an address is a gateway's, so that `connections_per_gateway` counts.
    """

    def __init__(
        self,
        network: Network,
        config: ListenerConfig,
        dispatcher: Dispatcher,
        *,
        on_gossip_packets: Callable[[Inbound], None] | None = None,
        on_gossip_stream: Callable[[Inbound], None] | None = None,
        handlers: Mapping[Speaks, Callable[[], asyncio.Protocol]] | None = None,
        is_gateway: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self._network, self._config, self._dispatcher = network, config, dispatcher
        self._answers = Answers()
        self._gossip = {
            Speaks.WAN_PACKETS: on_gossip_packets,
            Speaks.WAN_STREAM: on_gossip_stream,
        }
        self._handlers = handlers or {}
        self._is_gateway = is_gateway
        self._calls = TaskScope()
        self._connections: Counter[str] = Counter()  # By address.
        self._open = ConnectionSet()  # Those served here.
        self._incomplete = SharedMemory(config.incomplete_total_max)
        self._unsent = SharedMemory(config.unsent_total_max)
        self._listening: Listening | None = None
        self._closing = False
        self._refusal_told_at = self._reasons_told_at = float("-inf")
        self._reasons_told: Counter[str] = Counter()  # By kind.
        self.accepted_count = 0
        """Connections that arrived, those refused included."""
        self.refused_count = 0
        """Connections closed because their address had too many."""

    @property
    def address(self) -> tuple[str, int]:
        """Address and port we listen on."""
        assert self._listening is not None
        return self._listening.address

    @property
    def connection_count(self) -> int:
        """Connections that are open, those handed to gossip included."""
        return self._connections.total()

    @property
    def aborted_count(self) -> int:
        """Connections aborted because all together held too much memory."""
        return self._incomplete.aborted_count + self._unsent.aborted_count

    async def start(self, host: str, port: int) -> None:
        """Open the port.

        Raises:
            OSError: It cannot be opened.
        """
        self._listening = await self._network.listen(host, port, self._accept)

    def reconfigure(self, config: ListenerConfig) -> None:
        """Go by other limits and switches from now on; connections that are open stay.

        What all connections together may hold in memory does not change.
        """
        self._config = config

    async def close(self) -> None:
        """Close the port, cancel running calls, close the connections served here."""
        self._closing = True
        if self._listening is not None:
            await self._listening.close()
        self._open.shut()  # First, so that no call arrives any more.
        await self._calls.close()
        await self._open.close()

    # Accepting -------------------------------------------------------------------------------

    async def _accept(self, inbound: Inbound) -> None:
        host = inbound.peer[0]
        self.accepted_count += 1
        if not self._has_room(host):
            inbound.close()
            return
        place = _Place(self._connections, host)
        try:
            async with asyncio.timeout(self._config.handshake_timeout):
                await self._welcome(inbound, place)
        except TimeoutError:
            self._refuse(inbound, "nothing complete within the handshake timeout")
        except (ProtocolError, HandshakeFailed, OSError) as error:
            self._refuse(inbound, str(error))
        except BaseException:
            inbound.close()
            place.release()
            raise
        else:
            return  # What runs now gives the place back when its connection is lost.
        place.release()

    def _has_room(self, host: str) -> bool:
        """Whether an address may have one more connection; counts it, and warns, if not."""
        count = self._connections[host]
        if count < self._config.connections_per_client:
            return True
        gateway = self._is_gateway(host)
        if gateway and count < self._config.connections_per_gateway:
            return True
        self.refused_count += 1
        now = asyncio.get_running_loop().time()
        if now >= self._refusal_told_at + REFUSAL_TOLD_INTERVAL:
            self._refusal_told_at = now
            _logger.warning(
                "server port: too many connections of one %s, further ones are closed",
                "gateway" if gateway else "address",
                extra={"peer": host, "open": count, "refused": self.refused_count},
            )
        return False

    def _refuse(self, inbound: Inbound, reason: str) -> None:
        inbound.close()
        now = asyncio.get_running_loop().time()
        if now >= self._reasons_told_at + REFUSAL_TOLD_INTERVAL:
            self._reasons_told_at = now
            self._reasons_told.clear()
        kind = _NUMBERS.sub("", reason)[:_KIND_SIZE]
        if kind not in self._reasons_told and len(self._reasons_told) >= _KINDS_MAX:
            kind = "other"
        self._reasons_told[kind] += 1
        if self._reasons_told[kind] <= REASONS_TOLD_MAX:
            extra = {"peer": inbound.peer[0]}
            _logger.info("server port: connection refused: %s", reason, extra=extra)
        elif self._reasons_told[kind] == REASONS_TOLD_MAX + 1:
            _logger.info("server port: further refusals of this kind are not told this minute")

    async def _welcome(self, inbound: Inbound, place: "_Place") -> None:
        first = await inbound.first_byte()
        if first is None:
            raise UnknownProtocol("connection ended before its first byte")
        speaks = sniff_byte(first, native_tls=self._config.native_tls)
        if speaks is Speaks.NATIVE_TLS:
            await self._welcome_native_tls(inbound, place, first)
        elif speaks is Speaks.TLS:
            accept = TlsAccept(require_client=self._config.demand_certificate, alpn=False)
            sniffer = _InnerSniffer()
            try:
                await inbound.start(sniffer, tls=accept, skip=1)
                inner = sniff_inner_byte(await sniffer.first)
                protocol = self._protocol(inner, inbound, place, "")
                sniffer.become(protocol)
            except BaseException:
                sniffer.abort()
                raise
        elif self._config.demand_tls:
            raise UnknownProtocol("Non-TLS connection attempted with VerifyIncoming set")
        else:
            protocol = self._protocol(speaks, inbound, place, "")
            await inbound.start(protocol, tls=None, skip=1)

    async def _welcome_native_tls(self, inbound: Inbound, place: "_Place", first: int) -> None:
        try:
            hello = await inbound.hello()
        except ProtocolError:
            if first == RECORD_HANDSHAKE:
                await _tell(inbound, place, _ALERT_UNEXPECTED_MESSAGE)
            raise
        if hello is None:
            if first == _RECORD_ALERT:
                await _tell(inbound, place, _ALERT_UNEXPECTED_MESSAGE)
            raise UnknownProtocol(f"first byte {first} is neither a type byte nor TLS")
        await self._welcome_hello(inbound, place, hello)

    async def _welcome_hello(self, inbound: Inbound, place: "_Place", hello: ClientHello) -> None:
        accept = TlsAccept(require_client=True, alpn=True)
        try:
            alpn = choose_alpn(hello)
        except UnknownProtocol:
            await _tell(inbound, place, _ALERT_NO_APPLICATION_PROTOCOL)
            raise
        speaks = None if alpn is None else _speaks(alpn)
        on_gossip = None if speaks is None else self._gossip.get(speaks)
        if on_gossip is not None:
            on_gossip(_Handover(inbound, place))
        elif alpn is None or speaks is None or not self._serves(speaks):
            await inbound.start(_Closer(place), tls=accept)
        else:
            await inbound.start(self._protocol(speaks, inbound, place, alpn), tls=accept)

    def _serves(self, speaks: Speaks) -> bool:
        return speaks in {Speaks.RPC_SINGLE, Speaks.RPC_MULTI} or speaks in self._handlers

    def _protocol(
        self, speaks: Speaks, inbound: Inbound, place: "_Place", alpn: str
    ) -> asyncio.BaseProtocol:
        """Make the protocol that serves a connection.

        Raises:
            UnknownProtocol: Nothing serves it.
        """
        serving = _Serving(self, inbound.peer, alpn, place)
        if speaks is Speaks.RPC_MULTI:
            return _MultiConnection(serving)
        if speaks is Speaks.RPC_SINGLE:
            return _SingleConnection(serving)
        if speaks in self._handlers:
            return _Watched(self._handlers[speaks](), serving.made, serving.lost)
        raise UnknownProtocol(f"{speaks.name.lower()} is not served")


class _Place:
    """One connection's place among those of its address; given back once."""

    def __init__(self, counts: Counter[str], host: str) -> None:
        self._counts: Counter[str] | None = counts
        self._host = host
        counts[host] += 1

    def release(self) -> None:
        if self._counts is not None:
            counts, self._counts = self._counts, None
            counts[self._host] -= 1
            if not counts[self._host]:
                del counts[self._host]


class _Serving:
    """What a connection's protocol knows of its listener."""

    def __init__(
        self, listener: ServerListener, address: tuple[str, int], alpn: str, place: _Place
    ) -> None:
        self._listener, self._place = listener, place
        self._transport: asyncio.Transport | None = None
        self.session_config = listener._config.session
        self.peer = PeerInfo(*address, alpn=alpn)

    def made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there; find out who calls."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        certificate = transport.get_extra_info("peercert")
        if certificate:
            config = self._listener._config
            dcs = server_dcs(certificate, config.domain)
            self.peer = replace(
                self.peer,
                names=certificate_names(certificate),
                dcs=dcs,
                is_client=not dcs and not config.allow_client_certificates,
            )
        self._listener._open.add(transport)
        if self._listener._closing:
            transport.abort()

    def holds(self, size: int) -> None:
        """The connection holds so many bytes of incomplete requests; may abort it."""
        if self._transport is not None:
            self._listener._incomplete.note(self._transport, self.peer.host, size)

    def owes(self, size: int) -> None:
        """The connection holds so many bytes of answers not taken; may abort it."""
        if self._transport is not None:
            self._listener._unsent.note(self._transport, self.peer.host, size)

    def lost(self) -> None:
        """The connection is gone."""
        self._place.release()
        self.holds(0)
        self.owes(0)
        if self._transport is not None:
            self._listener._open.discard(self._transport)

    def call(
        self, event: CallReceived, answered: Callable[["_Answer"], None]
    ) -> asyncio.Task[None]:
        """Start answering a call; `answered` runs unless the task is cancelled."""
        return self._listener._calls.spawn(self._call(event, answered))

    async def _call(self, event: CallReceived, answered: Callable[["_Answer"], None]) -> None:
        listener = self._listener
        body = event.body
        answered(
            await _answer(listener._dispatcher, listener._answers, event.header, body, self.peer)
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """How a call ended: with a reply, or an error and perhaps the channel's end."""

    body: bytes = b""
    error: str = ""
    ends_channel: bool = False


async def _answer(
    dispatcher: Dispatcher, answers: Answers, header: RequestHeader, body: object, peer: PeerInfo
) -> _Answer:
    """Decode, dispatch, encode. Source: protocol/rpc.md §3.1, which errors end the channel."""
    method = header.method
    try:
        request = message_from_plain(dispatcher.request_type(method), body)
    except MalformedPacket as error:
        return _Answer(error=f"codec.decoder: {error}", ends_channel=True)
    except IsthmusError as error:
        return _Answer(error=str(error) or type(error).__name__, ends_channel=True)
    try:
        return _Answer(answers.encode(await dispatcher.call(method, request, peer)))
    except IsthmusError as error:
        return _Answer(error=str(error) or type(error).__name__)
    except AssertionError:
        raise
    except Exception:
        _logger.exception("a call failed", extra={"rpc": method, "peer": peer.host})
        return _Answer(error=_INTERNAL_ERROR)


# Protocols ---------------------------------------------------------------------------------------


class _Stream:
    """One stream of a yamux connection, as the answering side."""

    __slots__ = ("channel", "draining", "incomplete_size", "task", "unsent_size")

    def __init__(self) -> None:
        self.channel = ServerChannel()
        self.task: asyncio.Task[None] | None = None
        self.draining = False  # The answer waits for the peer's window: no further call yet.
        self.incomplete_size = 0
        self.unsent_size = 0  # Of the answer that waits.


class _MultiConnection(MultiplexProtocol):
    """A yamux session whose streams each carry a channel."""

    def __init__(self, serving: _Serving) -> None:
        super().__init__(Role.ACCEPTOR, serving.session_config)
        self._serving = serving
        self._streams: dict[int, _Stream] = {}
        self._incomplete_size = self._unsent_size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._serving.made(transport)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._serving.lost()

    def on_event(self, event: Output) -> None:
        match event:
            case DataReceived(stream_id, data):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.channel.receive_data(data)
                    self._advance(stream_id, stream)
                    self._check_size()
            case StreamOpened(stream_id):
                self._streams[stream_id] = _Stream()
            case StreamEnded(stream_id):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.channel.receive_eof()
                    self._advance(stream_id, stream)
            case StreamDrained(stream_id):
                stream = self._streams.get(stream_id)
                if stream is not None and stream.draining:
                    stream.draining = False
                    self._owe(stream, 0)
                    self._advance(stream_id, stream)
            case StreamReset(stream_id):
                self._forget(stream_id)
            case SessionClosed(error):
                if error is not None:
                    _logger.info(
                        "server port: session ended: %s",
                        error,
                        extra={"peer": self._serving.peer.host},
                    )
                for stream_id in list(self._streams):
                    self._forget(stream_id)
            case _:
                return

    def _advance(self, stream_id: int, stream: _Stream) -> None:
        """Do what a stream's channel allows now: read on, start its next call, or end it."""
        channel = stream.channel
        self._incomplete_size += channel.incomplete_size - stream.incomplete_size
        stream.incomplete_size = channel.incomplete_size
        if consumed := channel.take_consumed():
            self.session.consume(stream_id, consumed)
        if stream.draining:
            return
        for event in channel.take_events():
            if isinstance(event, CallMalformed):
                if event.answer:
                    self.session.send(stream_id, event.answer)
            else:
                stream.task = self._serving.call(
                    event, lambda answer: self._answered(stream_id, stream, answer)
                )
        if channel.is_finished:
            self._end(stream_id)

    def _answered(self, stream_id: int, stream: _Stream, answer: _Answer) -> None:
        channel = stream.channel
        stream.task = None
        data = channel.refuse(answer.error) if answer.error else channel.answer(answer.body)
        stream.draining = not self.session.send(stream_id, data)
        if stream.draining:
            self._owe(stream, len(data))
        if answer.ends_channel:
            self._end(stream_id)
        else:
            self._advance(stream_id, stream)
        self.flush_soon()

    def _owe(self, stream: _Stream, size: int) -> None:
        self._unsent_size += size - stream.unsent_size
        stream.unsent_size = size
        self._serving.owes(self._unsent_size)

    def _end(self, stream_id: int) -> None:
        self.session.end(stream_id, now=self._loop.time())
        self._forget(stream_id)

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._incomplete_size -= stream.incomplete_size
            self._serving.holds(self._incomplete_size)
            self._owe(stream, 0)
            if stream.task is not None:
                stream.task.cancel()

    def _check_size(self) -> None:
        self._serving.holds(self._incomplete_size)
        if self._incomplete_size > INCOMPLETE_SIZE_MAX:
            _logger.warning(
                "server port: too many incomplete requests",
                extra={"peer": self._serving.peer.host},
            )
            self.session.close()


class _SingleConnection(asyncio.Protocol):
    """A connection that is itself one channel."""

    def __init__(self, serving: _Serving) -> None:
        self._serving = serving
        self._channel = ServerChannel()
        self._task: asyncio.Task[None] | None = None
        self._unread_size = 0
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._serving.made(transport)

    def data_received(self, data: bytes) -> None:
        self._unread_size += len(data)
        self._channel.receive_data(data)
        self._serving.holds(self._channel.incomplete_size)
        self._advance()

    def eof_received(self) -> bool:
        self._channel.receive_eof()
        self._advance()
        return self._transport.get_extra_info("ssl_object") is None  # TLS cannot be half-closed.

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        self._serving.lost()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._serving.owes(0)
        self._advance()

    def _advance(self) -> None:
        self._unread_size -= self._channel.take_consumed()
        if self._transport.is_closing():
            return
        if self._writable:
            for event in self._channel.take_events():
                if isinstance(event, CallMalformed):
                    self._transport.write(event.answer)
                else:
                    self._task = self._serving.call(event, self._answered)
            if self._channel.is_finished:
                self._transport.close()
                return
        if self._unread_size > UNREAD_SIZE_MAX:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _answered(self, answer: _Answer) -> None:
        self._task = None
        channel = self._channel
        data = channel.refuse(answer.error) if answer.error else channel.answer(answer.body)
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if not self._writable:
            self._serving.owes(self._transport.get_write_buffer_size())
        if answer.ends_channel:
            self._transport.close()
        else:
            self._advance()


class _InnerSniffer(asyncio.Protocol):
    """Waits, inside TLS, for the second type byte; whoever ends behind it gets its answer yet."""

    def __init__(self) -> None:
        self.first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        outlive_end(transport, self._ended)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._data += data
        self._transport.pause_reading()
        if not self.first.done():
            self.first.set_result(data[0])

    def connection_lost(self, error: Exception | None) -> None:
        self._ended()

    def _ended(self) -> None:
        if not self.first.done():
            self.first.set_exception(UnknownProtocol("connection ended before its inner byte"))

    def become(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to the protocol that its inner byte asked for."""
        transport = self._transport
        assert transport is not None
        assert isinstance(protocol, asyncio.Protocol)
        if transport.is_closing():
            raise UnknownProtocol("connection ended after its inner byte")
        outlive_end(transport, None)  # The protocol may say otherwise.
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if len(self._data) > 1:
            protocol.data_received(self._data[1:])
        if not transport.is_closing():
            transport.resume_reading()

    def abort(self) -> None:
        self.first.cancel()
        if self._transport is not None:
            self._transport.abort()


class _Closer(asyncio.Protocol):
    """Closes a connection that nothing serves, once its handshake is done."""

    def __init__(self, place: _Place) -> None:
        self._place = place

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._place.release()


class _Teller(asyncio.Protocol):
    """Sends a TLS alert in answer to a hello, and closes."""

    def __init__(self, alert: bytes, place: _Place) -> None:
        self._alert, self._place = alert, place
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._alert)

    def data_received(self, data: bytes) -> None:
        # Unread bytes would turn the close into a reset, which overtakes the alert.
        assert self._transport is not None
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._place.release()


async def _tell(inbound: Inbound, place: _Place, alert: bytes) -> None:
    await inbound.start(_Teller(alert, place), tls=None)


class _Watched(asyncio.Protocol):
    """Passes everything to another protocol, and tells when the connection comes and goes."""

    def __init__(
        self,
        inner: asyncio.BaseProtocol,
        made: Callable[[asyncio.BaseTransport], None],
        lost: Callable[[], None],
    ) -> None:
        assert isinstance(inner, asyncio.Protocol)
        self._inner, self._made, self._lost = inner, made, lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made(transport)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost()
        self._inner.connection_lost(error)


class _Handover:
    """An unstarted connection on its way to another thread; keeps its place until it is lost."""

    def __init__(self, inbound: Inbound, place: _Place) -> None:
        self._inbound, self._place = inbound, place
        self._loop = asyncio.get_running_loop()

    @property
    def peer(self) -> tuple[str, int]:
        return self._inbound.peer

    async def first_byte(self) -> int | None:
        return await self._inbound.first_byte()

    async def hello(self) -> ClientHello | None:
        return await self._inbound.hello()

    async def start(self, protocol: P, *, tls: TlsAccept | None, skip: int = 0) -> P:
        try:
            watched = _Watched(protocol, lambda transport: None, self._lost)
            await self._inbound.start(watched, tls=tls, skip=skip)
        except BaseException:
            self._lost()
            raise
        return protocol

    def close(self) -> None:
        self._inbound.close()
        self._lost()

    def _lost(self) -> None:
        with suppress(RuntimeError):  # The listener's loop is closed: nobody counts any more.
            self._loop.call_soon_threadsafe(self._place.release)


def _speaks(alpn: str) -> Speaks | None:
    try:
        return sniff_alpn(alpn)
    except UnknownProtocol:
        return None
