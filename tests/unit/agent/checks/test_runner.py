"""Checks over time: first run, interval, thresholds, TTL, deregistration; on virtual time."""

import asyncio
from random import Random
from typing import Any

import pytest

from isthmus.agent.checks import CheckRunner, CheckWorld
from isthmus.agent.checks import runner as runner_module
from isthmus.agent.checks.result import Result
from isthmus.agent.local import LocalState, NodeFacts
from isthmus.errors import InvalidRequest
from isthmus.model.agent import CheckDefinition
from isthmus.model.catalog import HealthCheck, NodeService
from isthmus.units import Duration
from support.virtual_loop import now, run_virtual

FACTS = NodeFacts(dc="dc1", node="n1", node_id="", address="10.0.0.1", tagged_addresses={}, meta={})


class Recorder(LocalState):
    """Writes down results, when they came."""

    def __init__(self) -> None:
        super().__init__(facts=FACTS, rng=Random(1))
        self.reports: list[tuple[float, str, str]] = []

    def update_check(self, check_id: str, status: str, output: str) -> None:
        self.reports.append((now(), status, output))
        super().update_check(check_id, status, output)


async def unreachable(method: str, request: object) -> object:
    raise AssertionError(method)


class World:
    """A running check, what it reported and when it asked to be deregistered."""

    def __init__(self, definition: CheckDefinition, seed: int = 1) -> None:
        self.local = Recorder()
        self.deregistered: list[float] = []
        self.runner = CheckRunner(
            definition,
            CheckWorld(local=self.local, rpc=unreachable, rng=Random(seed)),
            deregister=lambda: self.deregistered.append(now()),
        )

    @property
    def reports(self) -> list[tuple[float, str, str]]:
        return self.local.reports


def play(
    definition: CheckDefinition, seconds: float, *acts: tuple[float, str, str], seed: int = 1
) -> World:
    """Run a check for some time; its owner sends each act at its moment."""

    async def run() -> World:
        world = World(definition, seed)
        running = asyncio.get_running_loop().create_task(world.runner.run())
        for moment, status, output in acts:
            await asyncio.sleep(moment - now())
            world.runner.heard(status, output)
        await asyncio.sleep(seconds - now())
        running.cancel()
        await asyncio.wait({running})
        await asyncio.sleep(10_000)  # What was left running would tell.
        return world

    return run_virtual(run())


def ttl(seconds: float, *, deregister: float = 0.0, size: int = 0) -> CheckDefinition:
    return CheckDefinition(
        check_id="c1",
        service_id="web",
        ttl=Duration.of(seconds),
        deregister_critical_service_after=Duration.of(deregister),
        output_max_size=size,
    )


# TTL -------------------------------------------------------------------------------------------


def test_ttl_runs_out_again_and_again() -> None:
    assert play(ttl(10), 25).reports == [
        (10, "critical", "TTL expired"),
        (20, "critical", "TTL expired"),
    ]


def test_owner_restarts_the_time_and_its_last_words_are_kept() -> None:
    world = play(ttl(10), 25, (9, "passing", "fine"), (14, "warning", "slow"))
    assert world.reports == [
        (9, "passing", "fine"),
        (14, "warning", "slow"),
        (24, "critical", "TTL expired (last output before timeout follows): slow"),
    ]


def test_output_is_cut_with_a_notice() -> None:
    world = play(ttl(10, size=4), 5, (1, "passing", "abcdefgh"))
    assert world.reports == [(1, "passing", "abcd ... (captured 4 of 8 bytes)")]


def test_check_can_not_keep_more_than_the_agent_allows() -> None:
    (report,) = play(ttl(10, size=1_000_000), 5, (1, "passing", "x" * 5000)).reports
    assert report[2] == "x" * 4096 + " ... (captured 4096 of 5000 bytes)"


def test_only_ttl_checks_have_an_owner() -> None:
    async def run() -> None:
        world = World(CheckDefinition(check_id="c1", tcp="h:1", interval=Duration.of(10)))
        with pytest.raises(InvalidRequest, match='CheckID "c1" does not have associated TTL'):
            world.runner.heard("passing", "")

    run_virtual(run())


# Deregistration --------------------------------------------------------------------------------


def test_check_that_stays_critical_is_deregistered() -> None:
    assert play(ttl(10, deregister=90), 180).deregistered == [100]


def test_check_that_recovers_stays() -> None:
    acts = [(58.0 * number, "passing", "") for number in range(1, 20)]
    assert play(ttl(10, deregister=60), 1150, *acts).deregistered == []


def test_deregistration_takes_a_minute_at_least() -> None:
    assert play(ttl(10, deregister=1), 75).deregistered == [70]


# At intervals ----------------------------------------------------------------------------------


def tcp(**fields: Any) -> CheckDefinition:
    return CheckDefinition(
        **{"check_id": "c1", "tcp": "h:1", "interval": Duration.of(10), **fields}
    )


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """What a TCP probe finds, in turn; the last again and again."""
    results = [Result("passing", "fine")]

    async def probe(address: str, *, timeout: float) -> Result:
        return results.pop(0) if len(results) > 1 else results[0]

    monkeypatch.setattr(runner_module, "probe_tcp", probe)
    return results


@pytest.mark.usefixtures("probes")
def test_first_run_is_somewhere_within_the_interval() -> None:
    firsts = [play(tcp(), 25, seed=seed).reports[0][0] for seed in range(30)]
    assert 0 <= min(firsts) < 2
    assert 8 < max(firsts) < 10


@pytest.mark.usefixtures("probes")
def test_runs_are_an_interval_apart_and_a_second_at_least() -> None:
    first, second, *_ = (moment for moment, _, _ in play(tcp(), 25).reports)
    assert second - first == pytest.approx(10)
    reports = play(tcp(interval=Duration.of(0.001)), 10).reports
    assert 9 <= len(reports) <= 10


@pytest.mark.parametrize(
    ("fields", "found", "shown"),
    [
        ({}, "pcp", "pcp"),
        ({"failures_before_critical": 3}, "pcccp", "p  cp"),
        ({"failures_before_critical": 3}, "ccpcc", "ccp  "),
        ({"success_before_passing": 2}, "cpcppw", "c c pw"),
        ({"failures_before_warning": 2, "failures_before_critical": 4}, "pccccc", "p wwcc"),
    ],
)
def test_so_many_results_in_a_row_are_needed(
    probes: list[Result], fields: dict[str, int], found: str, shown: str
) -> None:
    words = {"p": "passing", "w": "warning", "c": "critical"}
    probes[:] = [Result(words[letter], "") for letter in found]
    reports = play(tcp(**fields), 10 * len(found) - 0.5, seed=7).reports
    assert [status for _, status, _ in reports] == [words[one] for one in shown if one != " "]


def test_certain_result_counts_at_once(probes: list[Result]) -> None:
    probes[:] = [Result("passing", ""), Result("critical", "timed out", certain=True)]
    reports = play(tcp(failures_before_critical=5), 19).reports
    assert [status for _, status, _ in reports] == ["passing", "critical"]


def test_so_many_probes_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    async def probe(address: str, *, timeout: float) -> Result:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(timeout)
        running -= 1
        return Result("critical", "")

    monkeypatch.setattr(runner_module, "probe_tcp", probe)

    async def run() -> None:
        local = Recorder()
        world = CheckWorld(local=local, rpc=unreachable, rng=Random(1), probes=asyncio.Semaphore(3))
        runners = [
            CheckRunner(tcp(check_id=f"c{number}"), world, deregister=lambda: None)
            for number in range(10)
        ]
        tasks = [asyncio.get_running_loop().create_task(one.run()) for one in runners]
        await asyncio.sleep(100)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert most == 3
        assert len(local.reports) >= 20

    run_virtual(run())


# Aliases ---------------------------------------------------------------------------------------


def test_alias_follows_and_its_output_is_cut() -> None:
    async def run() -> None:
        definition = CheckDefinition(check_id="alias", alias_service="web", output_max_size=30)
        world = World(definition)
        local = world.local
        local.put_service(
            NodeService(id="web", service="web"),
            [HealthCheck(check_id="c1", name="c1", service_id="web", status="passing")],
        )
        local.put_check(HealthCheck(check_id="alias", name="alias", status="critical"))
        running = asyncio.get_running_loop().create_task(world.runner.run())
        await asyncio.sleep(1)
        assert local.checks["alias"].status == "passing"
        local.update_check("c1", "critical", "x" * 100)
        await asyncio.sleep(1)
        check = local.checks["alias"]
        assert (check.status, check.output[:30]) == ("critical", 'Aliased check "c1" failing: xx')
        assert "captured 30 of" in check.output
        running.cancel()
        await asyncio.wait({running})

    run_virtual(run())
