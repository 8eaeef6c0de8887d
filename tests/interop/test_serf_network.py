"""Faults of the network and of peers in pools with real serf agents: nobody who lives is lost."""

import asyncio
import struct
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.members import OUR_VSN
from isthmus.net.datagrams import open_datagrams
from isthmus.net.gossip import (
    GossipThread,
    MemberFailed,
    MemberJoined,
    Pool,
    PoolConfig,
    UserEventReceived,
)
from isthmus.net.sockets import SocketNetwork
from isthmus.wire import lzw
from isthmus.wire import memberlist as wire
from support.serf_agent import SERF, Observer, SerfAgent, eventually, serf_agent

LOOPBACK = bytes((127, 0, 0, 1))

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(120),
    pytest.mark.skipif(SERF is None, reason="no serf agent here: apt-get install serf"),
]


class Fence(SocketNetwork):
    """Sockets whose packets to some ports get lost on the way.

    Attributes:
        lost: Ports that no packet of ours reaches.
        asked: Numbers of the indirect pings that came from a port.
        helped: Numbers of the acks that were sent to a port.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[int] = set()
        self.asked: dict[int, set[int]] = defaultdict(set)
        self.helped: dict[int, set[int]] = defaultdict(set)

    async def datagram(
        self, factory: Callable[[], asyncio.DatagramProtocol], host: str, port: int
    ) -> asyncio.DatagramTransport:
        return _FencedTransport(
            await super().datagram(lambda: _FencedProtocol(factory(), self), host, port), self
        )


def numbers(data: bytes, kind: type[wire.IndirectPing] | type[wire.Ack]) -> set[int]:
    """Numbers of a packet's messages of a kind."""
    messages = [wire.decode_message(leaf) for leaf in wire.open_packet(data).messages]
    return {message.seq_no for message in messages if isinstance(message, kind)}


class _FencedTransport(asyncio.DatagramTransport):
    def __init__(self, inner: asyncio.DatagramTransport, fence: Fence) -> None:
        super().__init__()
        self._inner, self._fence = inner, fence

    def sendto(self, data: Any, addr: Any = None) -> None:
        self._fence.helped[addr[1]] |= numbers(bytes(data), wire.Ack)
        if addr[1] not in self._fence.lost:
            self._inner.sendto(data, addr)

    def close(self) -> None:
        self._inner.close()


class _FencedProtocol(asyncio.DatagramProtocol):
    def __init__(self, inner: asyncio.DatagramProtocol, fence: Fence) -> None:
        self._inner, self._fence = inner, fence

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def error_received(self, exc: Exception) -> None:
        self._inner.error_received(exc)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._fence.asked[addr[1]] |= numbers(data, wire.IndirectPing)
        self._inner.datagram_received(data, addr)


class Ours:
    """One member of ours behind a fence of its own."""

    def __init__(self, thread: GossipThread, fence: Fence) -> None:
        self.thread, self.fence = thread, fence
        self.observer = Observer()
        self.pool: Pool

    async def start(self, name: str, config: GossipConfig | None = None) -> None:
        self.pool = await self.thread.open_pool(
            PoolConfig(
                name=name,
                bind_host="127.0.0.1",
                bind_port=0,
                gossip=config or GossipConfig.local(),
            ),
            on_event=self.observer,
        )

    @property
    def port(self) -> int:
        return self.pool.address[1]

    def statuses(self) -> dict[str, str]:
        return {member.name: member.status.name.lower() for member in self.pool.members()}


@asynccontextmanager
async def member(name: str, config: GossipConfig | None = None) -> AsyncIterator[Ours]:
    """A member of ours with a thread of its own."""
    fence = Fence()
    ours = Ours(GossipThread(fence), fence)
    ours.thread.start()
    try:
        await ours.start(name, config)
        yield ours
    finally:
        await ours.thread.stop()
    assert ours.thread.failure is None


async def agree(names: set[str], *views: Callable[[], Awaitable[dict[str, str]]]) -> None:
    expected = dict.fromkeys(names, "alive")

    async def agreed() -> bool:
        return all([await view() == expected for view in views])

    await eventually(agreed, within=30)


class Stranger(asyncio.DatagramProtocol):
    """A bare UDP socket that speaks memberlist; answers pings to `name` from some ports only."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers: set[int] = set()
        self.heard: list[tuple[int, wire.PacketMessage]] = []
        self._transport: asyncio.DatagramTransport
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    @property
    def port(self) -> int:
        return int(self._transport.get_extra_info("sockname")[1])

    def send(self, port: int, *messages: wire.PacketMessage) -> None:
        self.send_raw(port, wire.join_compound([wire.encode_message(each) for each in messages]))

    def send_raw(self, port: int, data: bytes) -> None:
        self._transport.sendto(data, ("127.0.0.1", port))

    def introduce(self, port: int, *, incarnation: int = 1) -> None:
        """Tell a member that we are one, too."""
        self.send(
            port,
            wire.Alive(
                incarnation=incarnation, node=self.name, addr=LOOPBACK, port=self.port, vsn=OUR_VSN
            ),
        )

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for leaf in wire.open_packet(data).messages:
            message = wire.decode_message(leaf)
            self.heard.append((addr[1], message))
            if isinstance(message, wire.Ping) and addr[1] in self.answers:
                self.send(addr[1], wire.Ack(seq_no=message.seq_no))
        self._changed.set()

    async def hears(self, kind: type, *, within: float = 30.0) -> tuple[int, Any]:
        """Wait for the first message of a kind; who sent it, and what it says."""
        async with asyncio.timeout(within):
            while True:
                for port, message in self.heard:
                    if isinstance(message, kind):
                        return port, message
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def stranger(name: str) -> AsyncIterator[Stranger]:
    protocol = Stranger(name)
    transport = await open_datagrams(lambda: protocol, "127.0.0.1", 0)
    try:
        yield protocol
    finally:
        transport.close()


@asynccontextmanager
async def trio(directory: Path) -> AsyncIterator[tuple[SerfAgent, Ours, Ours]]:
    """A serf agent and two of ours, each behind a fence of its own."""
    async with (
        serf_agent("real", directory / "serf.log") as real,
        member("left") as left,
        member("right") as right,
    ):
        for each in (left, right):
            await each.pool.join([f"real/{real.address}"])
        await agree({"real", "left", "right"}, real.statuses)
        yield real, left, right


@asynccontextmanager
async def company(directory: Path, name: str) -> AsyncIterator[tuple[SerfAgent, Ours, Stranger]]:
    """A serf agent and one of ours that know each other, and a stranger."""
    async with (
        serf_agent("real", directory / "serf.log") as real,
        member("ours") as ours,
        stranger(name) as third,
    ):
        await ours.pool.join([f"real/{real.address}"])
        await real.sees("ours", "alive", within=30)
        yield real, ours, third


def nobody_failed(real: SerfAgent, *ours: Ours) -> None:
    for each in ours:
        assert each.observer.of(MemberFailed) == []
    assert "EventMemberFailed" not in real.log


async def test_helpers_and_streams_keep_members_alive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Packets get lost both ways: first a third member helps, in all three roles; then a stream.

    protocol/gossip.md §0: indirect probes in all roles, fallback over TCP both ways.
    """
    async with trio(tmp_path) as (real, left, right):
        left.fence.lost.add(real.port)  # Neither its pings nor its acks arrive.

        async def helped() -> bool:
            asked, answered = right.fence.asked, right.fence.helped
            return all(asked[each] & answered[each] for each in (real.port, left.port))

        await eventually(helped, within=60)
        nobody_failed(real, left, right)
        right.fence.lost.add(real.port)  # Nobody can help any more.
        await real.logs("Was able to connect to left but other probes failed", within=20)

        async def warned() -> bool:
            return "Was able to connect to real over TCP but UDP probes failed" in caplog.text

        await eventually(warned, within=20)
        nobody_failed(real, left, right)
        assert await real.statuses() == dict.fromkeys(("left", "real", "right"), "alive")


async def test_serf_helps_us_and_we_help_serf(tmp_path: Path) -> None:
    """A member that answers only one of two is known to be alive by both."""
    async with company(tmp_path, "aloof") as (real, ours, aloof):
        aloof.answers = {real.port}
        for port in (ours.port, real.port):  # A suspicion would replace it in a queue of gossip.
            aloof.introduce(port)
        await ours.observer.wait_for(MemberJoined, "aloof")
        await real.sees("aloof", "alive", within=30)
        await asyncio.sleep(6)
        assert ours.statuses()["aloof"] == "alive"
        aloof.answers = {ours.port}
        await asyncio.sleep(6)
        assert (await real.statuses())["aloof"] == "alive"
        aloof.answers = set()
        await ours.observer.wait_for(MemberFailed, "aloof", within=20)
        await real.sees("aloof", "failed", within=20)


async def test_helper_answers_alike(tmp_path: Path) -> None:
    """Asked to ping for another: ack when it answers, nack when it does not. As serf does."""
    async with (
        serf_agent("real", tmp_path / "serf.log") as real,
        member("ours") as ours,
        stranger("asker") as asker,
        stranger("mute") as mute,
    ):
        for helper, target in ((ours.port, real.port), (real.port, ours.port)):
            asker.heard.clear()
            name = "real" if target == real.port else "ours"
            asker.send(helper, indirect(asker, name, target, number=77))
            assert await asker.hears(wire.Ack) == (helper, wire.Ack(seq_no=77))
            asker.heard.clear()
            asker.send(helper, indirect(asker, "mute", mute.port, number=78))
            assert await asker.hears(wire.Nack) == (helper, wire.Nack(seq_no=78))


def indirect(asker: Stranger, node: str, port: int, *, number: int) -> wire.IndirectPing:
    return wire.IndirectPing(
        seq_no=number,
        target=LOOPBACK,
        port=port,
        node=node,
        nack=True,
        source_addr=LOOPBACK,
        source_port=asker.port,
        source_node=asker.name,
    )


async def test_accused_members_refute_and_serf_believes_it(tmp_path: Path) -> None:
    """Suspected or declared dead, of us or of serf: the next incarnation sets it right."""
    async with company(tmp_path, "slanderer") as (real, ours, slanderer):
        for accused, told in (("ours", real.port), ("real", ours.port)):
            for incarnation, kind in ((10, wire.Suspect), (20, wire.Dead)):
                slanderer.send(told, kind(incarnation=incarnation, node=accused, from_="nobody"))
        await ours.observer.wait_for(MemberFailed, "real")
        await ours.observer.wait_for(MemberJoined, "real", after=len(ours.observer.events) - 1)
        await real.logs("EventMemberFailed: ours", within=30)
        await real.sees("ours", "alive", within=30)
        await real.logs("memberlist: Refuting a dead message", within=30)


async def test_hostile_packets_hurt_nobody_through_us(tmp_path: Path) -> None:
    """protocol/gossip.md §16: what would crash or poison serf, we neither keep nor pass on."""
    async with company(tmp_path, "hostile") as (real, ours, hostile):
        for number, fields in enumerate(
            (
                {"vsn": b"\x01\x05\x02"},  # Crashes a serf agent.
                {"vsn": b""},  # Ends all push/pulls of a pool.
                {"vsn": OUR_VSN + b"\x01"},
                {"addr": b"\x7f\x00\x01"},
                {"addr": b""},
                {"vsn": bytes((0, 5, 2, 2, 5, 4))},
                {"vsn": bytes((3, 2, 2, 2, 5, 4))},
            )
        ):
            base: dict[str, Any] = {"addr": LOOPBACK, "vsn": OUR_VSN}
            hostile.send(
                ours.port,
                wire.Alive(incarnation=1, node=f"poison{number}", port=9, **(base | fields)),
            )
        bomb = lzw.compress(bytes(3 * 1024 * 1024))
        hostile.send_raw(
            ours.port, b"\x09\x82\xa4Algo\x00\xa3Buf\xda" + struct.pack(">H", len(bomb)) + bomb
        )
        hostile.send_raw(ours.port, bytes((7, 255)) + bytes(510))
        hostile.send_raw(ours.port, b"\x0c\x00\x00\x00\x00rubbish")
        for size in (2**20 + 1, 2**63):
            await send_stream(
                ours.port,
                b"\x06\x83\xa4Join\xc2\xa5Nodes\xcf"
                + struct.pack(">Q", size)
                + b"\xacUserStateLen\x00",
            )
            await send_stream(
                ours.port, b"\x08\x81\xaaUserMsgLen\xcf" + struct.pack(">Q", min(32 * size, 2**63))
            )
        await ours.pool.user_event("still-here", b"")
        await real.logs("user-event: still-here", within=30)
        await asyncio.sleep(3)
        assert set(ours.statuses()) == {"ours", "real"}
        assert set(await real.members()) == {"ours", "real"}
        assert "poison" not in real.log
        assert real.process is not None
        assert real.process.returncode is None
        nobody_failed(real, ours)


async def send_stream(port: int, data: bytes) -> None:
    """Open a stream, send, and wait until the other closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_address_in_its_long_form_is_the_same_address(tmp_path: Path) -> None:
    """A v4 address in 16 bytes is no conflict to us, and serf gets it in 4."""
    async with company(tmp_path, "mapped") as (real, ours, mapped):
        mapped.answers = {real.port, ours.port}
        long_form = bytes(10) + b"\xff\xff" + LOOPBACK
        mapped.send(
            ours.port,
            wire.Alive(incarnation=1, node="mapped", addr=long_form, port=mapped.port, vsn=OUR_VSN),
        )
        await real.sees("mapped", "alive", within=30)
        mapped.introduce(real.port, incarnation=2)
        mapped.introduce(ours.port, incarnation=3)
        await asyncio.sleep(2)
        assert await ours.pool.conflicts() == {}
        assert "Conflicting address" not in real.log
        assert ours.statuses()["mapped"] == "alive"


async def test_newcomer_with_our_name_is_outvoted(tmp_path: Path) -> None:
    """A serf agent that claims the name of one of ours asks the others, us too, and gives up."""
    async with trio(tmp_path) as (real, left, right):
        claimant = SerfAgent("left", tmp_path / "claimant.log")
        try:
            await claimant.start(f"-join={real.address}")
            await claimant.logs("minority in name conflict resolution, quitting", within=30)
            assert claimant.process is not None
            async with asyncio.timeout(15):
                await claimant.process.wait()
        finally:
            await claimant.kill()
        assert left.statuses()["left"] == right.statuses()["left"] == "alive"
        assert (await real.members())["left"]["addr"] == f"127.0.0.1:{left.port}"


async def test_late_joiners_hear_of_earlier_events(tmp_path: Path) -> None:
    """Events travel in push/pulls, both ways; whoever ignores what is old, hears nothing."""
    async with (
        serf_agent("real", tmp_path / "serf.log") as real,
        member("early") as early,
        member("late") as late,
        member("ignorant") as ignorant,
    ):
        await early.pool.join([f"real/{real.address}"])
        await early.pool.user_event("from-ours", b"1")
        await real.command("event", "-coalesce=false", "from-real")
        await early.observer.wait_for(UserEventReceived, "from-real")
        await late.pool.join([f"real/{real.address}"], ignore_old=False)
        for name in ("from-real", "from-ours"):
            await late.observer.wait_for(UserEventReceived, name)
        await ignorant.pool.join([f"real/{real.address}"], ignore_old=True)
        newcomer = SerfAgent("newcomer", tmp_path / "newcomer.log")
        try:
            await newcomer.start("-replay", f"-join=127.0.0.1:{late.port}")
            for name in ("from-real", "from-ours"):
                await newcomer.logs(f"user-event: {name}", within=30)
        finally:
            await newcomer.kill()
        assert ignorant.observer.of(UserEventReceived) == []


async def test_one_rumour_is_sent_a_bounded_number_of_times(tmp_path: Path) -> None:
    """protocol/gossip.md §7: 4 times in a pool of fewer than 9, by us as by serf."""
    async with stranger("ear") as ear, member("ours", GossipConfig.lan()) as ours:
        real = SerfAgent("real", tmp_path / "serf.log", profile="lan")
        try:
            await real.start()
            for port in (ours.port, real.port):
                ear.answers = {port}
                ear.introduce(port)
                await ear.hears(wire.Ping)
                ear.heard.clear()
                ear.send(port, wire.Dead(incarnation=1, node="ear", from_="x"))
                ear.introduce(port, incarnation=5)
                await asyncio.sleep(4)
                told = [m for p, m in ear.heard if p == port and isinstance(m, wire.Alive)]
                assert [m.incarnation for m in told if m.node == "ear"] == [5] * 4
        finally:
            await real.kill()


async def test_serf_agent_that_stood_still_comes_back(tmp_path: Path) -> None:
    """It was declared failed; awake again it refutes, and everybody believes it."""
    async with serf_agent("real", tmp_path / "serf.log") as real, member("ours") as ours:
        await ours.pool.join([f"real/{real.address}"])
        await real.sees("ours", "alive", within=30)
        real.pause()
        await ours.observer.wait_for(MemberFailed, "real", within=20)
        await asyncio.sleep(5)
        real.resume()
        await ours.observer.wait_for(
            MemberJoined, "real", within=40, after=len(ours.observer.events) - 1
        )
        await real.sees("ours", "alive", within=20)


async def test_main_loop_blocked_for_ten_seconds_costs_no_trust(tmp_path: Path) -> None:
    """Gossip has a thread of its own: asleep or at work, the main loop may stand still.

    protocol/gossip.md §11: a stall of 4 s on one loop cost a member its membership.
    """
    async with trio(tmp_path) as (real, left, right):
        time.sleep(5)  # noqa: ASYNC251 - blocking is what is tested
        until = time.monotonic() + 5
        while time.monotonic() < until:  # Python at work shares the interpreter with the thread.
            sum(range(1000))
        await real.command("event", "-coalesce=false", "awake")
        await left.observer.wait_for(UserEventReceived, "awake")
        nobody_failed(real, left, right)
        assert "Suspect" not in real.log
        assert "Refuting" not in real.log
        stats = await left.pool.stats()
        assert stats["health_score"] == "0"
