"""Clocks of other datacenters, and the report of the federation, on virtual time."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from isthmus.agent.status import ClockReading, Clocks, FederationStatus
from isthmus.config.model import AgentConfig
from isthmus.errors import RemoteError, Unavailable
from isthmus.federation.locator import GatewayLocator
from isthmus.federation.outcomes import Outcomes
from isthmus.federation.replication import ReplicationStatus
from isthmus.federation.router import Router, ServerInfo
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.model.catalog import CheckServiceNode, Node, NodeService
from isthmus.model.diagnosis import Clock, FederationReport
from isthmus.model.federation import FederationState
from isthmus.model.timestamp import Timestamp
from isthmus.units import Duration
from support.virtual_loop import now, run_virtual

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


def wall() -> datetime:
    """The calendar goes as the virtual loop does."""
    return START + timedelta(seconds=now())


class FakeRemote:
    """Datacenters whose clocks are `ahead` seconds of ours; each way takes `delay` seconds."""

    def __init__(self, *, delay: float = 0.0, **ahead: float | Exception) -> None:
        self.ahead, self.delay = ahead, delay
        self.asked: list[tuple[float, str]] = []

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        assert method == "Isthmus.Clock"
        self.asked.append((now(), dc))
        await asyncio.sleep(self.delay)
        ahead = self.ahead[dc]
        if isinstance(ahead, Exception):
            raise ahead
        time = Timestamp.of(wall() + timedelta(seconds=ahead))
        await asyncio.sleep(self.delay)
        return Clock(time=time)


class FakeStates:
    """A store that never changes."""

    async def federation_states(self, min_index: int) -> tuple[int, tuple[FederationState, ...]]:
        if min_index:
            await asyncio.Event().wait()
        return 1, ()


def make_clocks(
    remote: FakeRemote, *, dc: str = "dc1", datacenters: Sequence[str] = ("dc1", "dc2")
) -> Clocks:
    return Clocks(
        dc=dc,
        primary_dc="dc1",
        remote=remote,
        datacenters=lambda: datacenters,
        wall=wall,
    )


async def run_for(clocks: Clocks, seconds: float) -> None:
    task = asyncio.ensure_future(clocks.run(FakeStates()))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_clock_is_read_to_half_a_round_trip() -> None:
    async def read() -> ClockReading | None:
        return await make_clocks(FakeRemote(dc2=100.0, delay=0.2)).ask("dc2")

    reading = run_virtual(read())
    assert reading is not None
    assert reading.difference == pytest.approx(100.0, abs=0.001)
    assert reading.uncertainty == pytest.approx(0.2)


def test_wrong_clock_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    remote = FakeRemote(dc2=-3600.0)
    run_virtual(run_for(make_clocks(remote), 200))
    (warning,) = warnings(caplog)
    assert warning.startswith("the clock of dc2 is 3600 s behind that of dc1: remedy: synchronise")
    assert len(remote.asked) == 4


def test_clock_that_is_set_right_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    remote = FakeRemote(dc2=3600.0)

    async def repair() -> None:
        clocks = make_clocks(remote)
        task = asyncio.ensure_future(run_for(clocks, 100))
        await asyncio.sleep(30)
        remote.ahead["dc2"] = 0.0
        await task

    run_virtual(repair())
    assert "the clock of datacenter dc2 is right again" in caplog.messages[-1]


def test_datacenter_of_consul_servers_is_asked_once() -> None:
    remote = FakeRemote(dc2=RemoteError("rpc: can't find service Isthmus.Clock"))
    clocks = make_clocks(remote)
    run_virtual(run_for(clocks, 300))
    assert len(remote.asked) == 1
    assert clocks.reading("dc2") is None


def test_unreachable_datacenter_is_asked_again() -> None:
    remote = FakeRemote(dc2=Unavailable("down"))
    run_virtual(run_for(make_clocks(remote), 130))
    assert len(remote.asked) == 3


def state(dc: str, seconds: float) -> FederationState:
    return FederationState(
        datacenter=dc, updated_at=Timestamp.of(START + timedelta(seconds=seconds))
    )


def readings(dc: str, *rounds: Sequence[FederationState]) -> ClockReading | None:
    async def read() -> ClockReading | None:
        clocks = make_clocks(FakeRemote(), dc=dc)
        await asyncio.sleep(1000)
        for states in rounds:
            clocks.receive_states(states)
        return clocks.reading("dc2")

    return run_virtual(read())


def test_date_in_the_future_proves_a_clock_that_is_ahead() -> None:
    assert readings("dc3", [], [state("dc2", 4600)]) == ClockReading(3600.0, 0.0)


def test_old_date_proves_nothing_but_in_the_primary_when_it_was_just_written() -> None:
    assert readings("dc1", [state("dc2", 100)]) is None
    assert readings("dc1", [], [state("dc2", 100)]) is None
    assert readings("dc3", [state("dc2", 0)], [state("dc2", 100)]) is None
    assert readings("dc1", [state("dc2", 0)], [state("dc2", 100)]) == ClockReading(-900.0, 60.0)


def gateway(host: str) -> CheckServiceNode:
    return CheckServiceNode(
        node=Node(node="n", address=host),
        service=NodeService(address=host, port=8443, meta={"consul-wan-federation": "1"}),
    )


async def make_report() -> FederationReport:
    """As dc2 sees it 100 s after its start, 40 s after dc3 was lost."""
    await asyncio.sleep(100)
    states = [
        FederationState(
            datacenter="dc1",
            mesh_gateways=(gateway("10.1.0.1"),),
            updated_at=Timestamp.of(START + timedelta(seconds=70)),
            primary_modify_index=7,
            modify_index=9,
        ),
        FederationState(datacenter="dc2", mesh_gateways=(gateway("10.2.0.1"),)),
    ]
    locator = GatewayLocator(dc="dc2", primary_dc="dc1", rng=Random(1))
    locator.set_states(states)
    locator.replication_started()
    outcomes = Outcomes()
    outcomes.gateway_dialled("10.2.0.1:8443", "dc1", "a", seconds=0.25, now=50)
    outcomes.gateway_dialled("10.9.0.1:8443", "dc3", "c", seconds=1, error="refused", now=60)
    outcomes.failed(
        "dc3", node="c", gateway="g:1", step="connect", text="why", by_call=False, now=60
    )
    router = Router()
    router.put(ServerInfo("a.dc1", "a", "dc1", "10.0.0.1", 8300))
    member = Member(
        name="a.dc1", address="10.0.0.1", port=8302, tags={"dc": "dc1"}, status=MemberStatus.ALIVE
    )
    status = FederationStatus(
        AgentConfig(datacenter="dc2", primary_datacenter="dc1", node_name="b"),
        states=lambda: states,
        is_leader=lambda: True,
        router=router,
        locator=locator,
        outcomes=outcomes,
        clocks=make_clocks(FakeRemote(), dc="dc2"),
        members=lambda: [member],
        replication=lambda: ReplicationStatus(
            running=True, primary_index=8, index=7, succeeded_at=90.0
        ),
        wall=wall,
    )
    return status.report()


def at(seconds: float) -> Timestamp:
    return Timestamp.of(START + timedelta(seconds=seconds))


def test_report_shows_moments_as_dates() -> None:
    report = run_virtual(make_report())
    assert report.time == at(100)
    assert report.replication.last_success == at(90)
    assert (report.replication.primary_index, report.replication.index) == (8, 7)
    local, lost = (
        next(one for one in report.gateways if one.address.startswith(host))
        for host in ("10.2", "10.9")
    )
    assert (local.role, local.attempts, local.last_used) == ("local", 1, at(50))
    assert (local.dial_time, local.datacenters) == (Duration.of(0.25), ("dc1",))
    assert (lost.role, lost.failures, lost.last_error) == ("", 1, "refused")
    assert (lost.last_error_at, lost.failing_since) == (at(60), at(60))


def test_report_has_every_datacenter_that_anything_is_known_of() -> None:
    report = run_virtual(make_report())
    dc1, dc2, dc3 = report.datacenters
    assert (dc1.primary, dc1.servers_alive, dc1.gateways_usable) == (True, 1, 1)
    assert (dc1.state_age, dc1.primary_modify_index) == (Duration.of(30), 7)
    assert (dc2.datacenter, dc2.updated_at.is_zero, dc2.state_age) == ("dc2", True, Duration(0))
    assert (dc3.failed_step, dc3.last_error, dc3.failing_since) == ("connect", "why", at(60))
    assert [member.name for member in report.members] == ["a.dc1"]


def test_report_says_which_way_the_primary_is_dialled_and_why() -> None:
    report = run_virtual(make_report())
    assert (report.way_to_primary, report.way_reason) == ("local gateways", "replication works")


def test_server_that_is_down_beside_one_that_is_not_is_no_failure_of_its_datacenter() -> None:
    async def report() -> FederationReport:
        outcomes = Outcomes()
        outcomes.failed(
            "dc3", node="c", gateway="g:1", step="route", text="why", by_call=False, now=0
        )
        router = Router()
        for node in ("c", "d"):
            router.put(ServerInfo(f"{node}.dc3", node, "dc3", "10.0.0.1", 8300))
        return FederationStatus(
            AgentConfig(),
            states=tuple,
            is_leader=lambda: True,
            router=router,
            locator=None,
            outcomes=outcomes,
            clocks=make_clocks(FakeRemote()),
            members=tuple,
            replication=lambda: None,
            wall=wall,
        ).report()

    (dc3,) = (one for one in run_virtual(report()).datacenters if one.datacenter == "dc3")
    assert dc3.failing_since.is_zero
