"""A yamux session: many streams on one connection, each with its own flow control.

One core for both roles. It differs from Consul's where Consul's has traps (protocol/rpc.md §2):

- A stream is opened only together with its first bytes, because a Consul server stops accepting
  while a stream without data is the oldest one, and closes the whole connection when it is
  closed empty.
- Incoming streams are accepted at once, so that an idle or empty one holds up nobody.

Memory is bounded: per stream by the window, which is reopened only for bytes the driver has
consumed; in the transport by `WRITE_BURST`, since data waits here while the transport is full.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from isthmus.errors import MalformedPacket, ProtocolError
from isthmus.wire.yamux import (
    HEADER_SIZE,
    WINDOW_SIZE,
    Flag,
    FrameType,
    GoAway,
    Header,
    decode_header,
    encode_header,
)

FRAME_SIZE_MAX: Final = 64 * 1024
"""Payload of a frame that we send, so that a long message does not hold up the short ones."""
WRITE_BURST: Final = 256 * 1024
"""Payload handed out before the driver must say that the transport takes more."""
CONTROL_SIZE_MAX: Final = 1024 * 1024
"""Answers that may wait for a peer that sends and does not read; beyond it the session ends."""

_STREAM_ID_MAX: Final = 2**32 - 1
_SEND_WINDOW_MAX: Final = 2**32 - 1
_NO_FLAGS: Final = 0
_DATA: Final = int(FrameType.DATA)
_WINDOW_UPDATE: Final = int(FrameType.WINDOW_UPDATE)
_SYN: Final = int(Flag.SYN)
_ACK: Final = int(Flag.ACK)
_FIN: Final = int(Flag.FIN)
_RST: Final = int(Flag.RST)


class Role(Enum):
    """Which side of the connection we are."""

    DIALER = auto()
    """Opens streams 1, 3, 5, …"""
    ACCEPTOR = auto()
    """Opens streams 2, 4, 6, …"""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Limits of a session; times in seconds. The defaults are Consul's, except `streams_max`.

    Attributes:
        keepalive_interval: Between two pings of ours.
        keepalive_timeout: For the answer; without it the session ends.
        open_timeout: For the peer's acknowledgement of a stream; without it the session ends.
        close_timeout: For the peer's end of a stream after our end; then the stream is reset.
        opening_max: Streams of ours that may be unacknowledged; a Consul peer resets more.
        streams_max: Streams that the peer may have open; more are reset. 0: it may open none.
    """

    keepalive_interval: float = 30.0
    keepalive_timeout: float = 10.0
    open_timeout: float = 75.0
    close_timeout: float = 300.0
    opening_max: int = 256
    streams_max: int = 4096

    def __post_init__(self) -> None:
        """Check the relations between the values."""
        assert 0 < self.keepalive_timeout <= self.keepalive_interval
        assert self.open_timeout > 0
        assert self.close_timeout > 0
        assert self.opening_max > 0
        assert self.streams_max >= 0


@dataclass(frozen=True, slots=True)
class SendData:
    """Action: write these bytes to the connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """Event: the peer opened a stream; it is accepted already."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamAcknowledged:
    """Event: the peer has accepted a stream of ours."""

    stream: int


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Event: bytes of a stream, in order; give them back with `Session.consume`."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamDrained:
    """Event: all that `Session.send` had to hold back of a stream has been handed out."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """Event: the peer sends no more on this stream; we still may."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """Event: a stream was aborted, by the peer or by a timeout; it is forgotten."""

    stream: int


@dataclass(frozen=True, slots=True)
class PeerGoingAway:
    """Event: the peer accepts no more streams of ours; those that exist go on."""


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """Event: the session and all its streams are over; close the connection.

    Attributes:
        error: What the peer did wrong; None when either side just closed.
    """

    error: ProtocolError | None


Output: TypeAlias = (
    SendData
    | StreamOpened
    | StreamAcknowledged
    | DataReceived
    | StreamDrained
    | StreamEnded
    | StreamReset
    | PeerGoingAway
    | SessionClosed
)


class _Stream:
    """One stream's windows and ends; it is forgotten when both sides have ended it."""

    __slots__ = (
        "consumed",
        "ending",
        "id",
        "local_ended",
        "opening",
        "pending",
        "receive_window",
        "remote_ended",
        "send_window",
        "unsent",
    )

    def __init__(self, stream_id: int, *, opening: bool) -> None:
        self.id = stream_id
        self.opening = opening  # Ours, and its SYN is not sent yet.
        self.send_window = WINDOW_SIZE
        self.receive_window = WINDOW_SIZE
        self.consumed = 0  # Bytes read by the driver, not yet returned to the peer's window.
        self.pending = memoryview(b"")  # Bytes to send.
        self.unsent = False  # Whether it stands in the queue of streams with bytes to send.
        self.ending = False  # Whether our FIN follows the pending bytes.
        self.local_ended = False
        self.remote_ended = False


class Session:
    """The core of one yamux connection.

    Args:
        role: Which side we are.
        config: Limits.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(self, role: Role, config: SessionConfig, *, now: float) -> None:
        self._config = config
        self._next_id = 1 if role is Role.DIALER else 2
        self._peer_parity = 0 if role is Role.DIALER else 1
        self._streams: dict[int, _Stream] = {}
        self._peer_stream_count = 0
        self._opening: dict[int, float] = {}  # Unacknowledged streams of ours → deadline.
        self._closing: dict[int, float] = {}  # Streams that only we have ended → deadline.
        self._unsent: deque[_Stream] = deque()
        self._burst_left = WRITE_BURST
        self._control_size = 0
        self._ping_value = 0
        self._ping_at = now + config.keepalive_interval
        self._pong_by: float | None = None
        self._closed = False
        self._going_away = False
        self._peer_going_away = False
        self._header = b""  # Start of a frame's header, less than `HEADER_SIZE` bytes.
        self._payload_left = 0
        self._payload_stream: _Stream | None = None  # None: the payload is discarded.
        self._payload_ends = False
        self._outputs: list[Output] = []

    # What the driver may ask ---------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether the session is over."""
        return self._closed

    @property
    def is_usable(self) -> bool:
        """Whether streams of ours can ever be opened again."""
        return not (self._closed or self._peer_going_away or self._next_id > _STREAM_ID_MAX)

    @property
    def may_open(self) -> bool:
        """Whether `open_stream` may be called now; False for a while when too many are opening."""
        return self.is_usable and len(self._opening) < self._config.opening_max

    @property
    def is_held_back(self) -> bool:
        """Whether bytes wait only for `resume_writing`."""
        return bool(self._unsent) and not self._closed

    # From our side ---------------------------------------------------------------------------

    def open_stream(self, data: bytes, *, now: float) -> int:
        """Open a stream together with its first bytes.

        Args:
            data: At least one byte: the first request.
            now: Seconds on the driver's monotonic clock.

        Returns:
            The stream's id; `StreamAcknowledged` follows when the peer has accepted it.
        """
        assert self.may_open
        assert data
        stream = _Stream(self._next_id, opening=True)
        self._next_id += 2
        self._streams[stream.id] = stream
        self._opening[stream.id] = now + self._config.open_timeout
        self._send(stream, data)
        return stream.id

    def send(self, stream_id: int, data: bytes) -> bool:
        """Send bytes on a stream, as far as window and transport allow; the rest waits here.

        Nothing happens when the stream is gone, because the peer may have reset it just now.

        Returns:
            Whether nothing waits; otherwise `StreamDrained` follows. Do not send more before.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return True
        assert not stream.ending
        return self._send(stream, data)

    def end(self, stream_id: int, *, now: float) -> None:
        """Send no more on a stream (after what waits): FIN. The peer may go on.

        Unless the peer ends it too within `close_timeout`, the stream is reset.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.ending:
            return
        stream.ending = True
        if not stream.remote_ended:
            self._closing[stream_id] = now + self._config.close_timeout
        if not stream.pending:
            self._send_fin(stream)

    def reset(self, stream_id: int) -> None:
        """Abort a stream: what waits is dropped, what still arrives is discarded."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            if not stream.opening:  # The peer has heard of it.
                self._send_control(_WINDOW_UPDATE, _RST, stream_id, 0)
            self._forget(stream)

    def consume(self, stream_id: int, size: int) -> None:
        """Say that bytes of `DataReceived` are no longer held, so that the peer may send more."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.consumed += size
        assert stream.consumed + stream.receive_window <= WINDOW_SIZE
        if stream.consumed >= WINDOW_SIZE // 2 and not stream.remote_ended:
            stream.receive_window += stream.consumed
            self._send_control(_WINDOW_UPDATE, _NO_FLAGS, stream_id, stream.consumed)
            stream.consumed = 0

    def go_away(self) -> None:
        """Accept no more streams; those that exist go on."""
        if not (self._going_away or self._closed):
            self._going_away = True
            self._send_control(FrameType.GO_AWAY, _NO_FLAGS, 0, GoAway.NORMAL)

    def close(self) -> None:
        """End the session and all its streams."""
        self._close(None)

    def pause_writing(self) -> None:
        """Hold data back: the transport is full."""
        self._burst_left = 0

    def resume_writing(self) -> None:
        """Hand out at most `WRITE_BURST` more: the transport takes data."""
        self._burst_left = WRITE_BURST
        self._control_size = 0
        if self._unsent:
            self._send_unsent()

    # From the network --------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Accept bytes of the connection, however they are cut.

        A peer that breaks the protocol ends the session: a go-away frame and `SessionClosed` are
        among the outputs. Nothing is raised.
        """
        if self._closed:
            return
        try:
            self._parse(data)
        except ProtocolError as error:
            self._send_control(FrameType.GO_AWAY, _NO_FLAGS, 0, GoAway.PROTOCOL_ERROR)
            self._close(error)

    def receive_eof(self) -> None:
        """Accept that the connection has ended."""
        self._close(None)

    # Time ----------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """Moment at which `handle_timer` is due, on the driver's clock."""
        if self._closed:
            return None
        due = self._ping_at if self._pong_by is None else min(self._ping_at, self._pong_by)
        if self._opening:
            due = min(due, next(iter(self._opening.values())))
        if self._closing:
            due = min(due, next(iter(self._closing.values())))
        return due

    def probe(self) -> None:
        """Ask the peer for a sign of life now; whatever it sends is one.

        The caller watches for it: the session itself gives up only after a whole keepalive.
        """
        if not self._closed:
            self._send_control(FrameType.PING, _SYN, 0, self._ping_value)

    def handle_timer(self, *, now: float) -> None:
        """Do what is due: ping, give up a silent peer, reset streams that it does not end."""
        if self._closed:
            return
        if self._pong_by is not None and now >= self._pong_by:
            self._close(ProtocolError("yamux keepalive was not answered"))
            return
        if self._opening and now >= next(iter(self._opening.values())):
            self._close(ProtocolError("yamux stream was not acknowledged in time"))
            return
        while self._closing:
            stream_id, deadline = next(iter(self._closing.items()))
            if now < deadline:
                break
            self.reset(stream_id)
            self._outputs.append(StreamReset(stream_id))
        if now >= self._ping_at:
            self._ping_at = now + self._config.keepalive_interval
            if self._pong_by is None:
                self._pong_by = now + self._config.keepalive_timeout
                self._send_control(FrameType.PING, _SYN, 0, self._ping_value)

    def take_outputs(self) -> list[Output]:
        """Remove and return all that is to be done, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs

    # Sending -------------------------------------------------------------------------------------

    def _send(self, stream: _Stream, data: bytes) -> bool:
        if stream.pending:
            stream.pending = memoryview(bytes(stream.pending) + data)
        else:
            stream.pending = memoryview(data)
        self._queue(stream)
        self._send_unsent()
        return not stream.pending

    def _queue(self, stream: _Stream) -> None:
        if not stream.unsent and stream.pending and stream.send_window > 0:
            stream.unsent = True
            self._unsent.append(stream)

    def _send_unsent(self) -> None:
        """Send a frame of each stream in turn until the burst or all windows are used up."""
        while self._unsent and self._burst_left > 0:
            stream = self._unsent.popleft()
            stream.unsent = False
            if self._streams.get(stream.id) is not stream:
                continue
            size = min(len(stream.pending), stream.send_window, FRAME_SIZE_MAX)
            frame = encode_header(_DATA, _NO_FLAGS, stream.id, size) + stream.pending[:size]
            if stream.opening:  # Never a stream without its first bytes.
                stream.opening = False
                frame = encode_header(_WINDOW_UPDATE, _SYN, stream.id, 0) + frame
            self._outputs.append(SendData(frame))
            stream.pending = stream.pending[size:]
            stream.send_window -= size
            self._burst_left -= size
            if stream.pending:
                self._queue(stream)
            elif stream.ending:
                self._send_fin(stream)
            else:
                self._outputs.append(StreamDrained(stream.id))

    def _send_fin(self, stream: _Stream) -> None:
        assert not stream.local_ended
        stream.local_ended = True
        self._send_control(_WINDOW_UPDATE, _FIN, stream.id, 0)
        if stream.remote_ended:
            self._forget(stream)

    def _send_control(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._outputs.append(SendData(encode_header(kind, flags, stream_id, length)))
        self._control_size += HEADER_SIZE

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.id]
        self._opening.pop(stream.id, None)
        self._closing.pop(stream.id, None)
        stream.pending = memoryview(b"")
        if stream.id % 2 == self._peer_parity:
            self._peer_stream_count -= 1
        if self._payload_stream is stream:
            self._payload_stream = None

    def _close(self, error: ProtocolError | None) -> None:
        if not self._closed:
            self._closed = True
            self._streams.clear()
            self._opening.clear()
            self._closing.clear()
            self._unsent.clear()
            self._outputs.append(SessionClosed(error))

    # Receiving -----------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        if self._header:
            data = self._header + data
            self._header = b""
        offset, end = 0, len(data)
        while offset < end and not self._closed:
            if self._payload_left:
                piece = data[offset : offset + self._payload_left]
                offset += len(piece)
                self._receive_payload(piece)
            elif end - offset < HEADER_SIZE:
                self._header = data[offset:]
                return
            else:
                header = decode_header(data, offset)
                offset += HEADER_SIZE
                self._receive_frame(header)
                if self._control_size > CONTROL_SIZE_MAX:
                    raise ProtocolError("yamux peer sends and does not read")

    def _receive_frame(self, header: Header) -> None:
        if header.kind <= _WINDOW_UPDATE:
            self._receive_stream_frame(header)
        elif header.kind == FrameType.PING:
            if header.flags & _SYN:
                self._send_control(FrameType.PING, _ACK, 0, header.length)
            elif header.flags & _ACK and header.length == self._ping_value:
                self._pong_by = None
                self._ping_value = (self._ping_value + 1) % 2**32
        elif header.length == GoAway.NORMAL:
            self._peer_going_away = True
            self._outputs.append(PeerGoingAway())
        else:
            raise ProtocolError(f"yamux peer went away with reason {header.length}")

    def _receive_stream_frame(self, header: Header) -> None:
        kind, flags, stream_id, length = header
        if flags & _SYN:
            self._receive_syn(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            if self._opening and self._opening.pop(stream_id, None) is not None:
                self._outputs.append(StreamAcknowledged(stream_id))
            if flags & _RST:
                self._forget(stream)
                self._outputs.append(StreamReset(stream_id))
                stream = None
        if kind == _DATA:
            if stream is not None:
                self._check_data(stream, length)
            self._payload_left, self._payload_stream = length, stream
            self._payload_ends = bool(flags & _FIN)
            if not length and stream is not None and self._payload_ends:
                self._receive_fin(stream)
            return
        if stream is not None:
            if length:
                self._widen(stream, length)
            if flags & _FIN:
                self._receive_fin(stream)

    def _receive_syn(self, stream_id: int) -> None:
        if stream_id == 0 or stream_id % 2 != self._peer_parity:
            raise MalformedPacket(f"yamux stream {stream_id} is not the peer's to open")
        if stream_id in self._streams:
            raise MalformedPacket(f"yamux stream {stream_id} is opened twice")
        if self._going_away or self._peer_stream_count >= self._config.streams_max:
            self._send_control(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        self._streams[stream_id] = _Stream(stream_id, opening=False)
        self._peer_stream_count += 1
        self._send_control(_WINDOW_UPDATE, _ACK, stream_id, 0)
        self._outputs.append(StreamOpened(stream_id))

    def _check_data(self, stream: _Stream, length: int) -> None:
        if stream.remote_ended:
            raise MalformedPacket(f"yamux stream {stream.id} goes on after its end")
        if length > stream.receive_window:
            raise MalformedPacket(
                f"yamux stream {stream.id}: {length} bytes, window {stream.receive_window}"
            )
        stream.receive_window -= length

    def _receive_payload(self, piece: bytes) -> None:
        self._payload_left -= len(piece)
        stream = self._payload_stream
        if stream is None:
            return
        self._outputs.append(DataReceived(stream.id, piece))
        if not self._payload_left and self._payload_ends:
            self._receive_fin(stream)

    def _widen(self, stream: _Stream, size: int) -> None:
        if stream.send_window + size > _SEND_WINDOW_MAX:
            raise MalformedPacket(f"yamux stream {stream.id}: window overflows")
        stream.send_window += size
        self._queue(stream)
        self._send_unsent()

    def _receive_fin(self, stream: _Stream) -> None:
        if stream.remote_ended:
            raise MalformedPacket(f"yamux stream {stream.id} is ended twice")
        stream.remote_ended = True
        self._outputs.append(StreamEnded(stream.id))
        if stream.local_ended:
            self._forget(stream)
