"""Full exchange of state: which versions go together, and how often to exchange.

Source: protocol/gossip.md §3, §10.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Final

from isthmus.wire.memberlist import VSN_SIZE, NodeState, NodeStatus

SCALE_THRESHOLD: Final = 32
"""Pools larger than this exchange less often."""


def scaled_interval(interval: float, *, member_count: int) -> float:
    """Seconds between two exchanges in a pool of `member_count`."""
    if member_count <= SCALE_THRESHOLD:
        return interval
    return interval * (1 + math.ceil(math.log2(member_count) - math.log2(SCALE_THRESHOLD)))


def version_conflict(ours: Sequence[NodeState], theirs: Sequence[NodeState]) -> str | None:
    """Why the members of both sides can not be in one pool, or None.

    Each current version must lie between the highest minimum and the lowest maximum of all alive.
    Members with a malformed version are left out: they are never let in.
    """
    alive = NodeStatus.ALIVE
    vsns = {node.vsn for node in chain(theirs, ours) if node.state is alive}
    vsns = {vsn for vsn in vsns if len(vsn) == VSN_SIZE}  # Few: most members speak the same.
    for what, place in (("protocol", 0), ("delegate protocol", 3)):
        low = max((vsn[place] for vsn in vsns), default=0)
        high = min((vsn[place + 1] for vsn in vsns), default=255)
        if all(low <= vsn[place + 2] <= high for vsn in vsns):
            continue
        for node in chain(theirs, ours):
            if node.state is not alive or len(node.vsn) != VSN_SIZE:
                continue
            version = node.vsn[place + 2]
            if not low <= version <= high:
                return (
                    f"Node '{node.name}' {what} version ({version}) "
                    f"is incompatible: [{low}, {high}]"
                )
    return None
