"""Connections of whole agents: bytes in order that take their time, and TLS without cryptography.

Each end is an asyncio transport. What a link loses is sent again as TCP does it, so a connection
outlives a cut, and falls silent meanwhile; a connection whose other end is gone is reset.
"""

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, Protocol, TypeAlias

from isthmus.net.tls import HandshakeFailed
from isthmus.sim.loop import Event, Timeline

Address: TypeAlias = tuple[str, int]

WINDOW: Final = 512 * 1024
"""Bytes under way, or arrived and not read, in one direction; then the sender waits."""
SOCKET_BUFFER: Final = 256 * 1024
"""Bytes that the sender's system takes; more wait in the program."""
HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024
RETRANSMIT_MIN: Final = 0.2
RETRANSMIT_MAX: Final = 120.0
GIVE_UP_AFTER: Final = 924.6
"""Seconds without an answer after which Linux ends a connection (tcp_retries2 = 15)."""
KEEPALIVE_INTERVAL: Final = 15.0
KEEPALIVE_PROBES: Final = 9
HEADER_SIZE: Final = 54
"""Bytes of Ethernet, IP and TCP around a segment."""

RECORD_HANDSHAKE: Final = 0x16
RECORD_ALERT: Final = 0x15
RECORD_DATA: Final = 0x17
RECORD_HEADER_SIZE: Final = 5
_RECORD_SIZE_MAX: Final = 16 * 1024
_MISSING: Final = object()


class Signal(Enum):
    """What travels besides bytes."""

    END = auto()
    RESET = auto()


Item: TypeAlias = bytes | Signal


class Site(Protocol):
    """The host of an end."""

    name: str

    def forget(self, end: "End") -> None:
        """An end of this host is no more."""


class Carrier(Protocol):
    """The network under a connection."""

    timeline: Timeline

    def carry(self, source: Any, target: Any, size: int) -> float | None:
        """Moment at which a segment arrives; None: it is lost."""

    def arrived(self, kind: str, source: Any, target: Any, size: int) -> None:
        """Something arrived."""


def record(kind: int, data: bytes) -> bytes:
    """A TLS record: type, version, length, data."""
    return bytes((kind, 3, 3)) + len(data).to_bytes(2, "big") + data


class _Flow:
    """One direction of a connection."""

    def __init__(self, carrier: Carrier, near: "End", far: "End") -> None:
        self._carrier, self._near, self._far = carrier, near, far
        self._waiting: deque[Item] = deque()
        self.waiting_size = 0
        self._flying_size = self._flying_count = 0
        self._last_arrival = 0.0
        self._retry: Event | None = None
        self._retry_after = RETRANSMIT_MIN
        self._silent_since: float | None = None

    @property
    def is_stalled(self) -> bool:
        """Whether something was lost and has to be sent again."""
        return self._retry is not None

    @property
    def is_done(self) -> bool:
        """Whether all that was sent has arrived, or never will."""
        return not self._waiting and not self._flying_count

    def send(self, item: Item) -> None:
        """Send after what was sent before."""
        self._waiting.append(item)
        self.waiting_size += len(item) if isinstance(item, bytes) else 0
        self.advance()

    def advance(self) -> None:
        """Send what may be sent now."""
        while self._waiting and self._retry is None:
            item = self._waiting[0]
            size = len(item) if isinstance(item, bytes) else 0
            if size and self._flying_size + self._far.unread_size >= WINDOW:
                return
            near, far = self._near, self._far
            arrival = self._carrier.carry(near.host, far.host, size + HEADER_SIZE)
            if arrival is None:
                self._stall()
                return
            self._silent_since, self._retry_after = None, RETRANSMIT_MIN
            self._waiting.popleft()
            self.waiting_size -= size
            self._flying_size += size
            self._flying_count += 1
            self._last_arrival = max(self._last_arrival, arrival)
            self._carrier.timeline.call_at(self._last_arrival, self._arrive, item, size)
            near.drained()

    def stop(self) -> None:
        """Send nothing more."""
        self._waiting.clear()
        self.waiting_size = 0
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _stall(self) -> None:
        timeline = self._carrier.timeline
        if self._silent_since is None:
            self._silent_since = timeline.now
        if timeline.now - self._silent_since > GIVE_UP_AFTER:
            self.stop()
            self._near.fail(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
            return
        self._retry = timeline.call_later(self._retry_after, self._try_again)
        self._retry_after = min(self._retry_after * 2, RETRANSMIT_MAX)

    def _try_again(self) -> None:
        self._retry = None
        self.advance()

    def _arrive(self, item: Item, size: int) -> None:
        self._flying_size -= size
        self._flying_count -= 1
        self._carrier.arrived("tcp", self._near.host, self._far.host, size)
        self._far.deliver(item)


class End(asyncio.Transport):
    """One end of a connection; made in pairs by `connect_ends`.

    Attributes:
        host: Whose it is.
        far: The other end.
        flow: What this end sends.
        local: Our address and port.
        peer: The other's.
        unread_size: Bytes that arrived and were not taken.
    """

    far: "End"
    flow: _Flow

    def __init__(self, carrier: Carrier, host: Site, local: Address, peer: Address) -> None:
        super().__init__()
        self.host, self.local, self.peer = host, local, peer
        self._carrier = carrier
        self._loop: asyncio.AbstractEventLoop | None = None
        self._protocol: asyncio.BaseProtocol | None = None
        self._inbox: deque[bytes] = deque()
        self.unread_size = 0
        self._has_ended = self._is_reset = self._end_told = False
        self._reading = True
        self._closing = self._finished = False
        self._writing_paused = False
        self._pump_due = False
        self._waiters: list[asyncio.Future[None]] = []
        self._partial = b""
        self._is_tls = False
        self._extra_info: dict[str, Any] = {"peername": peer, "sockname": local}
        self._probes_lost = 0
        self._keepalive: Event | None = carrier.timeline.call_later(KEEPALIVE_INTERVAL, self._probe)

    # What arrives. None of our loops runs here.

    def deliver(self, item: Item) -> None:
        """Take what arrived."""
        if self._finished:
            if isinstance(item, bytes):
                self._answer_reset()
            return
        if isinstance(item, bytes):
            self._inbox.append(item)
            self.unread_size += len(item)
        elif item is Signal.END:
            self._has_ended = True
        else:
            self._is_reset = True
            self.flow.stop()
        self._wake()

    def fail(self, error: OSError) -> None:
        """The system gave the connection up."""
        if not self._finished:
            self._closing = True
            self._soon(self._finish, error)

    def vanish(self) -> None:
        """Our process was killed: nobody is told here, the other end is reset."""
        if not self._finished:
            self._protocol = None
            self._drop()
            self._answer_reset()

    def drained(self) -> None:
        """Some of what waited is on its way."""
        size = self.get_write_buffer_size()
        if self._writing_paused and size <= LOW_WATER:
            self._soon(self._resume_writing)
        if self._closing and not size and not self._finished:
            self._soon(self._finish, None)

    def _answer_reset(self) -> None:
        arrival = self._carrier.carry(self.host, self.far.host, HEADER_SIZE)
        if arrival is not None:
            self._carrier.timeline.call_at(arrival, self.far.deliver, Signal.RESET)

    def _probe(self) -> None:
        """Find out, as the system's keepalive does, whether the other end is still there."""
        self._keepalive = None
        if self._finished:
            return
        if self.flow.is_stalled:
            self._probes_lost = 0  # What is sent again is a probe, too.
        elif self._is_answered():
            self._probes_lost = 0
            if self.far._finished and self.far.flow.is_done:
                self.deliver(Signal.RESET)
        else:
            self._probes_lost += 1
            if self._probes_lost >= KEEPALIVE_PROBES:
                self.flow.stop()
                self.fail(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        self._keepalive = self._carrier.timeline.call_later(KEEPALIVE_INTERVAL, self._probe)

    def _is_answered(self) -> bool:
        there = self._carrier.carry(self.host, self.far.host, HEADER_SIZE)
        back = self._carrier.carry(self.far.host, self.host, HEADER_SIZE)
        return there is not None and back is not None

    def _wake(self) -> None:
        if self._protocol is not None:
            if not self._pump_due:
                self._pump_due = True
                self._soon(self._pump)
        else:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done() and not waiter.get_loop().is_closed():
                    waiter.set_result(None)

    def _soon(self, callback: Callable[..., None], *args: object) -> None:
        if self._loop is None:
            callback(*args)
        elif not self._loop.is_closed():
            self._loop.call_soon(callback, *args)

    # Before a protocol runs.

    async def peek(self, size: int) -> bytes:
        """All bytes there are, once these are at least `size`, or no more will come."""
        while self.unread_size < size and not (self._has_ended or self._is_reset or self._finished):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return b"".join(self._inbox)

    def take(self, size: int) -> bytes:
        """Take bytes that `peek` showed."""
        data = b"".join(self._inbox)
        assert len(data) >= size
        self._inbox.clear()
        if len(data) > size:
            self._inbox.append(data[size:])
        self.unread_size = len(data) - size
        self.far.flow.advance()
        return data[:size]

    def push(self, data: bytes) -> None:
        """Send bytes as they are."""
        if not self._closing:
            self.flow.send(data)

    def start(
        self,
        protocol: asyncio.BaseProtocol,
        *,
        peer_certificate: dict[str, Any] | None = None,
        is_tls: bool = False,
    ) -> None:
        """Run a protocol on this end, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._protocol, self._is_tls = protocol, is_tls
        if is_tls:
            self._extra_info |= {"ssl_object": self, "peercert": peer_certificate}
        protocol.connection_made(self)
        self._wake()

    # The protocol's side.

    def _pump(self) -> None:
        """Hand on what arrived."""
        self._pump_due = False
        protocol = self._protocol
        if self._finished or protocol is None:
            return
        assert isinstance(protocol, asyncio.Protocol)
        if self._inbox and self._reading and not self._closing:
            data = self.take(self.unread_size)
            if self._is_tls:
                data = self._open_records(data)
            if data and not self._finished:
                protocol.data_received(data)
        if self._inbox or not self._reading or self._finished:
            return
        if self._is_reset:
            self._finish(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        elif self._has_ended and not self._end_told and not self._closing:
            self._end_told = True
            protocol = self._protocol
            assert isinstance(protocol, asyncio.Protocol)
            if not protocol.eof_received() or self._is_tls:
                self.close()

    def _open_records(self, data: bytes) -> bytes:
        data = self._partial + data
        plain = []
        while len(data) >= RECORD_HEADER_SIZE:
            end = RECORD_HEADER_SIZE + int.from_bytes(data[3:5], "big")
            if len(data) < end:
                break
            body = data[RECORD_HEADER_SIZE:end]
            if data[0] == RECORD_ALERT:
                self._finish(HandshakeFailed(explain_alert(body[-1])))
                return b""
            plain.append(body)
            data = data[end:]
        self._partial = data
        return b"".join(plain)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `asyncio.WriteTransport.write`."""
        if self._closing or self._finished or not data:
            return
        if self._is_reset:
            self._soon(self._finish, BrokenPipeError(errno.EPIPE, "Broken pipe"))
            return
        data = bytes(data)
        if self._is_tls:
            data = b"".join(
                record(RECORD_DATA, data[at : at + _RECORD_SIZE_MAX])
                for at in range(0, len(data), _RECORD_SIZE_MAX)
            )
        self.flow.send(data)
        if not self._writing_paused and self.get_write_buffer_size() > HIGH_WATER:
            self._writing_paused = True
            assert isinstance(self._protocol, asyncio.Protocol)
            self._protocol.pause_writing()

    def _resume_writing(self) -> None:
        if self._writing_paused and isinstance(self._protocol, asyncio.Protocol):
            self._writing_paused = False
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        """Bytes that the system did not take yet."""
        return max(0, self.flow.waiting_size - SOCKET_BUFFER)

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport.pause_reading`."""
        self._reading = False

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport.resume_reading`."""
        if not self._reading:
            self._reading = True
            self._wake()

    def is_reading(self) -> bool:
        """See `asyncio.ReadTransport.is_reading`."""
        return self._reading

    def can_write_eof(self) -> bool:
        """TLS cannot be closed half."""
        return not self._is_tls

    def write_eof(self) -> None:
        """See `asyncio.WriteTransport.write_eof`."""
        if not self._closing:
            self.flow.send(Signal.END)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See `asyncio.BaseTransport.set_protocol`."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See `asyncio.BaseTransport.get_protocol`."""
        assert self._protocol is not None
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peername``, ``sockname``, and with TLS ``ssl_object`` and ``peercert``."""
        found = self._extra_info.get(name, _MISSING)
        return default if found is _MISSING else found

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._closing or self._finished

    def close(self) -> None:
        """Close once everything is sent."""
        if self._closing or self._finished:
            return
        self._closing = True
        self.flow.send(Signal.END)
        if not self.get_write_buffer_size():
            self._soon(self._finish, None)

    def abort(self) -> None:
        """Close at once; the other end is reset."""
        if self._finished:
            return
        self._closing = True
        self.flow.stop()
        self._answer_reset()
        self._soon(self._finish, None)

    def _finish(self, error: Exception | None) -> None:
        if self._finished:
            return
        protocol = self._protocol
        if error is not None and not isinstance(error, ConnectionResetError):
            self._answer_reset()
        self._drop()
        if protocol is not None:
            protocol.connection_lost(error)

    def _drop(self) -> None:
        self._closing = self._finished = True
        self._inbox.clear()
        self.unread_size = 0
        if self._keepalive is not None:
            self._keepalive.cancel()
        if self._is_reset:
            self.flow.stop()
        self.host.forget(self)
        self._wake()


def connect_ends(
    carrier: Carrier, near: tuple[Site, Address], far: tuple[Site, Address]
) -> tuple[End, End]:
    """Two ends that are connected."""
    ends = End(carrier, *near, far[1]), End(carrier, *far, near[1])
    ends[0].far, ends[1].far = ends[1], ends[0]
    for end in ends:
        end.flow = _Flow(carrier, end, end.far)
    return ends


ALERTS: Final = {
    10: "unexpected message",
    42: "bad certificate",
    48: "unknown ca",
    116: "certificate required",
    120: "no application protocol",
}
"""Source: RFC 8446 §6.2, words as OpenSSL has them."""
OF_CERTIFICATES: Final = frozenset({42, 48, 116})


def explain_alert(number: int) -> str:
    """What an alert from the peer means, in the words of `isthmus.net.tls.describe`."""
    what = "our certificate" if number in OF_CERTIFICATES else "the handshake"
    return f"the peer refused {what}: {ALERTS.get(number, f'alert {number}')}"
