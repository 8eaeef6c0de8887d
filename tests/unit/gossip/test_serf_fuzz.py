"""Well-formed messages with whatever fields: the core goes on, and what it sends is well-formed."""

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.gossip.keyring import Keyring
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import Address, SendPacket, SendStream
from isthmus.gossip.roster import MemberStatus
from isthmus.gossip.serf import Serf
from isthmus.wire import memberlist as packets
from isthmus.wire import serf as wire
from support.memberlist_core import ME, QUIET, X_ADDR, X

names = st.sampled_from(["me", "x", "y.dc2", "", "ä" * 60]) | st.text(max_size=10)
octets = st.binary(max_size=40)
addresses = st.sampled_from([X_ADDR, b"\x0a\x00\x00\x01", bytes(16), b""]) | octets
versions = st.sampled_from([OUR_VSN, bytes(6), b"\x01\x05\x05\x09\x09\x09"]) | octets
u8, u16 = st.integers(0, 2**8 - 1), st.integers(0, 2**16 - 1)
u32 = st.sampled_from([0, 1, 2, 2**32 - 1]) | st.integers(0, 2**32 - 1)
u64 = st.sampled_from([0, 1, 2, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
source: dict[str, Any] = {"source_addr": addresses, "source_port": u16, "source_node": names}
accusation: dict[str, Any] = {"incarnation": u32, "node": names, "from_": names}
slots = st.none() | st.builds(
    wire.UserEvents,
    ltime=u64,
    events=st.lists(
        st.builds(wire.UserEventBody, name=names, payload=octets), max_size=3
    ).map(tuple),
)  # fmt: skip
serf_messages = st.one_of(
    st.builds(wire.Join, ltime=u64, node=names),
    st.builds(wire.Leave, ltime=u64, node=names, prune=st.booleans()),
    st.builds(
        wire.SerfPushPull,
        ltime=u64,
        status_ltimes=st.dictionaries(names, u64, max_size=4),
        left_members=st.lists(names, max_size=3).map(tuple),
        event_ltime=u64,
        events=st.lists(slots, max_size=4).map(tuple),
        query_ltime=u64,
    ),
    st.builds(wire.UserEvent, ltime=u64, name=names, payload=octets, cc=st.booleans()),
    st.builds(
        wire.Query,
        ltime=u64,
        id=u32,
        addr=addresses,
        port=u16,
        source_node=names,
        filters=st.lists(octets, max_size=3).map(tuple),
        flags=u32,
        relay_factor=u8,
        timeout=st.integers(-(2**63), 2**63 - 1),
        name=st.sampled_from(["_serf_ping", "_serf_conflict", "_serf_list-keys"]) | names,
        payload=octets,
    ),
    st.builds(wire.QueryResponse, ltime=u64, id=u32, from_=names, flags=u32, payload=octets),
    st.builds(wire.Relay, ip=addresses, port=u16, zone=names, dest_name=names, message=octets),
)
packet_messages = st.one_of(
    st.builds(packets.Ping, seq_no=u32, node=names, **source),
    st.builds(
        packets.IndirectPing,
        seq_no=u32,
        target=addresses,
        port=u16,
        node=names,
        nack=st.booleans(),
        **source,
    ),
    st.builds(packets.Ack, seq_no=u32, payload=octets),
    st.builds(packets.Nack, seq_no=u32),
    st.builds(packets.Suspect, **accusation),
    st.builds(packets.Dead, **accusation),
    st.builds(
        packets.Alive,
        incarnation=u32,
        node=names,
        addr=addresses,
        port=u16,
        meta=octets,
        vsn=versions,
    ),
    st.builds(packets.UserMessage, serf_messages.map(wire.encode_message)),
)
states = st.builds(
    packets.NodeState,
    name=names,
    addr=addresses,
    port=u16,
    meta=octets,
    incarnation=u32,
    state=st.sampled_from(packets.NodeStatus),
    vsn=versions,
)
stream_messages = st.one_of(
    st.builds(
        packets.PushPull,
        join=st.booleans(),
        nodes=st.lists(states, max_size=4).map(tuple),
        user_state=serf_messages.map(wire.encode_message) | octets,
    ),
    st.builds(packets.Ping, seq_no=u32, node=names, **source),
    st.builds(packets.UserMessage, serf_messages.map(wire.encode_message)),
)
SOURCE: Address = X


def make_serf(*, route_by_name: bool) -> Serf:
    return Serf(
        name="me",
        address=ME,
        tags={},
        config=QUIET,
        keyring=Keyring(),
        merge_check=None,
        rng=Random(1),
        entropy=Random(1).randbytes,
        now=0.0,
        route_by_name=route_by_name,
    )


def assert_well_formed(serf: Serf) -> None:
    for output in serf.take_outputs():
        if isinstance(output, SendPacket):
            opened = packets.open_packet(output.data)
            assert not opened.faults
            for leaf in opened.messages:
                packets.decode_message(leaf)
        elif isinstance(output, SendStream):
            reader = packets.StreamReader(dialler=True)
            reader.receive_data(output.data)
            assert reader.message is not None


@settings(deadline=None, max_examples=150)
@given(
    inputs=st.lists(packet_messages | stream_messages.map(lambda m: (m,)), max_size=12),
    pause=st.sampled_from([0.0, 0.3, 40.0]),
    route_by_name=st.booleans(),
)
def test_any_fields_leave_us_alive_and_well_spoken(
    inputs: list[Any], pause: float, route_by_name: bool
) -> None:
    serf = make_serf(route_by_name=route_by_name)
    assert_well_formed(serf)
    now = 0.0
    for number, message in enumerate(inputs):
        if isinstance(message, tuple):
            stream = serf.accept_stream(peer=SOURCE, now=now)
            assert stream is not None
            data = packets.wrap_stream(packets.encode_stream(message[0]), dialler=True)
            serf.receive_stream_data(stream, data, now=now)
            serf.receive_stream_eof(stream, now=now)
        else:
            carried = number % 2 == 0
            data = packets.encode_message(message)
            serf.receive_packet(data, source=None if carried else SOURCE, now=now)
        assert_well_formed(serf)
        now = max(now + pause, serf.next_timer())
        serf.handle_timer(now=now)
        assert_well_formed(serf)
    assert serf.local_member().status is MemberStatus.ALIVE
    assert "me" in {member.name for member in serf.members()}
