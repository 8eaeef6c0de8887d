"""One membership core under test: messages in, messages out, and a layer above that says little."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from isthmus.gossip.broadcast import Broadcast, Tally
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.memberlist import (
    Memberlist,
)
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import (
    Address,
    SendPacket,
)
from isthmus.wire import memberlist as wire

ME: Address = ("10.0.0.1", 7946)
X: Address = ("10.0.0.2", 7946)
Y: Address = ("10.0.0.3", 7946)
X_ADDR = b"\x0a\x00\x00\x02"
QUIET = replace(GossipConfig.lan(), compress=False)


class Above:
    """A layer above that says little."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        self.tally = Tally()

    def take_broadcasts(self, budget: int, *, overhead: int) -> list[Broadcast]:
        return []

    def user_state(self, *, join: bool) -> bytes:
        return b"state"

    def ack_payload(self) -> bytes:
        return b"coordinate"

    def check_merge(self, nodes: Sequence[wire.NodeState]) -> str | None:
        return self.refusal


class Core:
    """A core whose outputs are read as messages."""

    def __init__(self, *, config: GossipConfig = QUIET, **options: Any) -> None:
        self.above = Above()
        self.rng = Random(1)
        self.core = Memberlist(
            name="me",
            address=ME,
            meta=b"\xff\x80",
            config=config,
            keyring=options.pop("keyring", Keyring()),
            upper=self.above,
            rng=self.rng,
            entropy=self.rng.randbytes,
            now=0.0,
            **options,
        )
        self.core.rumours.forget("me")
        self.core.take_outputs()

    def receive(
        self, *messages: wire.PacketMessage, now: float = 0.0, source: Address | None = X
    ) -> None:
        data = wire.join_compound([wire.encode_message(message) for message in messages])
        self.core.receive_packet(data, source=source, now=now)

    def add(self, name: str = "x", addr: bytes = X_ADDR, *, vsn: bytes = OUR_VSN) -> None:
        self.receive(wire.Alive(incarnation=1, node=name, addr=addr, port=7946, vsn=vsn))
        self.core.rumours.forget(name)
        self.core.take_outputs()

    def sent(self) -> list[tuple[str, Address, list[wire.PacketMessage]]]:
        """Packets since the last look, as node, address and messages."""
        found = []
        for output in self.core.take_outputs():
            if isinstance(output, SendPacket):
                leaves = wire.open_packet(output.data).messages
                messages = [wire.decode_message(leaf) for leaf in leaves]
                found.append((output.node, output.address, messages))
        return found

    def run_until_probe(self) -> tuple[float, wire.Ping]:
        """Let the next probe begin."""
        while True:
            now = self.core.next_timer()
            self.core.handle_timer(now=now)
            for _, _, messages in self.sent():
                for message in messages:
                    if isinstance(message, wire.Ping):
                        return now, message


def ping(**fields: Any) -> wire.Ping:
    base: dict[str, Any] = {"seq_no": 7, "node": "me", "source_addr": X_ADDR, "source_port": 7946}
    return wire.Ping(**(base | {"source_node": "x"} | fields))
