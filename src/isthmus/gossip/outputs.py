"""What the gossip cores ask their driver to do, and what they tell it.

Actions are imperatives, events are in the past tense.
"""

from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from isthmus.wire.memberlist import NodeState

Address: TypeAlias = tuple[str, int]
"""Textual IP address and port."""


class SendPacket(Struct, frozen=True):
    """Action: send one packet.

    Attributes:
        id: For `packet_failed`, to be called when it surely did not go out.
        node: Name of the member it is for; empty if unknown.
        address: Where that member says it is.
        data: The whole datagram.
    """

    id: int
    node: str
    address: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Action: connect and write `data`; answer `stream_opened` or `stream_failed` once.

    After `stream_opened` what the peer sends goes to `receive_stream_data` and
    `receive_stream_eof`, until CloseStream.
    """

    id: int
    node: str
    address: Address
    data: bytes
    timeout: float


@dataclass(frozen=True, slots=True)
class SendStream:
    """Action: write on an open stream."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Action: close a stream after what was written; give up the connecting of it."""

    id: int


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """Event: a member is alive that was not so before."""

    node: NodeState


@dataclass(frozen=True, slots=True)
class NodeUpdated:
    """Event: an alive member changed its meta."""

    node: NodeState


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """Event: a member is dead, or left by itself (`node.state` says which)."""

    node: NodeState


@dataclass(frozen=True, slots=True)
class NodeConflict:
    """Event: two addresses claim one name; the first one known is kept."""

    known: NodeState
    claimed: NodeState


@dataclass(frozen=True, slots=True)
class UserMessageReceived:
    """Event: bytes for the layer above."""

    payload: bytes
    source: Address | None


@dataclass(frozen=True, slots=True)
class StateReceived:
    """Event: the layer above's half of a push/pull.

    Attributes:
        user_state: Its bytes.
        join: Whether the exchange is part of joining.
        ignore_old: Whether this join asked for no old events.
    """

    user_state: bytes
    join: bool
    ignore_old: bool


@dataclass(frozen=True, slots=True)
class PingAcked:
    """Event: a direct ping came back.

    Attributes:
        node: Name of the member.
        rtt: Seconds.
        payload: What it put into the ack.
    """

    node: str
    rtt: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class JoinFinished:
    """Event: every address of one `join` was tried.

    Attributes:
        id: From `join`.
        contacted: How many exchanges succeeded.
        errors: One text per address that failed.
    """

    id: int
    contacted: int
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeaveSent:
    """Event: our departure was sent out, or the wait for it ended."""


@dataclass(frozen=True, slots=True)
class Warned:
    """Event: something that belongs into the log, in words."""

    text: str


MemberlistOutput: TypeAlias = (
    SendPacket
    | OpenStream
    | SendStream
    | CloseStream
    | NodeJoined
    | NodeUpdated
    | NodeLeft
    | NodeConflict
    | UserMessageReceived
    | StateReceived
    | PingAcked
    | JoinFinished
    | LeaveSent
    | Warned
)
