"""Exchanges of state that break anywhere: no news is lost by it, and none is told twice."""

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.outputs import JoinFinished, OpenStream, SendStream
from isthmus.gossip.roster import MemberStatus
from isthmus.gossip.serf import Serf, UserEventReceived
from isthmus.gossip.streams import JoinTarget
from isthmus.wire import memberlist as packets
from isthmus.wire import serf as wire

KEY = bytes(range(16))


class Site:
    """A core with a history: it knows members, saw one of two common ones leave, told an event."""

    def __init__(self, name: str, number: int, keys: tuple[bytes, ...]) -> None:
        self.address = (f"10.0.0.{number}", 7946)
        self.keys = keys
        self.serf = Serf(
            name=name,
            address=self.address,
            tags={"role": name},
            config=GossipConfig.lan(),
            keyring=Keyring(keys),
            merge_check=None,
            rng=Random(number),
            entropy=Random(number).randbytes,
            now=0.0,
        )
        self.told: list[str] = []
        for other in (f"{name}-friend", "seen-leave-by-a", "seen-leave-by-b"):
            addr = bytes((10, 1, 0, len(other) + ord(other[-1])))
            self._hear(packets.Alive(incarnation=1, node=other, addr=addr, port=7946, vsn=OUR_VSN))
        gone = f"seen-leave-by-{name}"
        self._hear(packets.UserMessage(wire.encode_message(wire.Leave(ltime=5, node=gone))))
        self._hear(packets.Dead(incarnation=1, node=gone, from_=gone))
        self.serf.user_event(f"{name}-event", b"", coalesce=False)
        self.take()
        self.told.clear()

    def _hear(self, message: packets.PacketMessage) -> None:
        data = packets.encode_message(message)
        for cipher in Keyring(self.keys).ciphers:
            data = packets.seal(data, cipher, nonce=bytes(12), associated=b"")
        self.serf.receive_packet(data, source=None, now=0.0)

    def take(self) -> list[Any]:
        """Outputs; events that are told are noted."""
        outputs: list[Any] = list(self.serf.take_outputs())
        self.told += [each.name for each in outputs if isinstance(each, UserEventReceived)]
        return outputs

    def knows(self) -> dict[str, MemberStatus]:
        return {member.name: member.status for member in self.serf.members()}


def exchange(a: Site, b: Site, *, request: float = 1.0, answer: float = 1.0, piece: int) -> bool:
    """`a` joins through `b`; only these shares of the bytes of each direction arrive."""
    a.serf.join([JoinTarget(b.serf.name, b.address)], ignore_old=False, now=0.0)
    (opened,) = [output for output in a.take() if isinstance(output, OpenStream)]
    number = b.serf.accept_stream(peer=a.address, now=0.0)
    assert number is not None
    a.serf.stream_opened(opened.id, now=0.0)
    data = opened.data[: int(request * len(opened.data))]
    for start in range(0, len(data), piece):
        b.serf.receive_stream_data(number, data[start : start + piece], now=0.0)
    b.serf.receive_stream_eof(number, now=0.0)
    replies = b"".join(output.data for output in b.take() if isinstance(output, SendStream))
    replies = replies[: int(answer * len(replies))]
    for start in range(0, len(replies), piece):
        a.serf.receive_stream_data(opened.id, replies[start : start + piece], now=0.0)
    a.serf.receive_stream_eof(opened.id, now=0.0)
    (finished,) = [output for output in a.take() if isinstance(output, JoinFinished)]
    return bool(finished.contacted)


shares = st.floats(0, 1, exclude_max=True)


@settings(deadline=None, max_examples=40)
@given(
    cuts=st.lists(st.tuples(shares, shares, st.booleans()), max_size=3),
    piece=st.sampled_from([11, 1000, 100_000]),
    keyed=st.booleans(),
)
def test_exchange_after_broken_ones_makes_both_whole(
    cuts: list[tuple[float, float, bool]], piece: int, keyed: bool
) -> None:
    keys = (KEY,) if keyed else ()
    a, b = Site("a", 1, keys), Site("b", 2, keys)
    for request, answer, answered in cuts:
        share = 1.0 if answered else request
        assert not exchange(a, b, request=share, answer=answer, piece=piece)
    assert exchange(a, b, piece=piece)
    alive, left = MemberStatus.ALIVE, MemberStatus.LEFT
    expected = {"a": alive, "b": alive, "a-friend": alive, "b-friend": alive}
    expected |= {"seen-leave-by-a": left, "seen-leave-by-b": left}
    assert a.knows() == b.knows() == expected
    assert (a.told, b.told) == (["b-event"], ["a-event"])
