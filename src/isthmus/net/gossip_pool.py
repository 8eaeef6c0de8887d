"""A gossip pool as whoever opens it sees it: configuration, events, and how a join fails."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from isthmus.errors import Unavailable
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.serf import MergeCheck, SerfEvent
from isthmus.net.gateways import WanCarrier

PoolEvent: TypeAlias = SerfEvent

EVENTS_PENDING_MAX: Final = 65536
"""Events of a pool that wait for the main loop; the newest give way. `members()` stays right."""


class JoinFailed(Unavailable):
    """No member could be reached or would have us; nothing changed. Worded as memberlist does."""

    def __init__(self, errors: Sequence[str]) -> None:
        self.errors = tuple(errors)
        count = len(self.errors)
        head = "1 error occurred:" if count == 1 else f"{count} errors occurred:"
        points = "\n\t".join(f"* {error}" for error in self.errors)
        super().__init__(f"{head}\n\t{points}\n\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """One pool.

    Attributes:
        name: Our name in it; in a WAN pool ``node.dc``.
        bind_host: Address to listen on, TCP and UDP.
        bind_port: Port of both; 0: a free one.
        advertise_host: IP address that others reach us at; empty: the one we listen on.
        advertise_port: Port of it; 0: the one we listen on.
        tags: What we tell about ourselves.
        gossip: Times and limits.
        keys: Encryption keys, primary first; none: not encrypted.
        merge_check: Says why given members must not be let in, or None. Runs on the gossip thread
            and must be a pure function.
        carrier: Carries to other datacenters; None: everyone is reached directly.
        route_by_name: Whether everything sent must name its member (gateway federation).
        keyring_file: Where the keys are kept; once it exists it counts instead of `keys`.
            None: changes of the keys are forgotten at the end.
        snapshot_file: Where Lamport times and members are kept, so that a restart finds back by
            itself. None: nowhere.
        rejoin_after_leave: Whether it finds back after we left, too.
        resolve_conflicts: Whether to put it to the vote when another member claims our name, and
            to close the pool (`ConflictLost`) when we lose. Serf does, Consul does not.
    """

    name: str
    bind_host: str
    bind_port: int
    advertise_host: str = ""
    advertise_port: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    gossip: GossipConfig = field(default_factory=GossipConfig.lan)
    keys: tuple[bytes, ...] = ()
    merge_check: MergeCheck | None = None
    carrier: WanCarrier | None = None
    route_by_name: bool = False
    keyring_file: Path | None = None
    snapshot_file: Path | None = None
    rejoin_after_leave: bool = False
    resolve_conflicts: bool = False


class Mailbox:
    """Hands events to the main loop, in order, without ever waiting for it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_event: Callable[[PoolEvent], None]
    ) -> None:
        self._loop, self._on_event = loop, on_event
        self._events: deque[PoolEvent] = deque()
        self._lock = threading.Lock()
        self.dropped = 0

    def put(self, event: PoolEvent) -> None:
        """Add an event; on the gossip thread."""
        with self._lock:
            if len(self._events) >= EVENTS_PENDING_MAX:
                self.dropped += 1
                return
            self._events.append(event)
            if len(self._events) > 1:
                return  # The main loop knows already.
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            return  # The main loop is closed: nobody listens any more.

    def _deliver(self) -> None:
        with self._lock:
            events = list(self._events)
            self._events.clear()
        for event in events:
            self._on_event(event)
