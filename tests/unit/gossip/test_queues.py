"""Serf's three queues: their order, their room in a packet, their length."""

from dataclasses import replace

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.queues import SerfQueues, wrap
from isthmus.wire import serf as wire
from isthmus.wire.memberlist import UserMessage, decode_message


def filled() -> SerfQueues:
    queues = SerfQueues(replace(GossipConfig.lan(), queue_depth_min=2))
    queues.events.queue(b"event-")
    queues.queries.queue(b"query-")
    queues.intents.queue(b"intent")
    return queues


def test_intents_come_before_queries_and_these_before_events() -> None:
    taken = filled().take(100, overhead=3, member_count=1)
    assert [broadcast.data for broadcast in taken] == [b"intent", b"query-", b"event-"]


def test_packet_has_room_for_so_many() -> None:
    queues = filled()
    for budget, count in ((8, 0), (9, 1), (18, 2), (26, 2), (27, 3)):
        assert len(filled().take(budget, overhead=3, member_count=1)) == count
    assert queues.tally.size == 3


def test_queue_that_is_too_long_is_shortened() -> None:
    queues = filled()
    for number in range(9):
        queues.events.queue(b"%d" % number)
    assert queues.prune(member_count=3) == [4]  # Twice the members may wait.
    assert queues.prune(member_count=1) == [4]  # But never fewer than the configured depth.
    assert (len(queues.events), len(queues.intents), queues.tally.size) == (2, 1, 4)


def test_message_is_wrapped_for_memberlist() -> None:
    join = wire.Join(ltime=3, node="x")
    assert wrap(join) == wrap(wire.encode_message(join))
    assert decode_message(wrap(join)) == UserMessage(wire.encode_message(join))
