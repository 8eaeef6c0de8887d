"""The connections of one gossip pool: its streams, and those that bring packets from elsewhere.

The pool's core numbers the streams and hears what becomes of them. Used on the gossip loop only.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final

from isthmus.errors import InvalidNodeName, ProtocolError, Unavailable
from isthmus.gossip.outputs import OpenStream
from isthmus.gossip.serf import Serf
from isthmus.names import host_port
from isthmus.net.direct import explain_dial
from isthmus.net.gateways import WanCarrier
from isthmus.net.gossip_protocols import PacketProtocol, StreamProtocol
from isthmus.net.network import Inbound, Network, TlsAccept
from isthmus.net.tasks import TaskScope

PACKET_CONNECTIONS_MAX: Final = 1024
"""Connections that bring packets of other datacenters; further ones are closed."""
HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds that TLS of an accepted connection may take."""
GATEWAY_TLS: Final = TlsAccept(require_client=True, alpn=True)
"""Gossip through gateways comes in over native TLS on the server port."""

_logger = logging.getLogger(__name__)


class PoolConnections:
    """Accepts and dials for one pool.

    Args:
        core: The pool's core. It bounds the number of streams.
        network: Where to dial.
        carrier: Leads into other datacenters; None: everyone is reached directly.
        scope: Owns the tasks.
        stream_timeout: Seconds that a stream which we close has for what it still has to send.
        receive_packet: Takes a packet that another datacenter's member sent.
        count: Counts something under a name.
        flush: Carries out what the core wants; called whenever it heard something.
    """

    def __init__(
        self,
        core: Serf,
        network: Network,
        carrier: WanCarrier | None,
        scope: TaskScope,
        *,
        stream_timeout: float,
        receive_packet: Callable[[bytes], None],
        count: Callable[[str], None],
        flush: Callable[[], None],
    ) -> None:
        self._core, self._network, self._carrier, self._scope = core, network, carrier, scope
        self._stream_timeout = stream_timeout
        self._receive_packet, self._count, self._flush = receive_packet, count, flush
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, StreamProtocol] = {}
        self._dials: dict[int, asyncio.Task[None]] = {}
        self._bringing_packets: set[PacketProtocol] = set()
        self._stopped = False

    def stop(self) -> None:
        """Take no more connections, and tell the core nothing any more."""
        self._stopped = True

    def abort(self) -> None:
        """Close them all at once."""
        for stream in list(self._streams.values()):
            stream.abort()
        for connection in list(self._bringing_packets):
            connection.abort()

    # --- What the core wants --------------------------------------------------------------------

    def open(self, request: OpenStream) -> None:
        """Dial, and send what the stream begins with; the core is told how it went."""
        self._dials[request.id] = self._scope.spawn(self._dial(request))

    def write(self, number: int, data: bytes) -> None:
        """Send on a stream, if it is still there."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.write(data)

    def close(self, number: int) -> None:
        """Close a stream once everything is sent, or stop dialling it."""
        dial = self._dials.pop(number, None)
        if dial is not None:
            dial.cancel()
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.close(grace=self._stream_timeout)

    # --- What others open -----------------------------------------------------------------------

    def accept_packets(self, inbound: Inbound) -> None:
        """See `Pool.accept_packets`."""
        if self._stopped or len(self._bringing_packets) >= PACKET_CONNECTIONS_MAX:
            self._count("packet_connections_refused")
            inbound.close()
            return
        protocol = PacketProtocol(self._receive_packet, self._bringing_packets.discard)
        self._bringing_packets.add(protocol)
        self._scope.spawn(self._start_packets(inbound, protocol))

    def accept_stream(self, inbound: Inbound) -> None:
        """See `Pool.accept_stream`."""
        if self._stopped:
            inbound.close()
        else:
            self._scope.spawn(self.serve(inbound, tls=GATEWAY_TLS))

    async def serve(self, inbound: Inbound, *, tls: TlsAccept | None) -> None:
        """Make a stream of an accepted connection, if the core has room for it."""
        number = None
        if not self._stopped:
            number = self._core.accept_stream(peer=inbound.peer, now=self._loop.time())
        if number is None:
            inbound.close()
            return
        stream = self._streams[number] = self._make_stream()
        started = await self._start(inbound, stream, tls=tls)
        if started and number in self._streams:
            stream.attach(number)
        elif self._streams.pop(number, None) is not None and not self._stopped:
            self._core.stream_failed(number, "handshake failed", now=self._loop.time())
        else:
            stream.abort()  # Its time ran out before it began.
        self._flush()

    async def _start_packets(self, inbound: Inbound, protocol: PacketProtocol) -> None:
        if not await self._start(inbound, protocol, tls=GATEWAY_TLS):
            self._bringing_packets.discard(protocol)

    async def _start(
        self, inbound: Inbound, protocol: asyncio.BaseProtocol, *, tls: TlsAccept | None
    ) -> bool:
        """Run a protocol on an accepted connection; False: its handshake failed."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await inbound.start(protocol, tls=tls)
        except (OSError, ssl.SSLError, ProtocolError) as error:
            _logger.debug("gossip connection from %s: %s", inbound.peer[0], error)
            self._count("connections_failed")
            inbound.close()
            return False
        return True

    # --- What we open ---------------------------------------------------------------------------

    async def _dial(self, request: OpenStream) -> None:
        made: list[StreamProtocol] = []

        def make() -> StreamProtocol:
            made.append(self._make_stream())
            return made[-1]

        try:
            stream = await self._connect(request, make)
        except asyncio.CancelledError:
            for stream in made:  # It may have been connected this very moment.
                stream.abort()
            raise
        except OSError as error:
            text, _ = explain_dial(error, host_port(*request.address))
            refused = isinstance(error, ConnectionRefusedError) and not self._carries(request.node)
            self._core.stream_failed(request.id, text, refused=refused, now=self._loop.time())
        except (Unavailable, InvalidNodeName, ProtocolError) as error:
            text = str(error) or type(error).__name__
            self._core.stream_failed(request.id, text, now=self._loop.time())
        else:
            self._streams[request.id] = stream
            stream.write(request.data)
            self._core.stream_opened(request.id, now=self._loop.time())
            stream.attach(request.id)
        finally:
            self._dials.pop(request.id, None)
        self._flush()

    async def _connect(
        self, request: OpenStream, make: Callable[[], StreamProtocol]
    ) -> StreamProtocol:
        carrier = self._carrier
        if carrier is not None and carrier.carries(request.node):
            return await carrier.open_stream(request.node, make, timeout=request.timeout)
        host, port = request.address
        return await self._network.dial(make, host, port, tls=None, timeout=request.timeout)

    def _carries(self, name: str) -> bool:
        """Whether a name that was dialled belongs to another datacenter."""
        return self._carrier is not None and self._carrier.carries(name)

    # --- What streams bring ---------------------------------------------------------------------

    def _make_stream(self) -> StreamProtocol:
        return StreamProtocol(self._receive_data, self._stream_lost)

    def _receive_data(self, number: int, data: bytes) -> None:
        if not self._stopped:
            self._core.receive_stream_data(number, data, now=self._loop.time())
            self._flush()

    def _stream_lost(self, number: int, stream: StreamProtocol) -> None:
        if self._streams.get(number) is stream:
            del self._streams[number]
            if not self._stopped:
                self._core.receive_stream_eof(number, now=self._loop.time())
                self._flush()
