"""What travels between the members of a simulated pool: packets, and streams piece by piece."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from isthmus.gossip.outputs import Address
from isthmus.sim.network import Machine
from isthmus.sim.parcel import Parcel
from isthmus.sim.world import Event, Message, ProcessState

if TYPE_CHECKING:
    from isthmus.sim.member import Member

CONNECT_SIZE: Final = 0
"""Bytes that opening a connection counts as."""
_REFUSED: Final = "connection refused"

Path: TypeAlias = Sequence[Machine]
"""Machines that stand beside each other, the sender's first."""
Answer: TypeAlias = tuple[float, int]
"""How the ack of a ping travels, drawn when the ping was sent: its seconds (below 0: it is lost),
and the state of the network's rules for which that holds."""


def count_forwarded(path: Path, size: int) -> None:
    """The machines between the ends of a path pass on so many bytes."""
    for machine in path[1:-1]:
        machine.bytes_forwarded += size


class Packet(Message):
    """A gossip packet.

    Attributes:
        source: Who sent it.
        id: Its number there.
        parcel: What it says.
        path: The way it took.
        answer: If it is a ping: how its ack will travel.
    """

    __slots__ = ("answer", "id", "parcel", "path", "source")

    def __init__(
        self, source: "Member", number: int, parcel: Parcel, path: Path, answer: Answer | None
    ) -> None:
        super().__init__(parcel.size, reliable=len(path) > 2)
        self.source, self.id, self.parcel, self.path = source, number, parcel, path
        self.answer = answer


class PacketLost(Message):
    """Back at the source: packet `id` found nobody; `refused`: so said the target's own host."""

    __slots__ = ("address", "id", "refused")

    def __init__(self, number: int, address: Address, *, refused: bool) -> None:
        super().__init__(0, reliable=True)
        self.id, self.address, self.refused = number, address, refused


class Connection:
    """A stream between two members.

    Attributes:
        ends: The members, the dialler first.
        numbers: The stream's number at each; 0: not accepted.
        paths: The ways to the other end.
    """

    __slots__ = ("answered", "ends", "numbers", "paths")

    def __init__(self, dialler: "Member", target: "Member", number: int, path: Path) -> None:
        self.ends = (dialler, target)
        self.numbers = [number, 0]
        self.paths = (path, tuple(reversed(path)))
        self.answered = False


class Connect(Event):
    """A connection request reaches the machine of its target."""

    __slots__ = ("connection", "parcel")

    def __init__(self, connection: Connection, parcel: Parcel) -> None:
        super().__init__(CONNECT_SIZE, reliable=True)
        self.connection, self.parcel = connection, parcel

    def happen(self, *, now: float) -> None:
        """Accept or refuse, as the kernel does, whatever the process is busy with."""
        del now
        dialler, target = self.connection.ends
        if target.process.state is ProcessState.SILENT:
            return
        back = self.connection.paths[1]
        world = dialler.pool.world
        if target.process.alive:
            world.send(back, dialler, Opened(self.connection, self.parcel))
        else:
            failed = StreamEnded(self.connection, 0, _REFUSED, refused=len(back) == 2)
            world.send(back, dialler, failed)


class Opened(Message):
    """Back at the dialler: the stream is connected."""

    __slots__ = ("connection", "parcel")

    def __init__(self, connection: Connection, parcel: Parcel) -> None:
        super().__init__(CONNECT_SIZE, reliable=True)
        self.connection, self.parcel = connection, parcel


class StreamData(Message):
    """What one end wrote; `end` is the receiving one, 0 for the dialler."""

    __slots__ = ("connection", "end", "parcel")

    def __init__(self, connection: Connection, end: int, parcel: Parcel) -> None:
        super().__init__(parcel.size, reliable=True)
        self.connection, self.end, self.parcel = connection, end, parcel


class StreamEnded(Message):
    """One end hears that a stream is over; an empty `text`: the other end closed it."""

    __slots__ = ("connection", "end", "refused", "text")

    def __init__(
        self, connection: Connection, end: int, text: str, *, refused: bool = False
    ) -> None:
        super().__init__(0, reliable=True)
        self.connection, self.end, self.text, self.refused = connection, end, text, refused


class RejoinAgain(Message):
    """A restarted member looks for its pool once more."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(0, reliable=True)
