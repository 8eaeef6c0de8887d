import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest

from isthmus.config.model import AgentConfig
from isthmus.engine.memory import MemoryEngine
from isthmus.errors import Unavailable
from isthmus.gossip.roster import MemberStatus
from isthmus.net.gossip import PoolConfig, PoolEvent
from isthmus.net.tls import TlsConfig
from isthmus.sim.agent_platform import EPOCH, Disk, GossipHere, SimulatedMachine
from isthmus.store.engine import Batch, LeaderInfo
from support.fabrics import Lab, Site

CLUSTER = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


def machine(lab: Lab, site: Site, seed: str = "1") -> SimulatedMachine:
    return SimulatedMachine(lab.fabric, site.host, site.loop, Disk(CLUSTER), seed=seed)


def test_machine_is_made_of_its_seed_and_its_clock(lab: Lab) -> None:
    one = machine(lab, lab.beta)
    assert one.entropy(8) == machine(lab, lab.beta).entropy(8)
    assert one.entropy(8) != machine(lab, lab.beta, seed="2").entropy(8)
    lab.beta.loop.drift(2.0)
    lab.sleep(10)
    assert one.wall() == EPOCH + timedelta(seconds=20)
    assert one.host_name == "beta"


def test_certificates_are_names_that_nobody_reads(lab: Lab) -> None:
    tls = machine(lab, lab.alpha).tls(TlsConfig(ca_file="ca.pem", cert_file="c", key_file="k"))
    assert tls.native_tls


def test_network_serves_the_loop_as_well(lab: Lab) -> None:
    one = machine(lab, lab.alpha)
    lab.alpha.loop.network = None
    one.network(one.tls(TlsConfig()))
    assert lab.alpha.loop.network is not None


async def _commit(engine: MemoryEngine, key: bytes, index: int) -> None:
    await engine.open()
    lead = await engine.claim(LeaderInfo("id", "alpha", "10.0.1.1:8300", 0))
    assert lead is not None
    batch = Batch(puts={key: b"1"}, deletes=set(), index=index, id=bytes(16), commands=1)
    await engine.commit(lead, index - 1, batch)


async def _rows(engine: MemoryEngine) -> list[bytes]:
    await engine.open()
    return [key async for page in engine.scan(b"") for key, _ in page]


def test_disk_keeps_what_was_committed_and_nothing_that_the_dead_write(lab: Lab) -> None:
    disk = Disk(CLUSTER)
    before = disk.engine

    async def work() -> list[bytes]:
        await _commit(before, b"kept", 2)
        disk.seal()
        await _commit(before, b"too late", 3)
        return await _rows(disk.engine)

    assert lab.run(lab.alpha, work()) == [b"kept"]
    one = SimulatedMachine(lab.fabric, lab.alpha.host, lab.alpha.loop, disk, seed="1")
    assert one.engine(AgentConfig()) is disk.engine


def test_pools_on_one_loop_meet_and_part(lab: Lab) -> None:
    events: list[PoolEvent] = []

    async def run(site: Site, join: str = "") -> tuple[GossipHere, dict[str, MemberStatus]]:
        runner = GossipHere(site.network, entropy=bytes)
        runner.start()
        config = PoolConfig(name=site.host.name, bind_host=site.host.addresses[0], bind_port=8301)
        pool = await runner.open_pool(config, on_event=events.append)
        if join:
            await pool.join([join])
        await asyncio.sleep(1)
        return runner, {member.name: member.status for member in pool.members()}

    alpha, _ = lab.run(lab.alpha, run(lab.alpha))
    beta, seen = lab.run(lab.beta, run(lab.beta, "10.0.1.1:8301"))
    assert seen == {"alpha": MemberStatus.ALIVE, "beta": MemberStatus.ALIVE}
    assert events
    lab.run(lab.alpha, alpha.stop())
    assert (lab.alpha.host.listeners, lab.alpha.host.sockets) == ({}, {})
    assert not alpha.post(events.clear)

    async def late() -> None:
        await alpha.call(asyncio.sleep(1))

    with pytest.raises(Unavailable, match="do not run"):
        lab.run(lab.alpha, late())
    lab.run(lab.beta, beta.stop())
