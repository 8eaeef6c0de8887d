"""The membership core on its own: this comes in, that goes out."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.gossip.broadcast import Broadcast
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.memberlist import (
    RELAYED_PINGS_MAX,
    Memberlist,
)
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import (
    Address,
    CloseStream,
    JoinFinished,
    LeaveSent,
    NodeJoined,
    OpenStream,
    PingAcked,
    SendPacket,
    SendStream,
    StateReceived,
    UserMessageReceived,
    Warned,
)
from isthmus.gossip.streams import INBOUND_STREAMS_MAX, JoinTarget
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

    def has_broadcasts(self) -> bool:
        return False

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


# --- Streams ------------------------------------------------------------------------------------


def remote_state(*nodes: wire.NodeState, join: bool = True) -> bytes:
    state = wire.PushPull(join=join, nodes=nodes, user_state=b"theirs")
    return wire.wrap_stream(wire.encode_stream(state), dialler=False)


def node_state(name: str = "x", **fields: Any) -> wire.NodeState:
    base: dict[str, Any] = {"addr": X_ADDR, "port": 7946, "incarnation": 1, "vsn": OUR_VSN}
    return wire.NodeState(name=name, **(base | fields))


def start_join(core: Core, *targets: JoinTarget) -> tuple[int, list[OpenStream]]:
    number = core.core.join(targets or (JoinTarget("x", X),), ignore_old=True, now=0.0)
    return number, [o for o in core.core.take_outputs() if isinstance(o, OpenStream)]


def test_join_sends_all_we_know_and_learns_all_they_know() -> None:
    core = Core()
    _number, (request,) = start_join(core)
    assert (request.node, request.address) == ("x", X)
    reader = wire.StreamReader(dialler=False)
    reader.receive_data(request.data)
    assert isinstance(reader.message, wire.PushPull)
    assert reader.message.join
    assert [node.name for node in reader.message.nodes] == ["me"]
    assert reader.message.user_state == b"state"
    core.core.streams.opened(request.id, now=0.1)
    core.core.streams.receive_data(request.id, remote_state(node_state()), now=0.2)
    assert [type(o) for o in core.core.take_outputs()] == [
        CloseStream,
        NodeJoined,
        StateReceived,
        JoinFinished,
    ]
    core.core.streams.receive_eof(request.id, now=0.3)
    assert core.core.take_outputs() == []


def finished(core: Core) -> JoinFinished:
    (found,) = [o for o in core.core.take_outputs() if isinstance(o, JoinFinished)]
    return found


def test_join_counts_who_answered_and_says_why_others_did_not() -> None:
    core = Core()
    number, (first, second) = start_join(core, JoinTarget("x", X), JoinTarget("y", Y))
    core.core.streams.failed(second.id, "connection refused", now=0.1)
    core.core.streams.receive_data(first.id, remote_state(node_state()), now=0.1)
    assert finished(core) == JoinFinished(
        number, 1, ("Failed to join 10.0.0.3:7946: connection refused",)
    )


def test_join_to_many_goes_in_portions() -> None:
    core = Core()
    targets = [JoinTarget("", (f"10.0.1.{number}", 7946)) for number in range(20)]
    _number, requests = start_join(core, *targets)
    assert len(requests) == 8
    asked = len(requests)
    while requests:
        core.core.streams.failed(requests.pop(0).id, "no", now=0.0)
        more = core.core.take_outputs()
        requests += [o for o in more if isinstance(o, OpenStream)]
        asked += len([o for o in more if isinstance(o, OpenStream)])
    assert asked == 20
    (last,) = more
    assert isinstance(last, JoinFinished)
    assert (last.contacted, len(last.errors)) == (0, 20)


def test_join_that_is_never_answered_ends_by_itself() -> None:
    core = Core()
    _, (request,) = start_join(core)
    core.core.streams.opened(request.id, now=1.0)
    core.core.handle_timer(now=10.9)
    assert not [o for o in core.core.take_outputs() if isinstance(o, JoinFinished)]
    core.core.handle_timer(now=11.0)
    assert finished(core).errors == ("Failed to join 10.0.0.2:7946: i/o timeout",)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (remote_state(node_state(vsn=bytes((1, 5, 9, 2, 5, 4)))), "protocol version (9)"),
        (wire.encode_message(wire.ErrorReply(error="no")), "remote error: no"),
        (b"\x63", "received invalid msgType (99)"),
    ],
)
def test_join_is_refused_for_a_reason(answer: bytes, error: str) -> None:
    core = Core()
    _, (request,) = start_join(core)
    core.core.streams.receive_data(request.id, answer, now=0.1)
    assert error in finished(core).errors[0]
    assert set(core.core.table.nodes) == {"me"}


def test_merge_check_is_run_on_the_answer() -> None:
    """A refused joiner is told nothing, so both sides must look for themselves."""
    core = Core()
    core.above.refusal = "Member 'x' is not a server"
    _, (request,) = start_join(core)
    core.core.streams.receive_data(request.id, remote_state(node_state()), now=0.1)
    assert "Member 'x' is not a server" in finished(core).errors[0]


def test_nameless_join_is_refused_when_routing_by_name() -> None:
    core = Core(route_by_name=True)
    core.core.join([JoinTarget("", X)], ignore_old=True, now=0.0)
    assert "node names are required" in finished(core).errors[0]


def accepted(core: Core) -> int:
    number = core.core.streams.accept(peer=Y, now=0.0)
    assert number is not None
    return number


def test_acceptor_sends_its_state_before_it_judges_theirs() -> None:
    core = Core()
    core.above.refusal = "Member 'x' is not a server"
    core.core.streams.receive_data(accepted(core), remote_state(node_state()), now=0.0)
    answer, warning, close = core.core.take_outputs()
    assert isinstance(answer, SendStream)
    assert warning == Warned(
        "Failed push/pull merge: Member 'x' is not a server from=10.0.0.3:7946"
    )
    assert isinstance(close, CloseStream)
    assert set(core.core.table.nodes) == {"me"}


def test_nothing_of_a_stream_counts_before_it_is_complete() -> None:
    core = Core()
    number = accepted(core)
    core.core.streams.receive_data(number, remote_state(node_state())[:-1], now=0.0)
    core.core.streams.receive_eof(number, now=0.1)
    assert set(core.core.table.nodes) == {"me"}
    assert [type(o) for o in core.core.take_outputs()] == [CloseStream, Warned]


def test_stream_ping_is_answered() -> None:
    core = Core()
    core.core.streams.receive_data(accepted(core), wire.encode_message(ping()), now=0.0)
    answer, _ = core.core.take_outputs()
    assert isinstance(answer, SendStream)
    assert answer.data == wire.encode_message(wire.Ack(seq_no=7))
    core.core.streams.receive_data(accepted(core), wire.encode_message(ping(node="other")), now=0.0)
    assert [type(o) for o in core.core.take_outputs()] == [CloseStream]


def test_plain_stream_to_an_encrypted_pool_is_told_so() -> None:
    core = Core(keyring=Keyring([bytes(16)]))
    core.core.streams.receive_data(accepted(core), b"\x06", now=0.0)
    answer = core.core.take_outputs()[0]
    assert isinstance(answer, SendStream)
    reader = wire.StreamReader(ciphers=core.core.keyring.ciphers, dialler=True)
    reader.receive_data(answer.data)
    assert reader.message == wire.ErrorReply(error=wire.NOT_ENCRYPTED)


def test_silent_stream_is_closed() -> None:
    core = Core()
    number = accepted(core)
    core.core.handle_timer(now=10.0)
    outputs = core.core.take_outputs()
    assert CloseStream(number) in outputs


def test_inbound_streams_are_bounded() -> None:
    core = Core()
    for _ in range(INBOUND_STREAMS_MAX):
        accepted(core)
    assert core.core.streams.accept(peer=Y, now=0.0) is None


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
