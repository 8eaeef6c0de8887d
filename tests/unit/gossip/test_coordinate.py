"""A pool's coordinates: what acks carry and teach, what is remembered and for how long."""

import math
from random import Random

import pytest

from isthmus.errors import MalformedPacket
from isthmus.gossip import coordinate
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.coordinate import PoolCoordinates, Vivaldi
from isthmus.gossip.roster import MemberStatus
from isthmus.model.coordinate import ORIGIN, distance
from isthmus.wire import memberlist as wire
from isthmus.wire.coordinate import decode_ack, encode_ack
from support.coordinates import at, captured
from support.gossip_world import World

PAYLOAD, COORD = captured()


def pool(*, enabled: bool = True) -> PoolCoordinates:
    return PoolCoordinates("me", enabled=enabled, rng=Random(1))


def test_pool_begins_at_the_origin_alone() -> None:
    fresh = pool()
    assert (fresh.own, fresh.known) == (ORIGIN, {"me": ORIGIN})
    assert decode_ack(fresh.ack_payload()) == ORIGIN


def test_ack_moves_us_and_tells_where_its_sender_lies() -> None:
    ours = pool()
    ours.receive_ack("x", PAYLOAD, rtt=0.01)
    assert ours.own != ORIGIN
    assert ours.known == {"me": ours.own, "x": COORD}
    assert decode_ack(ours.ack_payload()) == ours.own


def test_payload_is_encoded_once_until_we_move() -> None:
    ours = pool()
    payload = ours.ack_payload()
    assert ours.ack_payload() is payload
    ours.receive_ack("x", b"\x02", rtt=0.01)
    assert ours.ack_payload() is payload
    ours.receive_ack("x", PAYLOAD, rtt=0.01)
    assert ours.ack_payload() is not payload
    assert ours.ack_payload() is ours.ack_payload()


@pytest.mark.parametrize(
    ("payload", "rtt"),
    [
        (b"", 0.01),
        (b"\x01\x80", 0.01),
        (b"\x02" + PAYLOAD[1:], 0.01),
        (PAYLOAD[:-3], 0.01),
        (encode_ack(at(math.nan)), 0.01),
        (encode_ack(at(height=math.inf)), 0.01),
        (encode_ack(at(1e9)), 0.01),
        (PAYLOAD, 10.5),
        (PAYLOAD, -0.1),
    ],
)
def test_ack_of_no_use_is_counted_and_changes_nothing(payload: bytes, rtt: float) -> None:
    ours = pool()
    ours.receive_ack("x", payload, rtt=rtt)
    assert (ours.own, ours.known, ours.refused) == (ORIGIN, {"me": ORIGIN}, 1)


def test_pool_without_coordinates_neither_tells_nor_learns() -> None:
    off = pool(enabled=False)
    off.receive_ack("x", PAYLOAD, rtt=0.01)
    assert (off.ack_payload(), off.own, off.known) == (b"", ORIGIN, {})


def test_member_that_is_gone_is_forgotten_with_its_latencies() -> None:
    ours = pool()
    for rtt in (0.3, 0.3):
        ours.receive_ack("x", PAYLOAD, rtt=rtt)
    ours.forget("x")
    ours.forget("never heard of")
    ours.forget("me")
    assert set(ours.known) == {"me"}
    fresh = Vivaldi(rng=Random(1))
    for _ in range(2):
        fresh.update("x", COORD, 0.3)
    fresh.update("y", COORD, 0.001)
    ours.receive_ack("x", PAYLOAD, rtt=0.001)  # Else the median would be 0.3.
    assert ours.own == fresh.coord


def test_no_more_members_are_remembered_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinate, "MEMBERS_MAX", 3)
    ours = pool()
    for number in range(6):
        ours.receive_ack(f"n{number}", PAYLOAD, rtt=0.01)
    assert set(ours.known) == {"me", "n4", "n5"}
    assert len(ours._vivaldi._latencies) == 3


def test_result_out_of_all_bounds_begins_anew_and_is_counted() -> None:
    """A height behind a way of nearly no length grows without bounds."""
    node = Vivaldi(rng=Random(1))
    node.update("x", at(2e-5, height=5.0), 10.0)
    assert (node.coord, node.resets) == (ORIGIN, 1)
    node.update("x", at(0.05, error=0.5), 0.05)
    assert node.coord.is_compatible()
    assert abs(node.coord.adjustment) < 1  # What led there is forgotten.


def test_refused_update_says_of_whom() -> None:
    with pytest.raises(MalformedPacket, match="coordinate of far is incompatible"):
        Vivaldi(rng=Random(1)).update("far", at(math.inf), 0.1)


# In a pool ------------------------------------------------------------------------------------


def test_members_learn_where_they_lie_from_acks() -> None:
    world = World(latency=(0.0049, 0.0051))
    names = world.add_pool(4)
    world.run(until=world.now + 120)
    for name in names:
        coordinates = world.sites[name].serf.coordinates
        assert set(coordinates.known) == set(names)
        assert coordinates.known[name] == coordinates.own
        assert coordinates.own.error < 0.3
    stats = world.sites["n0"].serf.stats()
    assert (stats["coordinate_resets"], stats["coordinates_refused"]) == ("0", "0")


def test_acks_carry_the_coordinate_but_relayed_ones_do_not() -> None:
    world = World()
    names = world.add_pool(5)
    world.cut = lambda source, target: {source, target} == {names[0], names[1]}
    world.record_packets = True
    world.run(until=world.now + 60)
    relayed = set()
    acks = []
    for _, source, target, data in world.packets:
        for leaf in wire.open_packet(data).messages:
            message = wire.decode_message(leaf)
            if isinstance(message, wire.IndirectPing):
                relayed.add((target, source, message.seq_no))
            elif isinstance(message, wire.Ack):
                acks.append((source, target, message))
    plain = [ack for source, target, ack in acks if (source, target, ack.seq_no) not in relayed]
    helped = [ack for source, target, ack in acks if (source, target, ack.seq_no) in relayed]
    assert relayed
    assert helped
    assert all(decode_ack(ack.payload).is_compatible() for ack in plain)
    assert not any(ack.payload for ack in helped)


def test_pool_without_coordinates_sends_empty_acks() -> None:
    world = World(config=GossipConfig(coordinates=False))
    world.add_pool(3)
    world.record_packets = True
    world.run(until=world.now + 20)
    acks = [
        message
        for *_, data in world.packets
        for leaf in wire.open_packet(data).messages
        if isinstance(message := wire.decode_message(leaf), wire.Ack)
    ]
    assert acks
    assert not any(ack.payload for ack in acks)
    assert world.sites["n0"].serf.coordinates.known == {}


def test_failed_members_coordinate_stays_until_it_is_reaped() -> None:
    world = World(config=GossipConfig(reconnect_timeout=60))
    names = world.add_pool(3)
    world.run(until=world.now + 60)
    world.crash(names[2])
    world.run(until=world.now + 30)
    serf = world.sites[names[0]].serf
    assert world.status(names[0], names[2]) is MemberStatus.FAILED
    assert names[2] in serf.coordinates.known
    world.run(until=world.now + 120)
    assert world.status(names[0], names[2]) is MemberStatus.NONE
    assert set(serf.coordinates.known) == {names[0], names[1]}


def test_members_that_are_routed_by_name_learn_as_well() -> None:
    world = World(config=GossipConfig.wan(), latency=(0.02, 0.02), by_name=True)
    for name in ("a.dc1", "b.dc2", "c.dc3"):
        world.add(name)
    world.join("b.dc2", "a.dc1")
    world.join("c.dc3", "a.dc1")
    world.run(until=600)
    coordinates = world.sites["a.dc1"].serf.coordinates
    assert set(coordinates.known) == {"a.dc1", "b.dc2", "c.dc3"}
    for name in ("b.dc2", "c.dc3"):
        assert distance(coordinates.own, coordinates.known[name]) == pytest.approx(0.04, rel=0.1)


def test_chance_without_a_direction_leaves_along_the_first_axis() -> None:
    class Undecided(Random):
        def random(self) -> float:
            return 0.5

    node = Vivaldi(rng=Undecided())
    node.update("x", ORIGIN, 0.1)
    assert node.coord.vec is not None
    assert node.coord.vec[0] > 0
    assert node.coord.vec[1:] == (0.0,) * 7
