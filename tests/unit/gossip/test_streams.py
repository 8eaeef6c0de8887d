"""Streams: joining, serving peers, and what happens to those that break."""

from typing import Any

import pytest

from isthmus.gossip.keyring import Keyring
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import (
    CloseStream,
    JoinFinished,
    NodeJoined,
    OpenStream,
    SendStream,
    StateReceived,
    Warned,
)
from isthmus.gossip.streams import INBOUND_SIZE_MAX, INBOUND_STREAMS_MAX, JoinTarget
from isthmus.wire import memberlist as wire
from support.memberlist_core import X_ADDR, Core, X, Y, ping


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


def accept_from(core: Core, host: str) -> int | None:
    return core.core.streams.accept(peer=(host, 40_000), now=0.0)


def test_the_busiest_address_gives_way_to_others() -> None:
    core = Core()
    crowd = [accept_from(core, "192.0.2.66") for _ in range(INBOUND_STREAMS_MAX)]
    assert accept_from(core, "192.0.2.66") is None
    assert accept_from(core, "192.0.2.7") is not None
    closed = [o.id for o in core.core.take_outputs() if isinstance(o, CloseStream)]
    assert closed == crowd[:1]


def test_a_newcomer_ends_nobody_who_has_as_few_streams() -> None:
    core = Core()
    for number in range(INBOUND_STREAMS_MAX):
        assert accept_from(core, f"192.0.2.{number}") is not None
    assert accept_from(core, "192.0.2.0") is None
    assert accept_from(core, "198.51.100.1") is None


def test_incomplete_messages_of_all_streams_share_one_bound() -> None:
    core = Core()
    piece = 1 << 20
    start = wire.encode_stream(wire.PushPull(join=False, nodes=(), user_state=bytes(19 << 20)))
    small, *large = [accept_from(core, f"192.0.2.{number}") for number in range(5)]
    assert small is not None
    core.core.streams.receive_data(small, start[:100], now=0.0)
    for number in large:
        assert number is not None
        for at in range(0, INBOUND_SIZE_MAX // 4 + piece, piece):
            core.core.streams.receive_data(number, start[at : at + piece], now=0.0)
    closed = [o.id for o in core.core.take_outputs() if isinstance(o, CloseStream)]
    assert len(closed) == 1
    assert small not in closed
