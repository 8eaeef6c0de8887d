"""The snapshot: what a restarted member has to know to find back into its pool by itself.

A text file, appended to, one fact a line: who is alive where, and the newest Lamport times::

    alive: beta.dc2 10.0.0.2:8302
    not-alive: beta.dc2
    clock: 42
    event-clock: 7
    query-clock: 3
    leave

Lines count in their order; ``#`` begins a comment. Lamport times are those seen last. Lines that
can not be read, such as the last one of a process that was killed, count for nothing.

Source: protocol/gossip.md §13.8.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from isthmus.gossip.roster import (
    MemberEvent,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
)
from isthmus.names import host_port, split_host_port

SNAPSHOT_SIZE_MIN: Final = 128 * 1024
"""Bytes below which a file is never written anew."""
BYTES_PER_MEMBER: Final = 256
"""The file is written anew beyond so many bytes for each member that is alive."""
PENDING_SIZE_MAX: Final = 1 << 20
"""Bytes that wait to be appended; beyond, the whole is written instead."""

_LTIME_MAX: Final = 2**64


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file says.

    Attributes:
        alive: ``address:port`` of the members that were alive, by name.
        clock, event_clock, query_clock: Lamport times seen last; 0: none.
        whole: Every line could be read, and the last one is complete.
    """

    alive: Mapping[str, str] = field(default_factory=dict)
    clock: int = 0
    event_clock: int = 0
    query_clock: int = 0
    whole: bool = True

    def join_addresses(self, own_name: str, rng: Random) -> list[str]:
        """Where to find back, as ``name/address:port``, in random order."""
        names = sorted(name for name in self.alive if name != own_name)
        rng.shuffle(names)
        return [f"{name}/{self.alive[name]}" for name in names]


def read_snapshot(data: bytes, *, rejoin_after_leave: bool) -> Snapshot:
    """Read a file; what can not be read is left out.

    Args:
        data: All of it.
        rejoin_after_leave: Whether a member that left counts as one that was stopped.
    """
    alive: dict[str, str] = {}
    clocks = dict.fromkeys(_CLOCKS, 0)
    *lines, rest = data.split(b"\n")
    whole = not rest
    for line in lines:
        kind, _, value = line.decode("utf-8", "surrogateescape").partition(": ")
        if kind == "alive" and _is_place(value):
            name, _, address = value.rpartition(" ")
            alive[name] = address
        elif kind == "not-alive" and value:
            alive.pop(value, None)
        elif kind in clocks and _is_ltime(value):
            clocks[kind] = int(value)
        elif kind == "leave":
            if not rejoin_after_leave:
                alive.clear()
                clocks = dict.fromkeys(_CLOCKS, 0)
        elif kind not in {"", "coordinate"} and not kind.startswith("#"):
            whole = False
    return Snapshot(alive, clocks["clock"], clocks["event-clock"], clocks["query-clock"], whole)


_CLOCKS: Final = ("clock", "event-clock", "query-clock")


def _is_place(value: str) -> bool:
    """Whether this is a name, a space, an address."""
    name, _, address = value.rpartition(" ")
    try:
        split_host_port(address)
    except ValueError:
        return False
    return bool(name)


def _is_ltime(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) <= 20 and int(value) < _LTIME_MAX


class SnapshotLog:
    """Turns what happens in a pool into lines to append, and knows when to write the file anew.

    Args:
        previous: What the file says.
        size: Bytes that it has.
    """

    def __init__(self, previous: Snapshot, *, size: int) -> None:
        self._alive = dict(previous.alive)
        self._clocks = dict(
            zip(
                _CLOCKS,
                (previous.clock, previous.event_clock, previous.query_clock),
                strict=True,
            )
        )
        self._size = size
        self._lines: list[str] = []
        self._pending_size = 0
        self._left = False
        self._broken = not previous.whole

    @property
    def is_pending(self) -> bool:
        """Whether there is something to write."""
        return bool(self._lines) or self._broken

    def receive(self, event: MemberEvent) -> None:
        """Note what became of a member."""
        member = event.member
        if self._left or "\n" in member.name:  # Such a name would forge lines.
            return
        match event:
            case MemberJoined():
                self._alive[member.name] = host_port(member.address, member.port)
                self._add(f"alive: {member.name} {self._alive[member.name]}")
            case MemberFailed() | MemberLeft() | MemberReaped():
                if self._alive.pop(member.name, None) is not None:
                    self._add(f"not-alive: {member.name}")
            case _:
                pass  # Tags are not kept.

    def note_clocks(self, *, clock: int, event_clock: int, query_clock: int) -> None:
        """Note the Lamport times seen last; what is not later than before changes nothing."""
        if self._left:
            return
        for kind, ltime in zip(_CLOCKS, (clock, event_clock, query_clock), strict=True):
            if ltime > self._clocks[kind]:
                self._clocks[kind] = ltime
                self._add(f"{kind}: {ltime}")

    def leave(self) -> None:
        """We leave: from now on nothing counts."""
        if not self._left:
            self._left = True
            self._add("leave")

    def take(self) -> tuple[bytes, bool]:
        """Remove and return what is to be written, and whether it replaces the file.

        If that fails, call `failed`.
        """
        limit = max(SNAPSHOT_SIZE_MIN, BYTES_PER_MEMBER * len(self._alive))
        anew = self._broken or self._size + self._pending_size > limit
        lines = list(self._whole()) if anew else self._lines
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        self._size = len(data) if anew else self._size + len(data)
        self._lines, self._pending_size, self._broken = [], 0, False
        return data, anew

    def failed(self) -> None:
        """What `take` gave last was not written, or only a part of it: the next is the whole."""
        self._broken = True

    def _add(self, line: str) -> None:
        if self._broken:
            return  # The whole is about to be written.
        self._lines.append(line)
        self._pending_size += len(line) + 1
        if self._pending_size > PENDING_SIZE_MAX:
            self._lines, self._broken = [], True

    def _whole(self) -> Iterator[str]:
        for name, address in self._alive.items():
            yield f"alive: {name} {address}"
        for kind, ltime in self._clocks.items():
            if ltime:
                yield f"{kind}: {ltime}"
        if self._left:
            yield "leave"
