"""One serf core under test: serf messages in, serf messages out."""

from random import Random
from typing import Any

from isthmus.gossip.keyring import Keyring
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import Address, OpenStream, SendPacket
from isthmus.gossip.roster import MemberStatus
from isthmus.gossip.serf import Serf
from isthmus.gossip.streams import JoinTarget
from isthmus.wire import memberlist as packets
from isthmus.wire import serf as wire
from support.memberlist_core import ME, QUIET, X_ADDR, X

__all__ = ["ME", "X_ADDR", "Core", "X", "event", "query", "sent"]


class Core:
    """A core that is talked to in serf messages."""

    def __init__(self, *, tags: dict[str, str] | None = None, **options: Any) -> None:
        self.serf = Serf(
            name="me",
            address=ME,
            tags=tags or {},
            config=QUIET,
            keyring=options.pop("keyring", Keyring()),
            merge_check=options.pop("merge_check", None),
            rng=Random(1),
            entropy=Random(1).randbytes,
            now=0.0,
            **options,
        )
        self.serf.take_outputs()

    def add(self, name: str = "x", addr: bytes = X_ADDR) -> None:
        alive = packets.Alive(incarnation=1, node=name, addr=addr, port=7946, vsn=OUR_VSN)
        self.serf.receive_packet(packets.encode_message(alive), source=X, now=0.0)
        self.serf.take_outputs()

    def claim(self, *claims: packets.PacketMessage, now: float = 0.0) -> list[Any]:
        """Receive memberlist's messages; what came of it."""
        for claim in claims:
            self.serf.receive_packet(packets.encode_message(claim), source=X, now=now)
        return self.serf.take_outputs()

    def bury(self, name: str = "x", *, from_: str = "y", now: float = 0.0) -> list[Any]:
        """Hear of a death, or from itself of a departure; what came of it."""
        return self.claim(packets.Dead(incarnation=1, node=name, from_=from_), now=now)

    def hear(self, *messages: wire.SerfMessage, now: float = 0.0) -> list[Any]:
        """Receive messages; what came of it."""
        for message in messages:
            data = packets.encode_message(packets.UserMessage(wire.encode_message(message)))
            self.serf.receive_packet(data, source=X, now=now)
        return self.serf.take_outputs()

    def receive_state(
        self, *, nodes: tuple[packets.NodeState, ...] = (), ignore_old: bool = False, **fields: Any
    ) -> list[Any]:
        """Receive the answer to a join of ours; `fields` are those of its serf half."""
        self.serf.join([JoinTarget("x", X)], ignore_old=ignore_old, now=0.0)
        (request,) = [o for o in self.serf.take_outputs() if isinstance(o, OpenStream)]
        state = wire.encode_message(wire.SerfPushPull(**fields))
        answer = packets.PushPull(join=True, nodes=nodes, user_state=state)
        data = packets.wrap_stream(packets.encode_stream(answer), dialler=False)
        self.serf.receive_stream_data(request.id, data, now=0.0)
        return self.serf.take_outputs()

    def rumours(self) -> list[wire.SerfMessage]:
        """Serf messages that wait to be passed on."""
        found = []
        for broadcast in self.serf.take_broadcasts(100_000, overhead=3):
            message = packets.decode_message(broadcast.data)
            assert isinstance(message, packets.UserMessage)
            found.append(wire.decode_message(message.payload))
        return found

    def status(self, name: str) -> tuple[MemberStatus, int]:
        (member,) = [m for m in self.serf.members() if m.name == name]
        return member.status, member.status_ltime


def sent(outputs: list[Any]) -> list[tuple[str, Address, wire.SerfMessage]]:
    """Serf messages that were sent straight to a member."""
    found = []
    for output in outputs:
        if isinstance(output, SendPacket):
            for leaf in packets.open_packet(output.data).messages:
                message = packets.decode_message(leaf)
                if isinstance(message, packets.UserMessage):
                    found.append(
                        (output.node, output.address, wire.decode_message(message.payload))
                    )
    return found


def event(ltime: int, name: str = "deploy") -> wire.UserEvent:
    return wire.UserEvent(ltime=ltime, name=name, payload=b"7", cc=True)


def query(**fields: Any) -> wire.Query:
    base: dict[str, Any] = {
        "ltime": 1, "id": 77, "addr": X_ADDR, "port": 7946, "source_node": "x",
        "timeout": 3_200_000_000, "name": "load",
    }  # fmt: skip
    return wire.Query(**(base | fields))
