"""Yamux sessions: against captured bytes, against each other, and against peers that misbehave."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import ProtocolError
from isthmus.rpc.yamux import (
    CONTROL_SIZE_MAX,
    FRAME_SIZE_MAX,
    WRITE_BURST,
    DataReceived,
    Output,
    PeerGoingAway,
    Role,
    SendData,
    Session,
    SessionClosed,
    SessionConfig,
    StreamAcknowledged,
    StreamDrained,
    StreamEnded,
    StreamOpened,
    StreamReset,
)
from isthmus.wire.yamux import (
    HEADER_SIZE,
    WINDOW_SIZE,
    Flag,
    FrameType,
    GoAway,
    Header,
    decode_header,
    encode_header,
)

VECTORS = Path(__file__).parents[2] / "vectors"
CONFIG = SessionConfig()
DATA, WINDOW, PING, GO_AWAY = FrameType
SYN, ACK, FIN, RST = Flag


def make_session(role: Role = Role.ACCEPTOR, *, now: float = 0.0, **limits: Any) -> Session:
    return Session(role, SessionConfig(**limits), now=now)


def frames(outputs: list[Output]) -> list[Header]:
    """Headers of the frames among the outputs."""
    data = b"".join(output.data for output in outputs if isinstance(output, SendData))
    headers, offset = [], 0
    while offset < len(data):
        header = decode_header(data, offset)
        headers.append(header)
        offset += HEADER_SIZE + (header.length if header.kind == DATA else 0)
    assert offset == len(data)
    return headers


def events(outputs: list[Output]) -> list[Output]:
    return [output for output in outputs if not isinstance(output, SendData)]


def feed(session: Session, *received: tuple[int, int, int, int] | bytes) -> list[Output]:
    """Let frames (type, flags, stream, length), or raw bytes, arrive; return the outputs."""
    for item in received:
        session.receive_data(item if isinstance(item, bytes) else encode_header(*item))
    return session.take_outputs()


def test_requests_of_a_consul_server_arrive_and_are_answered() -> None:
    vector = json.loads((VECTORS / "rpc" / "conn-plain-multiplex-open.json").read_text())
    session = make_session()
    data = bytes.fromhex(vector["hex"])[1:]
    outputs = feed(session, data)
    assert events(outputs) == [StreamOpened(1), DataReceived(1, data[2 * HEADER_SIZE :])]
    assert frames(outputs) == [Header(WINDOW, ACK, 1, 0)]


def test_our_opening_is_the_one_of_consul() -> None:
    """Captured on consul/rpc-multi: what we send, the peer's acceptance, the peer's answer."""
    writes = json.loads((VECTORS / "federation" / "rpc_multi_opening.json").read_text())["writes"]
    session = make_session(Role.DIALER)
    request = bytes.fromhex(writes[2]["hex"]).ljust(writes[2]["length"], b"\x00")
    assert session.open_stream(request, now=0.0) == 1
    expected = bytes.fromhex(writes[0]["hex"] + writes[1]["hex"]) + request
    assert session.take_outputs() == [SendData(expected), StreamDrained(1)]
    answer = bytes.fromhex(writes[3]["hex"] + writes[4]["hex"] + writes[5]["hex"])
    assert feed(session, answer) == [
        StreamAcknowledged(1),
        DataReceived(1, bytes.fromhex(writes[5]["hex"])),
    ]


@pytest.mark.parametrize(
    ("asked", "answered"),
    [("yamux-keepalive-ping", "000200020000000000000000"), (None, None)],
)
def test_pings_of_consul_are_answered(asked: str | None, answered: str | None) -> None:
    if asked is None:
        vector = json.loads((VECTORS / "rpc" / "yamux-ping-answer.json").read_text())
        ping, answered = encode_header(PING, SYN, 0, 7), vector["hex"]
    else:
        ping = bytes.fromhex(json.loads((VECTORS / "rpc" / f"{asked}.json").read_text())["hex"])
    assert answered is not None
    assert feed(make_session(), ping) == [SendData(bytes.fromhex(answered))]


def test_fin_is_the_one_of_consul() -> None:
    vector = json.loads((VECTORS / "rpc" / "yamux-fin.json").read_text())
    session = make_session()
    feed(session, (WINDOW, SYN, 1, 0))
    session.end(1, now=0.0)
    assert session.take_outputs() == [SendData(bytes.fromhex(vector["hex"]))]


# Two sessions with each other --------------------------------------------------------------------


@dataclass
class Side:
    """A session and what its driver holds."""

    session: Session
    wire: bytearray = field(default_factory=bytearray)
    received: dict[int, bytearray] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    drained: dict[int, bool] = field(default_factory=dict)
    closed: list[ProtocolError | None] = field(default_factory=list)

    def collect(self) -> None:
        for output in self.session.take_outputs():
            match output:
                case SendData(data):
                    self.wire += data
                case DataReceived(stream, data):
                    self.received.setdefault(stream, bytearray()).extend(data)
                    self.held[stream] = self.held.get(stream, 0) + len(data)
                    assert self.held[stream] <= WINDOW_SIZE
                case StreamEnded(stream):
                    self.ended.add(stream)
                case StreamDrained(stream):
                    self.drained[stream] = True
                case SessionClosed(error):
                    self.closed.append(error)
                case _:
                    pass


class World:
    """A dialer and an acceptor; a seed decides who moves, and how bytes are cut."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.sides = [Side(make_session(Role.DIALER)), Side(make_session(Role.ACCEPTOR))]

    def deliver(self, sender: int) -> None:
        """Carry some bytes from one side to the other."""
        side, other = self.sides[sender], self.sides[1 - sender]
        size = self.rng.choice([1, 11, 12, 13, 1000, 100_000, 1_000_000])
        data = bytes(side.wire[:size])
        del side.wire[:size]
        other.session.receive_data(data)
        other.collect()

    def consume(self, reader: int) -> None:
        """Let one side read some of what it holds."""
        side = self.sides[reader]
        for stream, size in list(side.held.items()):
            taken = self.rng.randint(0, size) if self.rng.random() < 0.5 else size
            side.held[stream] -= taken
            side.session.consume(stream, taken)
        side.collect()

    def step(self) -> None:
        index = self.rng.randrange(2)
        side = self.sides[index]
        match self.rng.randrange(4):
            case 0 | 1:
                self.deliver(index)
            case 2:
                self.consume(index)
            case _:
                if self.rng.random() < 0.3:
                    side.session.pause_writing()
                else:
                    side.session.resume_writing()
                side.collect()

    def settle(self) -> None:
        """Until nothing moves any more."""
        for _ in range(10_000):
            for index in (0, 1):
                self.sides[index].session.resume_writing()
                self.sides[index].collect()
                self.deliver(index)
                self.consume(index)
            if not any(
                side.wire or any(side.held.values()) or side.session.is_held_back
                for side in self.sides
            ):
                return
        raise AssertionError("the sessions never come to rest")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 700_000), min_size=1, max_size=6),
)
def test_all_data_arrives_in_order_whatever_the_interleaving(seed: int, sizes: list[int]) -> None:
    world = World(seed)
    dialer, acceptor = world.sides
    expected = {}
    for size in sizes:
        data = world.rng.randbytes(size)
        stream = dialer.session.open_stream(data, now=0.0)
        expected[stream] = data
        for _ in range(world.rng.randrange(8)):
            world.step()
    world.settle()
    assert acceptor.received == expected
    for stream, data in expected.items():  # And back again, then both end.
        acceptor.session.send(stream, data[::-1])
        acceptor.session.end(stream, now=0.0)
        world.step()
        dialer.session.end(stream, now=0.0)
    world.settle()
    assert dialer.received == {stream: data[::-1] for stream, data in expected.items()}
    assert dialer.ended == acceptor.ended == set(expected)
    assert dialer.closed == acceptor.closed == []
    assert all(not side.session._streams for side in world.sides)


def test_nothing_is_sent_beyond_the_window() -> None:
    session = make_session(Role.DIALER)
    session.open_stream(bytes(WINDOW_SIZE + 10), now=0.0)
    session.resume_writing()
    sent = frames(session.take_outputs())
    assert sum(frame.length for frame in sent if frame.kind == DATA) == WINDOW_SIZE
    assert max(frame.length for frame in sent) == FRAME_SIZE_MAX
    outputs = feed(session, (WINDOW, ACK, 1, 4))
    assert frames(outputs) == [Header(DATA, 0, 1, 4)]
    assert StreamDrained(1) not in outputs
    assert StreamDrained(1) in feed(session, (WINDOW, 0, 1, 100))


def test_the_window_is_given_back_when_half_of_it_was_read() -> None:
    session = make_session()
    half = WINDOW_SIZE // 2
    feed(session, (WINDOW, SYN, 1, 0), (DATA, 0, 1, half), bytes(half))
    session.consume(1, half - 1)
    assert session.take_outputs() == []
    session.consume(1, 1)
    assert frames(session.take_outputs()) == [Header(WINDOW, 0, 1, half)]


# The traps ---------------------------------------------------------------------------------------


def test_a_stream_is_never_opened_without_its_first_bytes() -> None:
    """A Consul server would stop accepting streams until the first byte of this one came."""
    session = make_session(Role.DIALER)
    session.pause_writing()
    session.open_stream(b"request", now=0.0)
    assert session.take_outputs() == []
    session.resume_writing()
    assert frames(session.take_outputs()) == [Header(WINDOW, SYN, 1, 0), Header(DATA, 0, 1, 7)]


def test_a_stream_given_up_before_its_first_bytes_is_never_heard_of() -> None:
    """A Consul server would close the whole connection over an empty stream."""
    session = make_session(Role.DIALER)
    session.pause_writing()
    session.reset(session.open_stream(b"request", now=0.0))
    session.resume_writing()
    assert session.take_outputs() == []


def test_an_idle_stream_blocks_no_other() -> None:
    session = make_session()
    outputs = feed(session, (WINDOW, SYN, 1, 0), (WINDOW, SYN, 3, 0), (DATA, 0, 3, 1), b"x")
    assert events(outputs) == [StreamOpened(1), StreamOpened(3), DataReceived(3, b"x")]


def test_an_empty_stream_closes_only_itself() -> None:
    session = make_session()
    feed(session, (WINDOW, SYN, 1, 0), (WINDOW, SYN, 3, 0))
    assert events(feed(session, (WINDOW, FIN, 1, 0))) == [StreamEnded(1)]
    session.end(1, now=0.0)
    assert not session.is_closed
    assert events(feed(session, (DATA, 0, 3, 1), b"x"))[-1] == DataReceived(3, b"x")


def test_no_more_streams_are_opened_than_a_consul_server_queues() -> None:
    session = make_session(Role.DIALER)
    for _ in range(CONFIG.opening_max):
        assert session.may_open
        session.open_stream(b"x", now=0.0)
    assert not session.may_open
    assert session.is_usable
    assert StreamAcknowledged(5) in feed(session, (WINDOW, ACK, 5, 0))
    assert session.may_open


# Ends --------------------------------------------------------------------------------------------


def test_data_with_syn_and_fin_in_one_frame_is_a_whole_request() -> None:
    session = make_session()
    outputs = feed(session, (DATA, SYN | FIN, 1, 2), b"a", b"b")
    assert events(outputs) == [
        StreamOpened(1),
        DataReceived(1, b"a"),
        DataReceived(1, b"b"),
        StreamEnded(1),
    ]


def test_an_answer_may_follow_the_callers_end() -> None:
    session = make_session()
    feed(session, (DATA, SYN, 1, 1), b"x", (WINDOW, FIN, 1, 0))
    assert session.send(1, b"answer")
    session.end(1, now=0.0)
    sent = frames(session.take_outputs())
    assert sent == [Header(DATA, 0, 1, 6), Header(WINDOW, FIN, 1, 0)]


def test_a_reset_stream_is_forgotten_and_its_data_discarded() -> None:
    session = make_session()
    feed(session, (WINDOW, SYN, 1, 0), (WINDOW, SYN, 3, 0))
    assert events(feed(session, (WINDOW, RST, 1, 0))) == [StreamReset(1)]
    assert feed(session, (DATA, 0, 1, 3), b"abc", (WINDOW, 0, 1, 9), (WINDOW, FIN, 1, 0)) == []
    session.reset(3)
    assert frames(session.take_outputs()) == [Header(WINDOW, RST, 3, 0)]
    assert feed(session, (DATA, 0, 3, 3), b"abc") == []


def test_a_stream_that_only_we_end_is_reset_after_a_while() -> None:
    session = make_session(keepalive_interval=1e6, keepalive_timeout=1e6)
    feed(session, (WINDOW, SYN, 1, 0))
    session.end(1, now=7.0)
    session.take_outputs()
    assert session.next_timer() == 7.0 + CONFIG.close_timeout
    session.handle_timer(now=7.0 + CONFIG.close_timeout)
    outputs = session.take_outputs()
    assert frames(outputs) == [Header(WINDOW, RST, 1, 0)]
    assert events(outputs) == [StreamReset(1)]


def test_more_streams_than_allowed_are_reset_and_the_others_live() -> None:
    session = make_session(streams_max=2)
    outputs = feed(session, *((WINDOW, SYN, stream, 0) for stream in (1, 3, 5)))
    assert events(outputs) == [StreamOpened(1), StreamOpened(3)]
    assert frames(outputs)[-1] == Header(WINDOW, RST, 5, 0)
    feed(session, (WINDOW, RST, 1, 0))
    assert events(feed(session, (WINDOW, SYN, 7, 0))) == [StreamOpened(7)]


def test_after_our_go_away_no_stream_is_accepted() -> None:
    session = make_session()
    feed(session, (WINDOW, SYN, 1, 0))
    session.go_away()
    assert frames(session.take_outputs()) == [Header(GO_AWAY, 0, 0, GoAway.NORMAL)]
    outputs = feed(session, (WINDOW, SYN, 3, 0), (DATA, 0, 1, 1), b"x")
    assert frames(outputs) == [Header(WINDOW, RST, 3, 0)]
    assert events(outputs) == [DataReceived(1, b"x")]


def test_after_the_peers_go_away_our_streams_go_on() -> None:
    session = make_session(Role.DIALER)
    session.open_stream(b"x", now=0.0)
    assert PeerGoingAway() in feed(session, (GO_AWAY, 0, 0, GoAway.NORMAL))
    assert not session.is_usable
    assert DataReceived(1, b"y") in feed(session, (DATA, 0, 1, 1), b"y")


def test_the_connections_end_ends_the_session_once() -> None:
    session = make_session()
    session.receive_eof()
    session.close()
    assert session.take_outputs() == [SessionClosed(None)]
    assert feed(session, (PING, SYN, 0, 1)) == []
    assert session.next_timer() is None


# Time --------------------------------------------------------------------------------------------


def test_a_ping_goes_out_after_the_interval_and_silence_ends_the_session() -> None:
    session = make_session(now=100.0)
    assert session.next_timer() == 130.0
    session.handle_timer(now=130.0)
    assert session.take_outputs() == [SendData(encode_header(PING, SYN, 0, 0))]
    assert session.next_timer() == 140.0
    session.handle_timer(now=139.9)
    assert session.take_outputs() == []
    session.handle_timer(now=140.0)
    (closed,) = session.take_outputs()
    assert isinstance(closed, SessionClosed)
    assert "keepalive" in str(closed.error)


def test_an_answered_ping_keeps_the_session() -> None:
    session = make_session()
    session.handle_timer(now=30.0)
    feed(session, (PING, ACK, 0, 0))
    assert session.next_timer() == 60.0
    session.handle_timer(now=60.0)
    assert session.take_outputs() == [SendData(encode_header(PING, SYN, 0, 1))]


def test_a_pong_that_answers_nothing_does_not_count() -> None:
    session = make_session()
    session.handle_timer(now=30.0)
    feed(session, (PING, ACK, 0, 77))
    session.handle_timer(now=40.0)
    assert session.is_closed


def test_a_stream_that_is_not_acknowledged_ends_the_session() -> None:
    session = make_session(Role.DIALER, keepalive_interval=1e6, keepalive_timeout=1e6)
    session.open_stream(b"x", now=1.0)
    session.open_stream(b"x", now=2.0)
    feed(session, (WINDOW, ACK, 1, 0))
    assert session.next_timer() == 2.0 + CONFIG.open_timeout
    session.handle_timer(now=2.0 + CONFIG.open_timeout)
    assert session.is_closed


def test_a_timer_that_comes_early_does_nothing() -> None:
    session = make_session()
    session.handle_timer(now=29.0)
    assert session.take_outputs() == []


# Peers that misbehave ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "received",
    [
        [(WINDOW, SYN, 1, 0), (WINDOW, SYN, 1, 0)],
        [(WINDOW, SYN, 2, 0)],
        [(WINDOW, SYN, 0, 0)],
        [b"\x01" + bytes(11)],
        [b"\x00\x04" + bytes(10)],
        [(WINDOW, SYN, 1, 0), (DATA, 0, 1, WINDOW_SIZE + 1)],
        [(WINDOW, SYN, 1, 0), (WINDOW, FIN, 1, 0), (WINDOW, FIN, 1, 0)],
        [(WINDOW, SYN, 1, 0), (WINDOW, FIN, 1, 0), (DATA, 0, 1, 1)],
        [(WINDOW, SYN, 1, 0), (WINDOW, 0, 1, 2**32 - 1)],
        [(GO_AWAY, 0, 0, GoAway.PROTOCOL_ERROR)],
        [(GO_AWAY, 0, 0, GoAway.INTERNAL_ERROR)],
        [(GO_AWAY, 0, 0, 99)],
    ],
    ids=[
        "opened twice", "our parity", "stream 0", "version", "type", "window overrun",
        "ended twice", "data after the end", "window overflow", "go-away 1", "go-away 2",
        "go-away 99",
    ],
)  # fmt: skip
def test_a_broken_rule_ends_the_session(received: list[Any]) -> None:
    session = make_session()
    outputs = feed(session, *received)
    assert isinstance(outputs[-1], SessionClosed)
    assert isinstance(outputs[-1].error, ProtocolError)
    assert frames(outputs)[-1] == Header(GO_AWAY, 0, 0, GoAway.PROTOCOL_ERROR)
    assert session.is_closed


def test_a_peer_that_only_sends_pings_and_reads_nothing_is_dropped() -> None:
    session = make_session()
    ping = encode_header(PING, SYN, 0, 1)
    session.pause_writing()
    session.receive_data(ping * (CONTROL_SIZE_MAX // HEADER_SIZE + 2))
    outputs = session.take_outputs()
    assert session.is_closed
    size = sum(len(output.data) for output in outputs if isinstance(output, SendData))
    assert size <= CONTROL_SIZE_MAX + 3 * HEADER_SIZE


def test_what_is_handed_to_the_transport_at_once_is_bounded() -> None:
    session = make_session(Role.DIALER)
    for _ in range(10):
        session.open_stream(bytes(WINDOW_SIZE), now=0.0)
    size = sum(len(o.data) for o in session.take_outputs() if isinstance(o, SendData))
    assert size <= WRITE_BURST + FRAME_SIZE_MAX
    assert session.is_held_back


def test_short_messages_are_not_held_up_by_a_long_one() -> None:
    session = make_session(Role.DIALER)
    session.pause_writing()
    session.open_stream(bytes(WINDOW_SIZE), now=0.0)
    session.open_stream(b"short", now=0.0)
    session.resume_writing()
    sent = [frame for frame in frames(session.take_outputs()) if frame.kind == DATA]
    assert [frame.stream for frame in sent[:2]] == [1, 3]


HEADERS = st.builds(
    encode_header,
    st.integers(0, 4),
    st.integers(0, 15),
    st.integers(0, 6),
    st.sampled_from([0, 1, 2, 3, 5, WINDOW_SIZE, WINDOW_SIZE + 1, 2**32 - 1]),
)


@given(
    role=st.sampled_from(Role),
    pieces=st.lists(st.one_of(HEADERS, st.binary(max_size=5)), max_size=30),
    cuts=st.lists(st.integers(0, 400), max_size=10),
)
def test_any_bytes_are_events_or_end_the_session(
    role: Role, pieces: list[bytes], cuts: list[int]
) -> None:
    """Nothing is raised, whatever arrives, and cutting it differently changes nothing."""
    data = b"".join(pieces)
    whole, cut = make_session(role), make_session(role)
    whole.receive_data(data)
    places = sorted({0, len(data), *(place for place in cuts if place < len(data))})
    for start, end in pairwise(places):
        cut.receive_data(data[start:end])
    assert merged(whole.take_outputs()) == merged(cut.take_outputs())


def merged(outputs: list[Output]) -> list[Any]:
    """Outputs with neighbouring data of one stream joined, errors as text."""
    result: list[Any] = []
    for output in outputs:
        if isinstance(output, SessionClosed):
            result.append(("closed", type(output.error)))
            continue
        last = result[-1] if result else None
        match output, last:
            case DataReceived(stream, data), DataReceived(same, before) if stream == same:
                result[-1] = DataReceived(stream, before + data)
            case _:
                result.append(output)
    return result


def test_whatever_is_done_to_a_stream_that_is_gone_does_nothing() -> None:
    """Its reset may have arrived a moment before."""
    session = make_session()
    assert session.send(1, b"x")
    session.end(1, now=0.0)
    session.reset(1)
    session.consume(1, 5)
    assert session.take_outputs() == []


def test_more_may_be_sent_while_something_waits() -> None:
    session = make_session()
    feed(session, (WINDOW, SYN, 1, 0))
    session.pause_writing()
    assert not session.send(1, b"first ")
    assert not session.send(1, b"second")
    session.end(1, now=0.0)
    session.end(1, now=0.0)
    session.resume_writing()
    sent = session.take_outputs()
    assert frames(sent) == [Header(DATA, 0, 1, 12), Header(WINDOW, FIN, 1, 0)]


def test_after_its_end_a_session_does_nothing() -> None:
    session = make_session()
    feed(session, (WINDOW, SYN, 1, 0))
    session.close()
    session.take_outputs()
    session.handle_timer(now=1e9)
    session.go_away()
    assert session.take_outputs() == []


def test_the_close_timer_waits_for_its_time() -> None:
    session = make_session(close_timeout=50.0)
    feed(session, (WINDOW, SYN, 1, 0), (WINDOW, SYN, 3, 0))
    session.end(1, now=0.0)
    session.end(3, now=10.0)
    session.take_outputs()
    session.handle_timer(now=50.0)
    assert StreamReset(1) in session.take_outputs()
    assert session.next_timer() == 60.0


def test_a_ping_without_flag_is_ignored() -> None:
    assert feed(make_session(), (PING, 0, 0, 1)) == []


def test_a_window_update_of_nothing_is_nothing() -> None:
    session = make_session()
    feed(session, (WINDOW, SYN, 1, 0))
    assert feed(session, (WINDOW, 0, 1, 0), (DATA, 0, 1, 0)) == []
