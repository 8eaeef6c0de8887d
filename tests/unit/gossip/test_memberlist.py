"""The membership core on its own: this comes in, that goes out."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.gossip.keyring import Keyring
from isthmus.gossip.memberlist import (
    RELAYED_PINGS_MAX,
)
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import (
    LeaveSent,
    OpenStream,
    PingAcked,
    SendPacket,
    UserMessageReceived,
)
from isthmus.wire import memberlist as wire
from support.memberlist_core import QUIET, X_ADDR, Core, X, Y, ping

Y_ADDR = b"\x0a\x00\x00\x03"


def test_ping_is_answered_to_its_source() -> None:
    core = Core()
    core.receive(ping())
    ack = wire.Ack(seq_no=7, payload=b"coordinate")
    assert core.sent() == [("x", X, [ack])]


def test_ping_without_a_source_is_answered_to_where_it_came_from() -> None:
    core = Core()
    core.receive(wire.Ping(seq_no=7), source=Y)
    assert core.sent() == [("", Y, [wire.Ack(seq_no=7, payload=b"coordinate")])]


def test_ping_for_another_name_is_ignored() -> None:
    core = Core()
    core.receive(ping(node="someone"))
    assert core.sent() == []
    assert core.core.counters["pings_for_others"] == 1


def test_ping_from_a_gateway_is_answered_by_name_and_never_without_one() -> None:
    """protocol/gossip.md §15: the name alone is enough; without it nothing can be routed."""
    core = Core(route_by_name=True)
    core.receive(wire.Ping(seq_no=7, node="me", source_node="x.dc2"), source=None)
    core.receive(ping(source_node=""), source=None)
    ((node, _, messages),) = core.sent()
    assert (node, messages) == ("x.dc2", [wire.Ack(seq_no=7, payload=b"coordinate")])
    assert core.core.counters["packets_without_name"] == 1


def test_probe_names_its_source_and_its_target() -> None:
    core = Core()
    core.add()
    _, probe = core.run_until_probe()
    assert probe == wire.Ping(
        seq_no=1,
        node="x",
        source_addr=b"\x0a\x00\x00\x01",
        source_port=7946,
        source_node="me",
    )


def test_answered_probe_tells_the_round_trip_time() -> None:
    core = Core()
    core.add()
    now, probe = core.run_until_probe()
    core.receive(wire.Ack(seq_no=probe.seq_no, payload=b"there"), now=now + 0.25)
    (acked,) = core.core.take_outputs()
    assert isinstance(acked, PingAcked)
    assert (acked.node, acked.payload) == ("x", b"there")
    assert acked.rtt == pytest.approx(0.25)


def fail_probe(core: Core) -> tuple[float, list[Any]]:
    """Let a probe time out once; what was asked of the driver then."""
    now, _ = core.run_until_probe()
    core.core.handle_timer(now=now + 0.5)
    return now + 0.5, core.core.take_outputs()


def test_silent_target_is_asked_for_through_helpers_and_a_stream() -> None:
    core = Core()
    core.add("x")
    core.add("y", b"\x0a\x00\x00\x03")
    _, outputs = fail_probe(core)
    (packet,) = [o for o in outputs if isinstance(o, SendPacket)]
    request = wire.decode_message(packet.data)
    assert isinstance(request, wire.IndirectPing)
    assert {packet.node, request.node} == {"x", "y"}
    assert request.nack
    assert request.source_node == "me"
    (stream,) = [o for o in outputs if isinstance(o, OpenStream)]
    assert stream.node == request.node
    assert stream.timeout == pytest.approx(0.5)


def test_stream_to_another_datacenter_is_no_second_way() -> None:
    core = Core(route_by_name=True, is_remote=lambda name: True)
    core.add("x")
    core.add("y", b"\x0a\x00\x00\x03")
    _, outputs = fail_probe(core)
    assert not [o for o in outputs if isinstance(o, OpenStream)]
    assert [o for o in outputs if isinstance(o, SendPacket)]


def test_old_helpers_are_not_asked_for_nacks() -> None:
    core = Core()
    core.add("x", vsn=bytes((1, 3, 2, 2, 5, 4)))
    core.add("y", b"\x0a\x00\x00\x03", vsn=bytes((1, 3, 2, 2, 5, 4)))
    _, outputs = fail_probe(core)
    (packet,) = [o for o in outputs if isinstance(o, SendPacket)]
    request = wire.decode_message(packet.data)
    assert isinstance(request, wire.IndirectPing)
    assert not request.nack


def test_unanswered_probe_makes_a_suspect() -> None:
    core = Core()
    core.add()
    now, _ = fail_probe(core)
    core.core.handle_timer(now=now + 0.5)
    assert core.core.table.nodes["x"].status is wire.NodeStatus.SUSPECT
    assert core.core.awareness.score == 1


def test_suspect_is_told_with_the_next_ping() -> None:
    """Lifeguard, Buddy System; protocol/gossip.md §5."""
    core = Core()
    core.add()
    core.receive(wire.Suspect(incarnation=1, node="x", from_="y"))
    core.core.rumours.forget("x")
    for _ in range(3):
        core.core.handle_timer(now=core.core.next_timer())
        packets = [o for o in core.core.take_outputs() if isinstance(o, SendPacket)]
        if packets:
            break
    (packet,) = packets
    assert packet.data[0] == wire.MessageType.CHECKSUM
    leaves = [wire.decode_message(m) for m in wire.open_packet(packet.data).messages]
    assert [type(leaf) for leaf in leaves] == [wire.Ping, wire.Suspect]
    assert leaves[1] == wire.Suspect(incarnation=1, node="x", from_="me")


def indirect(**fields: Any) -> wire.IndirectPing:
    base: dict[str, Any] = {
        "seq_no": 40, "target": b"\x0a\x00\x00\x03", "port": 7946, "node": "y", "nack": True,
        "source_addr": X_ADDR, "source_port": 7946, "source_node": "x",
    }  # fmt: skip
    return wire.IndirectPing(**(base | fields))


def test_helper_pings_and_passes_the_ack_on() -> None:
    core = Core()
    core.receive(indirect())
    ((node, address, (asked,)),) = core.sent()
    assert (node, address) == ("y", Y)
    assert isinstance(asked, wire.Ping)
    core.receive(wire.Ack(seq_no=asked.seq_no, payload=b"z"), now=0.2)
    assert core.sent() == [("x", X, [wire.Ack(seq_no=40)])]
    core.core.handle_timer(now=0.6)
    assert core.sent() == []


@pytest.mark.parametrize("nack", [True, False])
def test_helper_that_hears_nothing_says_so_if_asked_to(nack: bool) -> None:
    core = Core()
    core.receive(indirect(nack=nack))
    core.sent()
    core.core.handle_timer(now=0.5)
    assert core.sent() == ([("x", X, [wire.Nack(seq_no=40)])] if nack else [])


def test_helper_serves_a_bounded_number() -> None:
    core = Core()
    for _ in range(RELAYED_PINGS_MAX + 1):
        core.receive(indirect())
    assert len(core.sent()) == RELAYED_PINGS_MAX


def test_failed_ping_asks_helpers_at_once() -> None:
    core = Core()
    core.add("x")
    core.add("y", b"\x0a\x00\x00\x03")
    packets: list[SendPacket] = []
    while not packets:
        now = core.core.next_timer()
        core.core.handle_timer(now=now)
        packets = [o for o in core.core.take_outputs() if isinstance(o, SendPacket)]
    core.core.packet_failed(packets[0].id, now=now)
    assert core.core.next_timer() == now
    core.core.handle_timer(now=now)
    assert [type(m) for _, _, (m,) in core.sent()] == [wire.IndirectPing]


def test_member_that_missed_our_refutation_is_told_again() -> None:
    """Its ping carries the suspicion (Buddy System), and rumours are sent a few times only."""
    core = Core()
    core.receive(wire.Suspect(incarnation=1, node="me", from_="y"))
    core.core.rumours.forget("me")  # It was told as often as rumours are.
    core.core.take_outputs()
    core.receive(ping(), wire.Suspect(incarnation=1, node="me", from_="x"))
    (_, _, (ack,)), (node, address, (alive,)) = core.sent()
    assert (type(ack), node, address) == (wire.Ack, "x", X)
    assert isinstance(alive, wire.Alive)
    assert (alive.node, alive.incarnation) == ("me", 2)


def test_accuser_hears_the_refutation_first() -> None:
    core = Core()
    core.receive(ping(), wire.Suspect(incarnation=1, node="me", from_="x"))
    (_, (node, _, (alive,))) = core.sent()
    assert node == "x"
    assert isinstance(alive, wire.Alive)
    assert alive.incarnation == 2


@pytest.mark.parametrize(
    "claim",
    [
        wire.Suspect(incarnation=1, node="me", from_="y"),  # A rumour that is on its way still.
        wire.Suspect(incarnation=1, node="z", from_="x"),
        wire.Dead(incarnation=1, node="me", from_="x"),
    ],
)
def test_other_accusations_bring_no_packet_of_their_own(claim: wire.PacketMessage) -> None:
    core = Core()
    core.receive(wire.Suspect(incarnation=1, node="me", from_="y"))
    core.core.rumours.forget("me")
    core.core.take_outputs()
    core.receive(ping(), claim)
    assert len(core.sent()) == 1
    core.receive(wire.Suspect(incarnation=1, node="me", from_="x"))
    assert core.sent() == []


def begin_probe(core: Core) -> tuple[float, str, int]:
    """Let the next probe begin: the moment, whom it asks, its number."""
    now, begun = core.run_until_probe()
    return now, begun.node, begun.seq_no


def test_target_that_is_refused_everywhere_is_suspected_before_the_deadline() -> None:
    core = Core()
    core.add("x")
    core.add("y", Y_ADDR)
    now, target, number = begin_probe(core)
    nodes = core.core.table.nodes
    core.core.receive_refusal(nodes[target].address, now=now + 0.001)
    assert core.core.next_timer() == now + 0.001
    core.core.handle_timer(now=now + 0.001)
    outputs = core.core.take_outputs()
    (stream,) = [output for output in outputs if isinstance(output, OpenStream)]
    core.core.streams.failed(stream.id, "connection refused", refused=True, now=now + 0.002)
    core.core.handle_timer(now=now + 0.002)
    assert nodes[target].status is wire.NodeStatus.ALIVE
    core.receive(wire.Nack(seq_no=number), now=now + 0.003)
    core.core.handle_timer(now=now + 0.003)
    assert nodes[target].status is wire.NodeStatus.SUSPECT


def test_refusal_by_others_does_not_speak_for_the_target() -> None:
    core = Core()
    core.add("x")
    now, target, _ = begin_probe(core)
    host, port = core.core.table.nodes[target].address
    for address in ((host, port + 1), ("10.0.0.99", port)):
        core.core.receive_refusal(address, now=now + 0.001)
        assert core.core.next_timer() >= now + QUIET.probe_timeout
    assert core.core.counters["packets_refused_by_host"] == 2


def test_helper_that_is_refused_sends_its_nack_at_once() -> None:
    core = Core()
    core.core.hold()
    core.receive(indirect(), now=10.0)
    core.sent()
    core.core.receive_refusal(X, now=10.001)
    assert core.core.next_timer() == 10.0 + QUIET.probe_timeout
    core.core.receive_refusal(Y, now=10.002)
    assert core.core.next_timer() == 10.002
    core.core.handle_timer(now=10.002)
    assert core.sent() == [("x", X, [wire.Nack(seq_no=40)])]


def test_news_ride_on_acks() -> None:
    core = Core()
    core.receive(wire.Alive(incarnation=1, node="x", addr=X_ADDR, port=7946, vsn=OUR_VSN))
    core.core.take_outputs()
    core.receive(ping())
    ((_, _, messages),) = core.sent()
    assert [type(message) for message in messages] == [wire.Ack, wire.Alive]


def test_gossip_goes_to_the_living_and_the_lately_dead_but_not_to_who_left() -> None:
    core = Core()
    for number, name in enumerate(("alive", "dead", "left")):
        core.add(name, bytes((10, 0, 1, number)))
    core.receive(
        wire.Dead(incarnation=1, node="dead", from_="z"),
        wire.Dead(incarnation=1, node="left", from_="left"),
    )
    core.core.take_outputs()
    told = set()
    for tick in range(3):
        core.core.handle_timer(now=0.2 * tick)
        told |= {node for node, _, _ in core.sent()}
    assert told == {"alive", "dead"}


def test_broken_messages_are_counted_and_the_rest_is_heard() -> None:
    core = Core()
    data = wire.join_compound([b"\x04\x80\x01", b"\x63", wire.encode_message(ping())])
    core.core.receive_packet(data, source=X, now=0.0)
    core.core.receive_packet(b"\x0c\x00", source=X, now=0.0)
    assert len(core.sent()) == 1
    assert core.core.counters["messages_refused"] == 1
    assert core.core.counters["packets_refused"] == 1


def test_user_message_goes_up() -> None:
    core = Core()
    core.receive(wire.UserMessage(b"hello"))
    assert core.core.take_outputs() == [UserMessageReceived(b"hello", X)]


def test_encrypted_pool_sends_and_accepts_only_sealed_packets() -> None:
    keyring = Keyring([bytes(16)])
    core = Core(keyring=keyring)
    core.receive(ping())
    assert core.core.take_outputs() == []
    sealed = wire.seal(
        wire.encode_message(ping()), keyring.ciphers[0], nonce=bytes(12), associated=b""
    )
    core.core.receive_packet(sealed, source=X, now=0.0)
    (packet,) = core.core.take_outputs()
    assert isinstance(packet, SendPacket)
    opened = wire.open_packet(packet.data, ciphers=keyring.ciphers)
    assert wire.decode_message(opened.messages[0]) == wire.Ack(seq_no=7, payload=b"coordinate")


def test_rolling_switch_on_of_encryption() -> None:
    """Keys are installed, but neither demanded nor used yet."""
    config = replace(QUIET, verify_incoming=False, verify_outgoing=False)
    core = Core(config=config, keyring=Keyring([bytes(16)]))
    core.receive(ping())
    assert core.sent() == [("x", X, [wire.Ack(seq_no=7, payload=b"coordinate")])]


def test_member_alone_leaves_at_once_and_others_after_telling() -> None:
    core = Core()
    core.core.leave(timeout=5.0, now=0.0)
    core.core.handle_timer(now=0.0)
    assert LeaveSent() in core.core.take_outputs()

    core = Core()
    core.add()
    core.core.leave(timeout=5.0, now=0.0)
    told, outputs = 0, core.core.take_outputs()
    while LeaveSent() not in outputs:
        assert told < 4
        core.core.handle_timer(now=core.core.next_timer())
        outputs = core.core.take_outputs()
        packets = [o.data for o in outputs if isinstance(o, SendPacket)]
        leaves = [leaf for data in packets for leaf in wire.open_packet(data).messages]
        told += leaves.count(wire.encode_message(wire.Dead(incarnation=1, node="me", from_="me")))
    assert told == 4


def test_held_core_starts_nothing() -> None:
    core = Core()
    core.add()
    core.core.update_meta(b"new")
    core.core.hold()
    core.core.handle_timer(now=100.0)
    assert not [o for o in core.core.take_outputs() if isinstance(o, (SendPacket, OpenStream))]
    core.receive(ping(), now=100.0)
    assert core.sent() == [("x", X, [wire.Ack(seq_no=7, payload=b"coordinate")])]
    core.core.release(now=100.0)
    core.core.handle_timer(now=100.0)
    assert [type(m) for _, _, ms in core.sent() for m in ms] == [wire.Alive]


@given(st.lists(st.binary(max_size=60), max_size=10), st.booleans())
def test_any_packets_leave_us_alive(packets: list[bytes], wrap: bool) -> None:
    core = Core()
    for number, data in enumerate(packets):
        packet = b"\x07" + bytes((1,)) + len(data).to_bytes(2, "big") + data if wrap else data
        core.core.receive_packet(packet, source=X, now=float(number))
        core.core.handle_timer(now=float(number))
    assert core.core.table.me.status is wire.NodeStatus.ALIVE
    assert core.core.next_timer() > 0
