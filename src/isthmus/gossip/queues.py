"""Serf's rumours: intents, queries and events, which travel on memberlist's packets in this order.

Source: protocol/gossip.md §7.
"""

from isthmus.gossip.broadcast import Broadcast, BroadcastQueue, Tally
from isthmus.gossip.config import GossipConfig
from isthmus.wire import serf as wire
from isthmus.wire.memberlist import UserMessage, encode_message


class SerfQueues:
    """Three queues that never replace what waits in them.

    Args:
        config: Limits.
    """

    def __init__(self, config: GossipConfig) -> None:
        self._depth_min = config.queue_depth_min
        self.tally = Tally()
        """Counts the rumours of all queues, memberlist's as well."""
        self.intents = BroadcastQueue(config.retransmit_mult, self.tally)
        self.queries = BroadcastQueue(config.retransmit_mult, self.tally)
        self.events = BroadcastQueue(config.retransmit_mult, self.tally)

    def take(self, budget: int, *, overhead: int, member_count: int) -> list[Broadcast]:
        """Rumours for one packet; see `BroadcastQueue.take`."""
        chosen: list[Broadcast] = []
        for queue in (self.intents, self.queries, self.events):
            if len(queue):
                taken = queue.take(budget, overhead=overhead, member_count=member_count)
                budget -= sum(overhead + len(broadcast.data) for broadcast in taken)
                chosen += taken
        return chosen

    def prune(self, *, member_count: int) -> list[int]:
        """Shorten queues that are too long; how many rumours each of those lost."""
        depth = max(self._depth_min, 2 * member_count)
        dropped = [queue.prune(depth) for queue in (self.intents, self.queries, self.events)]
        return [count for count in dropped if count]


def wrap(message: wire.SerfMessage | bytes) -> bytes:
    """A serf message, encoded or not, as memberlist carries it."""
    data = message if isinstance(message, bytes) else wire.encode_message(message)
    return encode_message(UserMessage(data))
