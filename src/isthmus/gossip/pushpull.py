"""Full exchange of state: which versions go together, and how often to exchange.

Source: protocol/gossip.md §3, §10.
"""

import math
from collections.abc import Iterable
from typing import Final

from isthmus.wire.memberlist import VSN_SIZE, NodeState, NodeStatus

SCALE_THRESHOLD: Final = 32
"""Pools larger than this exchange less often."""


def scaled_interval(interval: float, *, member_count: int) -> float:
    """Seconds between two exchanges in a pool of `member_count`."""
    if member_count <= SCALE_THRESHOLD:
        return interval
    return interval * (1 + math.ceil(math.log2(member_count) - math.log2(SCALE_THRESHOLD)))


def version_conflict(ours: Iterable[NodeState], theirs: Iterable[NodeState]) -> str | None:
    """Why the members of both sides can not be in one pool, or None.

    Each current version must lie between the highest minimum and the lowest maximum of all alive.
    Members with a malformed version are left out: they are never let in.
    """
    alive = [
        node
        for node in (*theirs, *ours)
        if node.state is NodeStatus.ALIVE and len(node.vsn) == VSN_SIZE
    ]
    for what, place in (("protocol", 0), ("delegate protocol", 3)):
        low = max((node.vsn[place] for node in alive), default=0)
        high = min((node.vsn[place + 1] for node in alive), default=255)
        for node in alive:
            version = node.vsn[place + 2]
            if not low <= version <= high:
                return (
                    f"Node '{node.name}' {what} version ({version}) "
                    f"is incompatible: [{low}, {high}]"
                )
    return None
