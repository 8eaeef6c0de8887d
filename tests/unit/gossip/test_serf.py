"""The serf core: intents, events, queries and the state that a push/pull brings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.errors import InvalidRequest
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import SendPacket, Warned
from isthmus.gossip.queries import QueryReceived, QueryResult, Question
from isthmus.gossip.roster import MemberLeft, MemberStatus
from isthmus.gossip.serf import (
    LeaveFinished,
    QueryFinished,
    UserEventReceived,
)
from isthmus.wire import memberlist as packets
from isthmus.wire import serf as wire
from support.serf_core import X_ADDR, Core, X, event, query, sent


def test_intents_that_are_news_are_passed_on_as_they_came() -> None:
    core = Core()
    core.add()
    join = wire.Join(ltime=3, node="x")
    core.hear(join, join)
    assert core.rumours() == [join]
    assert core.status("x") == (MemberStatus.ALIVE, 3)
    assert core.serf.clock.time == 4


def test_leave_about_ourselves_is_answered_with_a_join() -> None:
    """protocol/gossip.md §13.4: refute."""
    core = Core()
    core.hear(wire.Leave(ltime=5, node="me"))
    assert core.rumours() == [wire.Join(ltime=6, node="me")]
    assert core.status("me") == (MemberStatus.ALIVE, 6)
    core.hear(wire.Leave(ltime=5, node="me"))
    assert core.rumours() == [wire.Join(ltime=6, node="me")]  # Still the first one.


def test_leaving_says_so_first_then_departs_then_lingers() -> None:
    core = Core()
    core.add()
    core.serf.leave(now=0.0)
    assert core.status("me") == (MemberStatus.LEAVING, 1)
    seen: list[type] = []
    now = 0.0
    while LeaveFinished not in seen:
        now = max(now, core.serf.next_timer())
        core.serf.handle_timer(now=now)
        for output in core.serf.take_outputs():
            if isinstance(output, SendPacket):
                leaves = packets.open_packet(output.data).messages
                kinds = [type(packets.decode_message(leaf)) for leaf in leaves]
                seen += [k for k in kinds if k in {packets.UserMessage, packets.Dead}]
            elif isinstance(output, (LeaveFinished, MemberLeft)):
                seen.append(type(output))
    order = [kind for n, kind in enumerate(seen) if kind not in seen[:n]]
    assert order == [packets.UserMessage, MemberLeft, packets.Dead, LeaveFinished]
    assert core.status("me") == (MemberStatus.LEFT, 1)


def test_leaving_does_not_wait_for_ever() -> None:
    core = Core()
    core.add()
    core.serf.hold()  # Nothing gets out.
    core.serf.leave(now=0.0)
    for now in (5.0, 10.0):
        core.serf.handle_timer(now=now)
    core.serf.handle_timer(now=13.0)
    assert any(isinstance(output, LeaveFinished) for output in core.serf.take_outputs())


def test_event_is_told_and_passed_on_once() -> None:
    core = Core()
    outputs = core.hear(event(9), event(9))
    assert outputs == [UserEventReceived(9, "deploy", b"7", True)]
    assert core.rumours() == [event(9)]
    assert core.serf.event_clock.time == 10


def test_own_event_takes_the_next_lamport_time() -> None:
    core = Core()
    core.hear(event(9))
    core.rumours()
    assert core.serf.user_event("stop", b"", coalesce=False) == 10
    assert core.serf.take_outputs() == [UserEventReceived(10, "stop", b"", False)]
    assert core.serf.event_clock.time == 11


@pytest.mark.parametrize("size", [513, 490])
def test_event_that_is_too_long_is_refused(size: int) -> None:
    core = Core()
    with pytest.raises(InvalidRequest, match="limit of 512 bytes"):
        core.serf.user_event("x", bytes(size), coalesce=False)
    assert core.rumours() == []


@pytest.mark.parametrize(("ignore_old", "heard"), [(True, [9]), (False, [7, 9])])
def test_push_pull_replays_events_unless_the_join_wants_none(
    ignore_old: bool, heard: list[int]
) -> None:
    core = Core()
    slots = tuple(
        wire.UserEvents(ltime=ltime, events=(wire.UserEventBody(name="deploy"),))
        for ltime in (7, 9)
    )
    outputs = core.receive_state(
        ltime=3, event_ltime=9, query_ltime=5, events=(None, *slots), ignore_old=ignore_old
    )
    assert [o.ltime for o in outputs if isinstance(o, UserEventReceived)] == heard


def test_push_pull_brings_the_clocks_up() -> None:
    core = Core()
    core.receive_state(ltime=30, event_ltime=40, query_ltime=50)
    serf = core.serf
    assert (serf.clock.time, serf.event_clock.time, serf.query_clock.time) == (31, 40, 50)


def test_push_pull_brings_intents() -> None:
    core = Core()
    core.add("x")
    core.add("y", b"\x0a\x00\x00\x03")
    core.receive_state(ltime=9, status_ltimes={"x": 4, "y": 5}, left_members=("y",))
    assert core.status("x") == (MemberStatus.ALIVE, 4)
    assert core.status("y") == (MemberStatus.LEAVING, 6)


def test_push_pull_with_rubbish_above_is_only_logged() -> None:
    core = Core()
    outputs = core.hear(wire.SerfPushPull())
    assert [type(output) for output in outputs] == [Warned]


def test_our_state_tells_clocks_statuses_and_events() -> None:
    core = Core()
    core.add()
    core.hear(wire.Join(ltime=3, node="x"), event(2))
    state = wire.decode_message(core.serf.user_state(join=True))
    assert isinstance(state, wire.SerfPushPull)
    assert state.status_ltimes == {"me": 0, "x": 3}
    assert (state.ltime, state.event_ltime, state.query_ltime) == (4, 3, 1)
    assert len(state.events) == 512
    assert state.events[2] is not None


def test_our_state_does_not_overtake_a_leave() -> None:
    """Whoever takes the time of a leave for that of a join would ignore the leave itself."""
    core = Core()
    core.add()
    core.hear(wire.Leave(ltime=8, node="x"))
    state = wire.decode_message(core.serf.user_state(join=False))
    assert isinstance(state, wire.SerfPushPull)
    assert state.status_ltimes == {"me": 0, "x": 7}
    assert state.left_members == ()


def test_query_is_told_once_and_passed_on() -> None:
    core = Core()
    assert core.hear(query(), query()) == [QueryReceived(query())]
    assert core.rumours() == [query()]
    assert core.serf.query_clock.time == 2


def test_query_that_wants_it_is_acked_at_once() -> None:
    core = Core()
    outputs = core.hear(query(flags=wire.QueryFlag.ACK))
    ack = wire.QueryResponse(ltime=1, id=77, from_="me", flags=wire.QueryFlag.ACK)
    assert sent(outputs) == [("x", X, ack)]


def test_query_for_others_is_only_passed_on() -> None:
    core = Core(tags={"role": "web"})
    for number, query_filter in enumerate(
        (
            wire.encode_filter(wire.NodeFilter(("x", "y"))),
            wire.encode_filter(wire.TagFilter(tag="role", expr="^db")),
        )
    ):
        asked = query(id=number, filters=(query_filter,))
        assert core.hear(asked) == []
        assert asked in core.rumours()


def test_query_whose_filters_match_is_told() -> None:
    core = Core(tags={"role": "web7"})
    filters = (
        wire.encode_filter(wire.NodeFilter(("me", "y"))),
        wire.encode_filter(wire.TagFilter(tag="role", expr="w.b[0-9]")),
    )
    assert len(core.hear(query(filters=filters))) == 1
    broken = (wire.encode_filter(wire.TagFilter(tag="role", expr="(")),)
    assert core.hear(query(id=78, filters=broken)) == []
    assert core.hear(query(id=79, filters=(b"\x09",))) == []


def test_query_may_forbid_being_passed_on() -> None:
    core = Core()
    core.hear(query(flags=wire.QueryFlag.NO_BROADCAST))
    assert core.rumours() == []


def test_ping_query_is_acked_and_not_told() -> None:
    core = Core()
    outputs = core.hear(query(name="_serf_ping", flags=wire.QueryFlag.ACK))
    assert [type(output) for output in outputs] == [SendPacket]


def test_response_goes_straight_back_and_through_helpers_if_wanted() -> None:
    core = Core()
    core.add("x")
    core.add("y", b"\x0a\x00\x00\x03")
    core.hear(query(relay_factor=2))
    with pytest.raises(InvalidRequest, match="limit of 1024 bytes"):
        core.serf.respond(query(), bytes(1024), now=0.0)
    core.serf.respond(query(relay_factor=2), b"0.5", now=0.0)
    response = wire.QueryResponse(ltime=1, id=77, from_="me", payload=b"0.5")
    relay = wire.Relay(ip=X_ADDR, port=7946, dest_name="x", message=wire.encode_message(response))
    assert sent(core.serf.take_outputs()) == [
        ("x", X, response),
        ("y", ("10.0.0.3", 7946), relay),
    ]


def test_relayed_message_is_passed_on_by_name() -> None:
    core = Core(route_by_name=True)
    inner = wire.QueryResponse(ltime=1, id=77, from_="y")
    relay = wire.Relay(ip=X_ADDR, port=7946, dest_name="x", message=wire.encode_message(inner))
    assert sent(core.hear(relay)) == [("x", X, inner)]


def test_answers_to_a_query_of_ours_are_told_together() -> None:
    core = Core()
    core.add("x")
    number = core.serf.query(Question(name="load", nodes=("x",)), now=0.0)
    (asked,) = core.rumours()
    assert isinstance(asked, wire.Query)
    assert core.hear(wire.QueryResponse(ltime=1, id=asked.id, from_="x", payload=b"1")) == [
        QueryFinished(number, QueryResult((), {"x": b"1"}, timed_out=False))
    ]


def test_tags_that_are_too_long_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="Encoded length of tags exceeds limit of 512 bytes"):
        Core(tags={"x": "y" * 512})
    core = Core(tags={"a": "1"})
    with pytest.raises(InvalidRequest):
        core.serf.update_tags({"x": "y" * 512}, now=0.0)
    assert core.serf.local_member().tags == {"a": "1"}


def test_merge_check_sees_members_and_refuses_what_it_cannot_see() -> None:
    core = Core(merge_check=lambda members: ",".join(f"{m.name}:{m.tags['role']}" for m in members))

    def state(meta: bytes, addr: bytes = X_ADDR) -> packets.NodeState:
        return packets.NodeState(name="x", addr=addr, port=1, meta=meta, vsn=OUR_VSN)

    check = core.serf.check_merge
    assert check([state(b"web")]) == "x:web"
    assert check([state(bytes(513))]) == "Encoded length of tags exceeds limit of 512 bytes"
    assert "3 bytes is not either 4 or 16" in str(check([state(b"", b"abc")]))
    assert "can not be read" in str(check([state(b"\xff\x07")]))


def test_stats_are_named_as_serf_names_them() -> None:
    core = Core()
    core.add()
    stats = core.serf.stats()
    assert {name: stats[name] for name in ("members", "failed", "left", "encrypted")} == {
        "members": "2",
        "failed": "0",
        "left": "0",
        "encrypted": "false",
    }
    assert stats["member_time"] == "1"


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_any_messages_leave_us_alive(messages: list[bytes]) -> None:
    core = Core()
    for data in messages:
        core.serf.receive_packet(b"\x08" + data, source=X, now=0.0)
        core.serf.handle_timer(now=0.0)
    assert core.serf.local_member().status is MemberStatus.ALIVE


def test_vote_about_our_name_is_newer_than_what_the_push_pull_brings() -> None:
    """Members that were restarted from a snapshot ignore queries of the times before it."""
    core = Core(resolve_conflicts=True)
    twin = packets.NodeState(
        name="me", addr=X_ADDR, port=7946, incarnation=1, meta=wire.encode_tags({}), vsn=OUR_VSN
    )
    other = replace(twin, name="y", addr=b"\x0a\x00\x00\x03")
    core.receive_state(nodes=(twin, other), query_ltime=40)
    (asked,) = [message for message in core.rumours() if isinstance(message, wire.Query)]
    assert (asked.name, asked.payload, asked.ltime) == ("_serf_conflict", b"me", 40)
