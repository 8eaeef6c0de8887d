"""One client's connection: its hello, the dial to an endpoint, then two flows.

| phase | what is watched | leads to |
| --- | --- | --- |
| hello | the client | a route and a dial, or a reset |
| dial | the attempts, and the client once an endpoint has the hello | two flows, or a reset |
| forwarding | both sockets | both ends passed on: close; an error: reset of both |
"""

import logging
from functools import partial

from isthmus.errors import MalformedPacket
from isthmus.gateway.config import GatewayConfig
from isthmus.gateway.counters import Counters, RouteCounters
from isthmus.gateway.dial import Dial, Dialer
from isthmus.gateway.flow import Carriage, Flow
from isthmus.gateway.loop import BROKEN, HANGUP, READABLE, WRITABLE, Loop
from isthmus.gateway.pipes import PipePool
from isthmus.gateway.stream import Socket, reset_on_close
from isthmus.gateway.timers import Timers
from isthmus.mesh.routes import RouteTable
from isthmus.wire.tlshello import RECORD_HANDSHAKE, ClientHello, parse_client_hello

_log = logging.getLogger(__name__)


class Exchange:
    """What the connections of one gateway share.

    Attributes:
        routes: The table in force; replaced whole, connections made before keep their endpoint.
        connections: All that are open.
    """

    def __init__(self, loop: Loop, config: GatewayConfig) -> None:
        self.loop, self.config = loop, config
        self.counters = Counters()
        self.dialer = Dialer(loop, config, self.counters)
        self.carriage = Carriage(PipePool(config.pipes_max, config.pipe_size))
        self.routes = RouteTable()
        self.connections: set[Connection] = set()
        self.hellos: Timers[Connection] = Timers(
            config.hello_timeout, lambda connection: connection.refuse("hello_timeout")
        )
        self.half_closed: Timers[Connection] = Timers(
            config.half_closed_timeout, lambda connection: connection.check_half_closed()
        )
        loop.add_timers(self.hellos)
        loop.add_timers(self.half_closed)
        loop.on_bug = self._abort_owner

    def admit(self, client: Socket) -> None:
        """Begin the connection of a client that was just accepted, if there is room for it."""
        self.counters.accepted += 1
        if len(self.connections) >= self.config.connections_max and not self._evict():
            self.counters.connections_max += 1
            reset_on_close(client)
            self.loop.retire(client)
            return
        connection = Connection(self, client)
        self.connections.add(connection)
        try:
            connection.read_hello()
        except AssertionError:
            raise
        except Exception:  # Of this connection alone: the listener's other ones go on.
            _log.exception("a connection failed unexpectedly")
            connection.abort()
        if len(self.hellos) > self.config.hellos_max:
            self._evict()

    def _evict(self) -> bool:
        """Cut off the connection that has been silent longest before its hello."""
        oldest = self.hellos.oldest()
        if oldest is not None:
            oldest.refuse("hello_evicted")
        return oldest is not None

    def _abort_owner(self, descriptor: int) -> None:
        for connection in [c for c in self.connections if c.owns(descriptor)]:
            connection.abort()

    def set_routes(self, routes: RouteTable) -> None:
        """Put a new table in force."""
        self.routes = routes
        self.dialer.health.keep_only(
            {endpoint for route in routes.routes.values() for endpoint in route.endpoints}
        )
        counted = self.counters.routes
        for pattern in [p for p, c in counted.items() if p not in routes.routes and not c.open]:
            del counted[pattern]


class Connection:
    """A client's connection, from `accept` to its end. Its methods are event handlers."""

    __slots__ = (
        "_client",
        "_counters",
        "_dial",
        "_down",
        "_exchange",
        "_hello",
        "_moved",
        "_put_off",
        "_spoke_on",
        "_up",
        "_watched",
    )

    def __init__(self, exchange: Exchange, client: Socket) -> None:
        self._exchange, self._client = exchange, client
        self._hello = b""
        self._watched = False
        self._spoke_on = False  # The client sent more, or its end, after the hello.
        self._counters: RouteCounters | None = None
        self._dial: Dial | None = None
        self._up: Flow | None = None
        self._down: Flow | None = None
        self._put_off = False
        self._moved = 0  # Bytes at the last look at a half-closed connection.

    # Hello.

    def read_hello(self, mask: int = READABLE) -> None:
        """Take what the client sent; when its hello is complete, find a route and dial."""
        if mask & HANGUP:
            self._spoke_on = True  # Its end came with these bytes, and is not reported again.
        room = self._exchange.config.hello_size_max - len(self._hello)
        try:
            data = self._client.recv(room)
        except BlockingIOError:
            self._await_hello()
            return
        except OSError:
            data = b""
        if not data:
            self.refuse("hello_closed")
            return
        self._hello += data
        try:
            hello = parse_client_hello(self._hello)
        except MalformedPacket:
            self.refuse("hello_too_long" if self._announces_too_much() else "not_tls")
            return
        if hello is not None:
            self._find_route(hello)
        elif len(data) == room:
            self.refuse("hello_too_long")
        else:
            self._await_hello()

    def _await_hello(self) -> None:
        if not self._watched:
            self._watched = True
            self._exchange.loop.watch(self._client, self.read_hello)
            self._exchange.hellos.start(self, now=self._exchange.loop.now)

    def _announces_too_much(self) -> bool:
        head = self._hello
        return (
            head[0] == RECORD_HANDSHAKE
            and int.from_bytes(head[6:9], "big") > self._exchange.config.hello_size_max
        )

    def _find_route(self, hello: ClientHello) -> None:
        exchange = self._exchange
        exchange.hellos.stop(self)
        if not hello.server_name:
            self.refuse("no_name")
            return
        found = exchange.routes.lookup(hello.server_name)
        if found is None:
            _log.debug("unknown server name", extra={"sni": hello.server_name})
            self.refuse("unknown_name")
            return
        pattern, route = found
        self._counters = exchange.counters.of_route(pattern, route.kind)
        self._counters.connections += 1
        self._counters.open += 1
        if self._watched:
            exchange.loop.hand_over(self._client, self._client_spoke_on)
        self._dial = exchange.dialer.dial(self._hello, route.endpoints, self)
        self._dial.start()

    def refuse(self, why: str) -> None:
        """Reset a connection that has no route.

        Args:
            why: Counter to count it under, one of `counters.REFUSALS`.
        """
        counters = self._exchange.counters
        setattr(counters, why, getattr(counters, why) + 1)
        self.abort()

    # Dial.

    def dial_connected(self) -> None:
        """See `dial.Caller`."""
        if not self._watched:
            self._watched = True
            self._exchange.loop.watch(self._client, self._client_spoke_on)
        elif self._spoke_on:
            self._commit()

    def dial_won(self, sock: Socket, data: bytes, *, more: bool) -> None:
        """See `dial.Caller`."""
        up, down = self._forward(sock)
        up.readable = up.hangup = self._spoke_on
        down.readable = down.hangup = more
        try:
            down.push(data)
        except OSError:
            self.abort()
            return
        self._pump()

    def dial_failed(self) -> None:
        """See `dial.Caller`."""
        assert self._counters is not None
        self._counters.failures += 1
        self.abort()

    def _client_spoke_on(self, mask: int) -> None:
        if mask & BROKEN:
            self.abort()
        elif mask & (READABLE | HANGUP):
            self._spoke_on = True
            self._commit()

    def _commit(self) -> None:
        assert self._dial is not None
        sock = self._dial.commit()
        if sock is not None:
            for flow in self._forward(sock):
                flow.readable = flow.hangup = True
            self._pump()

    def _forward(self, endpoint: Socket) -> tuple[Flow, Flow]:
        exchange = self._exchange
        up = self._up = Flow(self._client, endpoint, exchange.carriage)
        down = self._down = Flow(endpoint, self._client, exchange.carriage)
        up.moved = len(self._hello)
        self._hello, self._dial = b"", None
        exchange.loop.hand_over(self._client, partial(self._happened, up, down))
        exchange.loop.hand_over(endpoint, partial(self._happened, down, up))
        return up, down

    # Forwarding.

    def _happened(self, outward: Flow, inward: Flow, mask: int) -> None:
        """React to events of the socket that `outward` leaves and `inward` goes to."""
        if mask & READABLE:
            outward.readable = True
        if mask & HANGUP:
            if outward.ended and mask & BROKEN:
                self.abort()
                return
            outward.readable = outward.hangup = True
        if mask & WRITABLE and not inward.writable:
            inward.writable = True
            self._pump()
            return
        # Every event says that the socket is writable; when that is no news, `inward` has
        # nothing to do, and a small message takes this short way.
        try:
            more = outward.pump()
        except OSError:
            self.abort()
            return
        if outward.ended:
            self._ended()
        if more and not self._put_off:
            self._put_off = True
            self._exchange.loop.put_off(self._pump_again)

    def _pump(self) -> None:
        up, down = self._up, self._down
        assert up is not None
        assert down is not None
        try:
            more = up.pump()
            more = down.pump() or more
        except OSError:
            self.abort()
            return
        if up.ended or down.ended:
            self._ended()
        if more and not self._put_off:
            self._put_off = True
            self._exchange.loop.put_off(self._pump_again)

    def _ended(self) -> None:
        """Close when both directions have ended; watch over the rest when one has."""
        assert self._up is not None
        assert self._down is not None
        if self._up.ended and self._down.ended:
            self._close()
        elif self._moved == 0:
            self.check_half_closed()

    def _pump_again(self) -> None:
        self._put_off = False
        if self._up is not None:
            self._pump()

    def check_half_closed(self) -> None:
        """End a half-closed connection on which nothing moved since the last look."""
        assert self._up is not None
        assert self._down is not None
        moved = self._up.moved + self._down.moved
        if moved == self._moved:
            self.abort()
        else:
            self._moved = moved
            self._exchange.half_closed.start(self, now=self._exchange.loop.now)

    # End.

    def bytes_moved(self) -> tuple[int, int]:
        """Bytes up and down so far."""
        if self._up is None or self._down is None:
            return 0, 0
        return self._up.moved, self._down.moved

    @property
    def counters(self) -> RouteCounters | None:
        """Counters of its route; None before it has one."""
        return self._counters

    def owns(self, descriptor: int) -> bool:
        """Whether the descriptor is a socket of this connection."""
        return (
            self._client.fileno() == descriptor
            or (self._up is not None and self._up.sink.fileno() == descriptor)
            or (self._dial is not None and self._dial.owns(descriptor))
        )

    def abort(self) -> None:
        """End it with a reset to both sides; nothing happens when it has ended already."""
        if self not in self._exchange.connections:
            return
        reset_on_close(self._client)
        if self._up is not None:
            reset_on_close(self._up.sink)
        self._close()

    def _close(self) -> None:
        exchange = self._exchange
        exchange.hellos.stop(self)
        if self._dial is not None:
            self._dial.abandon()
            self._dial = None
        if self._counters is not None:
            up, down = self.bytes_moved()
            self._counters.bytes_up += up
            self._counters.bytes_down += down
            self._counters.open -= 1
            self._counters = None
        if self._up is not None and self._down is not None:
            exchange.loop.retire(self._up.sink)
            self._up.close()
            self._down.close()
            self._up = self._down = None
            exchange.half_closed.stop(self)
        exchange.loop.retire(self._client)
        exchange.connections.discard(self)
