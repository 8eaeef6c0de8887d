"""What memberlist carries for the layer above it."""

from collections.abc import Sequence
from typing import Protocol

from isthmus.gossip.broadcast import Broadcast, Tally
from isthmus.wire.memberlist import NodeState


class Upper(Protocol):
    """The layer above (serf), as memberlist sees it; plain functions of its state."""

    @property
    def tally(self) -> Tally:
        """Counts its rumours, and is to count memberlist's as well."""

    def take_broadcasts(self, budget: int, *, overhead: int) -> list[Broadcast]:
        """Its rumours for one packet."""

    def user_state(self, *, join: bool) -> bytes:
        """Its half of a push/pull."""

    def ack_payload(self) -> bytes:
        """What to put into acks."""

    def check_merge(self, nodes: Sequence[NodeState]) -> str | None:
        """Why these members must not be let in, or None."""
