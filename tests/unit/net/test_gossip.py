"""The gossip thread: pools on it, events to the main loop, gateways, a clean end."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from isthmus.errors import InvalidNodeName, InvalidRequest, NotFound, Unavailable
from isthmus.gossip.config import GossipConfig
from isthmus.names import split_wan_name
from isthmus.net.gossip import (
    GossipThread,
    JoinFailed,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberStatus,
    MemberUpdated,
    Pool,
    PoolConfig,
    UserEventReceived,
)
from isthmus.net.network import Network
from isthmus.net.sockets import SocketNetwork
from isthmus.rpc.packets import frame_packet
from support.memory_network import (
    MemoryInbound,
    MemoryNetwork,
    MemoryTransport,
    connection_pair,
)

P = TypeVar("P", bound=asyncio.BaseProtocol)
FAST = replace(GossipConfig.local().dev(), leave_propagate_delay=0.05)


class Observer:
    """Remembers events and the thread they came on."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.threads: set[int] = set()
        self._changed = asyncio.Event()

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())
        self._changed.set()

    async def wait_for(self, kind: type, name: str, *, within: float = 10.0) -> Any:
        async with asyncio.timeout(within):
            while True:
                for event in self.events:
                    subject = getattr(event, "member", event)
                    if isinstance(event, kind) and subject.name == name:
                        return event
                self._changed.clear()
                await self._changed.wait()


class Fixture:
    """A running gossip thread with pools on it."""

    def __init__(self, network: Network) -> None:
        self.failures: list[BaseException] = []
        self.thread = GossipThread(network, on_failure=self.failures.append)
        self.thread.start()

    async def open(self, name: str, **options: Any) -> tuple[Pool, Observer]:
        observer = Observer()
        base = PoolConfig(name=name, bind_host="127.0.0.1", bind_port=0, gossip=FAST)
        pool = await self.thread.open_pool(replace(base, **options), on_event=observer)
        return pool, observer


@pytest.fixture
async def memory() -> AsyncIterator[Fixture]:
    fixture = Fixture(MemoryNetwork())
    yield fixture
    await fixture.thread.stop()
    assert fixture.failures == []


def address_of(pool: Pool) -> str:
    host, port = pool.address
    return f"{host}:{port}"


async def test_pools_that_join_hear_of_each_other_on_the_main_loop(memory: Fixture) -> None:
    a, seen_by_a = await memory.open("a", tags={"dc": "dc1"})
    b, seen_by_b = await memory.open("b")
    assert await b.join([address_of(a)]) == 1
    joined = await seen_by_a.wait_for(MemberJoined, "b")
    assert (joined.member.address, joined.member.port) == b.address
    await seen_by_b.wait_for(MemberJoined, "a")
    assert [(m.name, m.status, m.tags) for m in b.members()] == [
        ("b", MemberStatus.ALIVE, {}),
        ("a", MemberStatus.ALIVE, {"dc": "dc1"}),
    ]
    assert a.local_member().name == "a"
    assert seen_by_a.threads == {threading.get_ident()}


@pytest.mark.parametrize("keys", [(), (bytes(16),)])
async def test_pools_on_sockets(keys: tuple[bytes, ...]) -> None:
    fixture = Fixture(SocketNetwork())
    try:
        a, seen_by_a = await fixture.open("a", keys=keys)
        b, _ = await fixture.open("b", keys=keys)
        assert await b.join([f"a/{address_of(a)}"]) == 1
        await seen_by_a.wait_for(MemberJoined, "b")
        assert (await a.stats())["encrypted"] == str(bool(keys)).lower()
        await b.leave()
        left = await seen_by_a.wait_for(MemberLeft, "b")
        assert left.member.status is MemberStatus.LEFT
    finally:
        await fixture.thread.stop()
    assert fixture.failures == []


async def test_taken_port_is_reported() -> None:
    fixture = Fixture(SocketNetwork())
    try:
        a, _ = await fixture.open("a")
        with pytest.raises(OSError, match="in use"):
            await fixture.open("b", bind_port=a.address[1])
    finally:
        await fixture.thread.stop()


async def test_failed_join_is_worded_as_memberlist_does(memory: Fixture) -> None:
    a, _ = await memory.open("a")
    with pytest.raises(JoinFailed) as caught:
        await a.join(["127.0.0.1:9", "/127.0.0.1:9"])
    assert str(caught.value) == (
        "2 errors occurred:\n\t* Failed to resolve /127.0.0.1:9: empty node name provided"
        "\n\t* Failed to join 127.0.0.1:9: dial tcp 127.0.0.1:9: connect: connection refused\n\n"
    )
    assert await a.join([]) == 0


async def test_one_reachable_address_is_enough(memory: Fixture) -> None:
    a, _ = await memory.open("a")
    b, _ = await memory.open("b")
    assert await b.join(["127.0.0.1:9", address_of(a)]) == 1


async def test_silent_member_fails(memory: Fixture) -> None:
    a, seen_by_a = await memory.open("a")
    b, _ = await memory.open("b")
    await b.join([address_of(a)])
    await seen_by_a.wait_for(MemberJoined, "b")
    await b.close()
    failed = await seen_by_a.wait_for(MemberFailed, "b")
    assert failed.member.status is MemberStatus.FAILED
    await a.force_leave("b", prune=True)
    assert [member.name for member in a.members()] == ["a"]
    with pytest.raises(NotFound, match="agent: No node found with name 'nobody'"):
        await a.force_leave("nobody")


async def test_tags_and_events_travel(memory: Fixture) -> None:
    a, seen_by_a = await memory.open("a")
    b, _ = await memory.open("b")
    await b.join([address_of(a)])
    await b.update_tags({"role": "consul"})
    assert b.local_member().tags == {"role": "consul"}
    updated = await seen_by_a.wait_for(MemberUpdated, "b")
    assert updated.member.tags == {"role": "consul"}
    assert await b.user_event("deploy", b"7") == 1
    assert (await seen_by_a.wait_for(UserEventReceived, "deploy")).payload == b"7"
    with pytest.raises(InvalidRequest, match="limit of 512 bytes"):
        await b.update_tags({"role": "x" * 600})


async def test_blocked_main_loop_costs_no_membership(memory: Fixture) -> None:
    """protocol/gossip.md §11: a stall of seconds is death, unless gossip has its own thread."""
    a, seen_by_a = await memory.open("a")
    b, seen_by_b = await memory.open("b")
    await b.join([address_of(a)])
    threading.Event().wait(1.5)  # 15 probe intervals; a suspect lives for three.
    for _ in range(10):
        await asyncio.sleep(0)
    assert not [e for e in seen_by_a.events + seen_by_b.events if isinstance(e, MemberFailed)]
    assert {member.status for member in a.members()} == {MemberStatus.ALIVE}


class Gateways:
    """Carries gossip by WAN name to the pools it knows, over in-memory connections."""

    def __init__(self, dc: str) -> None:
        self._dc = dc
        self.pools: dict[str, Pool] = {}
        self.inbounds: list[MemoryInbound] = []
        self.ways: dict[str, MemoryTransport] = {}

    def carries(self, node_name: str) -> bool:
        return split_wan_name(node_name)[1] != self._dc

    async def send_packet(self, node_name: str, packet: bytes) -> None:
        if node_name not in self.pools:
            raise Unavailable("no gateway known")
        if node_name not in self.ways:
            near, inbound = self._pair()
            near.start(asyncio.Protocol())
            self.pools[node_name].accept_packets(inbound)
            self.ways[node_name] = near
        self.ways[node_name].write(frame_packet(packet))

    async def open_stream(self, node_name: str, factory: Callable[[], P], *, timeout: float) -> P:
        if node_name not in self.pools:
            raise Unavailable("no gateway known")
        near, inbound = self._pair()
        protocol = factory()
        near.start(protocol)
        self.pools[node_name].accept_stream(inbound)
        return protocol

    def _pair(self) -> tuple[MemoryTransport, MemoryInbound]:
        near, far = connection_pair()
        self.inbounds.append(MemoryInbound(far))
        return near, self.inbounds[-1]


async def test_pools_of_two_datacenters_meet_through_gateways(memory: Fixture) -> None:
    of_dc1, of_dc2 = Gateways("dc1"), Gateways("dc2")
    a, seen_by_a = await memory.open("a.dc1", carrier=of_dc1, route_by_name=True)
    b, seen_by_b = await memory.open("b.dc2", carrier=of_dc2, route_by_name=True)
    of_dc1.pools["b.dc2"] = b
    of_dc2.pools |= {"a.dc1": a, "*.dc1": a}
    assert await b.join(["*.dc1/192.0.2.2"]) == 1
    await seen_by_a.wait_for(MemberJoined, "b.dc2")
    await b.update_tags({"x": "y"})
    await seen_by_a.wait_for(MemberUpdated, "b.dc2")
    inbounds = [*of_dc1.inbounds, *of_dc2.inbounds]
    accepted = [inbound for inbound in inbounds if inbound.is_started]  # More may be on their way.
    assert accepted  # By one of them b has joined.
    assert all(i.tls and i.tls.require_client and i.tls.alpn for i in accepted)
    await b.leave()
    await seen_by_a.wait_for(MemberLeft, "b.dc2")
    assert not [e for e in seen_by_a.events + seen_by_b.events if isinstance(e, MemberFailed)]


async def test_restarted_server_finds_back_through_gateways(
    memory: Fixture, tmp_path: Path
) -> None:
    """Its snapshot gives names, and names are the way into another datacenter."""
    of_dc1, of_dc2 = Gateways("dc1"), Gateways("dc2")
    a, seen_by_a = await memory.open("a.dc1", carrier=of_dc1, route_by_name=True)
    options = {"carrier": of_dc2, "route_by_name": True, "snapshot_file": tmp_path / "snapshot"}
    b, _ = await memory.open("b.dc2", **options)
    of_dc1.pools["b.dc2"] = b
    of_dc2.pools["a.dc1"] = a
    await b.join([f"a.dc1/{address_of(a)}"])
    await seen_by_a.wait_for(MemberJoined, "b.dc2")
    await b.close()
    await seen_by_a.wait_for(MemberFailed, "b.dc2")
    host, port = b.address
    of_dc2.ways.clear()
    of_dc1.ways.clear()
    again, seen = await memory.open("b.dc2", bind_port=port, **options)
    of_dc1.pools["b.dc2"] = again
    await seen.wait_for(MemberJoined, "a.dc1")
    assert (tmp_path / "snapshot").read_text().startswith(f"alive: b.dc2 {host}:{port}\n")


async def test_member_behind_a_lost_gateway_fails(memory: Fixture) -> None:
    of_dc1, of_dc2 = Gateways("dc1"), Gateways("dc2")
    a, seen_by_a = await memory.open("a.dc1", carrier=of_dc1, route_by_name=True)
    b, _ = await memory.open("b.dc2", carrier=of_dc2, route_by_name=True)
    of_dc1.pools["b.dc2"], of_dc2.pools["a.dc1"] = b, a
    await b.join([f"a.dc1/{address_of(a)}"])
    await seen_by_a.wait_for(MemberJoined, "b.dc2")
    of_dc1.pools.clear()
    await b.close()
    await seen_by_a.wait_for(MemberFailed, "b.dc2")
    assert int((await a.stats())["packets_not_carried"]) > 0


async def test_nothing_is_sent_to_a_name_without_datacenter(memory: Fixture) -> None:
    a, _ = await memory.open("a.dc1", carrier=Gateways("dc1"), route_by_name=True)
    with pytest.raises(JoinFailed, match="node name does not encode a datacenter: odd"):
        await a.join(["odd/127.0.0.1:9"])
    with pytest.raises(JoinFailed, match="node names are required by configuration"):
        await a.join(["127.0.0.1:9"])
    with pytest.raises(InvalidNodeName):
        Gateways("dc1").carries("odd")


async def test_held_pool_answers_and_starts_nothing(memory: Fixture) -> None:
    a, seen_by_a = await memory.open("a")
    b, seen_by_b = await memory.open("b")
    b.hold()
    await a.join([address_of(b)])
    await seen_by_a.wait_for(MemberJoined, "b")
    await a.update_tags({"x": "1"})
    await seen_by_b.wait_for(MemberUpdated, "a")
    sent = (await b.stats())["packets_sent"]
    b.release()
    await b.update_tags({"x": "2"})
    await seen_by_a.wait_for(MemberUpdated, "b")
    assert int((await b.stats())["packets_sent"]) > int(sent)


async def test_malformed_packet_connection_is_closed(memory: Fixture) -> None:
    a, _ = await memory.open("a")
    near, far = connection_pair()
    closed = threading.Event()

    class Sender(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            closed.set()

    async def send() -> None:
        near.start(Sender())
        near.write(bytes(4))  # A packet of no bytes.

    a.accept_packets(MemoryInbound(far))
    await memory.thread.call(send())
    assert await asyncio.to_thread(closed.wait, 5)


async def test_connection_for_a_closed_pool_is_closed(memory: Fixture) -> None:
    a, _ = await memory.open("a")
    await a.close()
    inbounds = [MemoryInbound(connection_pair()[1]) for _ in range(2)]
    a.accept_packets(inbounds[0])
    a.accept_stream(inbounds[1])
    await memory.thread.call(asyncio.sleep(0))
    assert [inbound.closed for inbound in inbounds] == [True, True]
    with pytest.raises(Unavailable, match="closed"):
        await a.stats()


async def test_nothing_works_after_the_end_and_nothing_hangs() -> None:
    fixture = Fixture(MemoryNetwork())
    a, _ = await fixture.open("a")
    await fixture.thread.stop()
    await fixture.thread.stop()
    with pytest.raises(Unavailable, match="does not run"):
        await a.join(["127.0.0.1:9"])
    inbound = MemoryInbound(connection_pair()[1])
    a.accept_packets(inbound)
    assert inbound.closed
    await a.close()


async def test_defect_of_ours_stops_the_thread() -> None:
    def broken(members: object) -> str | None:
        raise AssertionError("our own mistake")

    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_failure(_: BaseException) -> None:
        loop.call_soon_threadsafe(failed.set)

    thread = GossipThread(MemoryNetwork(), on_failure=on_failure)
    thread.start()
    config = PoolConfig(name="a", bind_host="127.0.0.1", bind_port=0, gossip=FAST)
    a = await thread.open_pool(config, on_event=lambda _: None)
    b = await thread.open_pool(
        replace(config, name="b", merge_check=broken), on_event=lambda _: None
    )
    joining = asyncio.ensure_future(a.join([address_of(b)]))
    async with asyncio.timeout(5):
        await failed.wait()
    assert isinstance(thread.failure, AssertionError)
    with pytest.raises(Unavailable):
        await joining
