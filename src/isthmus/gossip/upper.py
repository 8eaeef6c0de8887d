"""What memberlist carries for the layer above it."""

from collections.abc import Sequence
from typing import Protocol

from isthmus.gossip.broadcast import Broadcast
from isthmus.wire.memberlist import NodeState


class Upper(Protocol):
    """The layer above (serf), as memberlist sees it; plain functions of its state."""

    def has_broadcasts(self) -> bool:
        """Whether it has rumours of its own."""

    def take_broadcasts(self, budget: int, *, overhead: int) -> list[Broadcast]:
        """Its rumours for one packet."""

    def user_state(self, *, join: bool) -> bytes:
        """Its half of a push/pull."""

    def ack_payload(self) -> bytes:
        """What to put into acks."""

    def check_merge(self, nodes: Sequence[NodeState]) -> str | None:
        """Why these members must not be let in, or None."""
