"""One entrance of gossip, fed with any bytes: what has to hold whatever they are.

The first two bytes of an input choose the entrance and the pool's layers, and how streams are
chopped; the rest is what arrives. `seeds` makes inputs of the captured vectors.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any, Final

from isthmus.errors import ProtocolError
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.envelope import Envelope
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.members import MEMBER_COUNT_MAX, OUR_VSN
from isthmus.gossip.outputs import Address, OpenStream, SendPacket, SendStream
from isthmus.gossip.roster import MemberStatus
from isthmus.gossip.serf import Serf
from isthmus.gossip.streams import JoinTarget
from isthmus.wire import memberlist as packets
from isthmus.wire import serf as wire
from support.gossip_vectors import GossipVector, load, paths

PACKET, USER_MESSAGE, ACCEPTED, DIALLED = range(4)
"""Entrances: a datagram, a serf message in one, a stream of a peer, the answer on one of ours."""
ENTRANCES: Final = 4
KEYED, LABELLED, SEALED = 4, 8, 16
"""Bits of the first byte. Sealed: we encrypt the input, so that what is inside gets in."""
OUTPUTS_MAX: Final = 4096
"""What one input may make us do at once, beside one event for each member."""
SENT_SIZE_MAX: Final = 8 * 1024 * 1024
"""Bytes that one input may make us send at once."""
STEPS: Final = 6
"""Timers that run off after an input."""

_KEY: Final = bytes(range(16))
_ME: Final[Address] = ("10.0.0.1", 7946)
_PEER: Final[Address] = ("10.0.0.2", 7946)
_HEADER: Final = 2


class Pool:
    """A member called ``me`` that knows ``x`` (alive) and ``y`` (suspect)."""

    def __init__(self, options: int) -> None:
        label = b"pool" if options & LABELLED else b""
        config = replace(GossipConfig.lan(), label=label, compress=False)  # To be faster.
        self.config, self.rng = config, Random(1)
        self.keys = (_KEY,) if options & KEYED else ()
        self.envelope = Envelope(config, Keyring(self.keys), self.rng.randbytes)
        self.serf = Serf(
            name="me",
            address=_ME,
            tags={"role": "node"},
            config=config,
            keyring=Keyring(self.keys),
            merge_check=None,
            rng=Random(1),
            entropy=self.rng.randbytes,
            now=0.0,
        )
        for number, name in enumerate(("x", "y"), 2):
            self._tell(
                packets.Alive(
                    incarnation=1, node=name, addr=bytes((10, 0, 0, number)), port=7946, vsn=OUR_VSN
                )
            )
        self._tell(packets.Suspect(incarnation=1, node="y", from_="x"))
        self.serf.take_outputs()

    def _tell(self, message: packets.PacketMessage) -> None:
        data = self.envelope.packet([packets.encode_message(message)], checksum=False)
        self.serf.receive_packet(data, source=_PEER, now=0.0)

    def state(self) -> tuple[Any, ...]:
        """All that a refused input must leave as it is."""
        core = self.serf.memberlist
        clocks = self.serf.clock, self.serf.event_clock, self.serf.query_clock
        return (
            core.table.states(),
            core.awareness.score,
            len(core.rumours),
            self.serf.members(),
            tuple(clock.time for clock in clocks),
            core.next_timer(),
        )

    def seal_packet(self, data: bytes) -> bytes:
        """Put it into the pool's outer layers."""
        return self.envelope.packet([data], checksum=False)

    def seal_stream(self, data: bytes, *, dialler: bool) -> bytes:
        """The same for a stream."""
        keyring = Keyring(self.keys)
        return packets.wrap_stream(
            data,
            label=self.config.label,
            cipher=keyring.ciphers[0] if self.keys else None,
            nonce=self.rng.randbytes(packets.NONCE_SIZE),
            dialler=dialler,
        )


def feed(data: bytes) -> None:
    """Feed one input.

    Raises:
        AssertionError, or anything but nothing: A defect.
    """
    if len(data) < _HEADER:
        return
    head, chop, rest = data[0], data[1], data[_HEADER:]
    pool = Pool(head)
    match head % ENTRANCES:
        case 0:
            _feed_packet(pool, pool.seal_packet(rest) if head & SEALED and rest else rest)
        case 1:
            _feed_user_message(pool, rest)
        case entrance:
            dialled = entrance == DIALLED
            if head & SEALED:
                rest = pool.seal_stream(rest, dialler=not dialled)
            _feed_stream(pool, rest, dialled=dialled, piece=chop + 1)
    _check_outputs(pool)
    _let_time_pass(pool)


def _feed_packet(pool: Pool, data: bytes) -> None:
    before = pool.state()
    try:
        says_something = bool(pool.envelope.read_packet(data).messages)
    except ProtocolError:
        says_something = False
    pool.serf.receive_packet(data, source=_PEER, now=0.0)
    assert says_something or pool.state() == before


def _feed_user_message(pool: Pool, payload: bytes) -> None:
    before = pool.state()
    try:
        wire.decode_message(payload)
    except ProtocolError:
        understood = False
    else:
        understood = True
    message = packets.encode_message(packets.UserMessage(payload))
    pool.serf.receive_packet(pool.seal_packet(message), source=_PEER, now=0.0)
    assert understood or pool.state() == before


def _feed_stream(pool: Pool, data: bytes, *, dialled: bool, piece: int) -> None:
    serf = pool.serf
    if dialled:
        serf.join([JoinTarget("x", _PEER)], ignore_old=False, now=0.0)
        (number,) = [out.id for out in serf.take_outputs() if isinstance(out, OpenStream)]
        serf.stream_opened(number, now=0.0)
    else:
        accepted = serf.accept_stream(peer=_PEER, now=0.0)
        assert accepted is not None
        number = accepted
    before = pool.state()
    reader = pool.envelope.reader(dialler=dialled)
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    whole = False
    try:
        for each in pieces:
            reader.receive_data(each)
        whole = reader.message is not None
    except ProtocolError:
        pass
    for each in pieces:
        serf.receive_stream_data(number, each, now=0.0)
    serf.receive_stream_eof(number, now=0.0)
    if not whole:  # Nothing of a message is used before it is complete; only a deadline is gone.
        assert pool.state()[:-1] == before[:-1]


def _check_outputs(pool: Pool) -> None:
    """What we send is well-formed, and not without measure."""
    outputs = pool.serf.take_outputs()
    assert len(outputs) <= OUTPUTS_MAX + len(pool.serf.members())
    size = 0
    for output in outputs:
        if isinstance(output, SendPacket):
            assert not pool.envelope.read_packet(output.data).refused
            size += len(output.data)
        elif isinstance(output, SendStream):
            reader = pool.envelope.reader(dialler=True)
            reader.receive_data(output.data)
            assert reader.message is not None
            size += len(output.data)
    assert size <= SENT_SIZE_MAX


def _let_time_pass(pool: Pool) -> None:
    """We go on, and are alive in our own eyes."""
    for _ in range(STEPS):
        pool.serf.handle_timer(now=pool.serf.next_timer())
        _check_outputs(pool)
    assert pool.serf.local_member().status is MemberStatus.ALIVE
    assert len(pool.serf.members()) <= MEMBER_COUNT_MAX


def seeds() -> Iterator[bytes]:
    """Inputs that reach what the captured bytes say, with and without their layers."""
    for vector in map(load, paths()):
        options = (KEYED if vector.ciphers else 0) | (LABELLED if vector.label else 0)
        entrance = (DIALLED if vector.dialled_by_us else ACCEPTED) if vector.stream else PACKET
        yield bytes((entrance | options, 255)) + vector.data
        for plain in _inside(vector):
            for more in (0, KEYED | SEALED, LABELLED | SEALED):
                yield bytes((entrance | more, 7)) + plain


def _inside(vector: GossipVector) -> Iterator[bytes]:
    """What the outer layers of a vector hold."""
    if vector.stream:
        reader = packets.StreamReader(
            label=vector.label, ciphers=vector.ciphers, dialler=vector.dialled_by_us
        )
        reader.receive_data(vector.data)
        assert reader.message is not None
        yield packets.encode_stream(reader.message)
        return
    opened = packets.open_packet(vector.data, label=vector.label, ciphers=vector.ciphers)
    yield packets.join_compound(opened.messages)
    yield packets.compress(packets.join_compound(opened.messages))


def user_seeds() -> Iterator[bytes]:
    """Inputs that are serf's messages of the captured packets."""
    for vector in map(load, paths()):
        if not vector.stream:
            opened = packets.open_packet(vector.data, label=vector.label, ciphers=vector.ciphers)
            for leaf in opened.messages:
                message = packets.decode_message(leaf)
                if isinstance(message, packets.UserMessage):
                    yield bytes((USER_MESSAGE, 0)) + message.payload
