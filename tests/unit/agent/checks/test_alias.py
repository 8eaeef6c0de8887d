"""Aliases of services here and on other nodes, on virtual time."""

import asyncio
from random import Random
from typing import Any

import pytest

from isthmus.agent.checks.alias import LOOK_INTERVAL, LocalAlias, RemoteAlias, judge
from isthmus.agent.checks.result import Result
from isthmus.agent.local import LocalState, NodeFacts
from isthmus.errors import Unavailable
from isthmus.model.agent import CheckDefinition
from isthmus.model.catalog import HealthCheck, NodeService, RegisterRequest
from isthmus.model.record import Record
from support.servers import make_server
from support.virtual_loop import now, run_virtual

FACTS = NodeFacts(dc="dc1", node="n1", node_id="", address="10.0.0.1", tagged_addresses={}, meta={})
PASSING = Result("passing", "All checks passing.")


def check(check_id: str, status: str, service_id: str = "web", output: str = "") -> HealthCheck:
    return HealthCheck(
        check_id=check_id, name=check_id, status=status, service_id=service_id, output=output
    )


@pytest.mark.parametrize(
    ("checks", "result"),
    [
        ([], Result("passing", "No checks found.")),
        ([check("a", "passing")], PASSING),
        ([check("a", "passing"), check("o", "critical", "other")], PASSING),
        (
            [check("w", "warning", output="slow"), check("a", "passing")],
            Result("warning", 'Aliased check "w" failing: slow'),
        ),
        (
            [check("w", "warning"), check("c", "critical", output="down")],
            Result("critical", 'Aliased check "c" failing: down'),
        ),
        (
            [check("a", "passing"), check("disk", "critical", "", output="full")],
            Result("critical", 'Aliased check "disk" failing: full'),
        ),
    ],
)
def test_worst_check_of_service_and_node_counts(checks: list[HealthCheck], result: Result) -> None:
    assert judge(checks, service_id="web", node="", exists=True) == result


def test_service_that_does_not_exist_is_critical() -> None:
    found = judge([check("disk", "passing", "")], service_id="web", node="n2", exists=False)
    assert found == Result("critical", "Service web could not be found on node n2")
    assert judge([check("a", "passing")], service_id="web", node="", exists=False) == PASSING


def test_node_alone_can_be_followed() -> None:
    checks = [check("disk", "warning", "", output="full"), check("c", "critical", "web")]
    assert judge(checks, service_id="", node="n2", exists=True).status == "warning"


def test_local_alias_follows_at_once() -> None:
    async def run() -> None:
        reports: list[tuple[float, str]] = []
        local = LocalState(facts=FACTS, rng=Random(1))
        alias = LocalAlias(
            CheckDefinition(check_id="alias", alias_service="web"),
            local,
            lambda result: reports.append((now(), result.status)),
        )
        running = asyncio.get_running_loop().create_task(alias.run())
        await asyncio.sleep(1)
        local.put_service(NodeService(id="web", service="web"))
        await asyncio.sleep(1)
        local.put_check(check("c1", "critical"))
        await asyncio.sleep(1)
        local.update_check("c1", "passing", "")
        await asyncio.sleep(1)
        local.put_check(check("disk", "warning", ""))
        await asyncio.sleep(1)
        local.remove_service("web")
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait({running})
        assert reports == [
            (0, "critical"),
            (1, "passing"),
            (2, "critical"),
            (3, "passing"),
            (4, "warning"),
            (5, "critical"),
        ]

    run_virtual(run())


def test_aliases_in_a_circle_do_not_spin() -> None:
    async def run() -> None:
        count = 0
        local = LocalState(facts=FACTS, rng=Random(1))
        for name in ("a", "b"):
            local.put_service(
                NodeService(id=name, service=name),
                [check(f"alias-{name}", "critical", name, output="start")],
            )

        def report(name: str, result: Result) -> None:
            nonlocal count
            count += 1
            local.update_check(f"alias-{name}", result.status, result.output)

        tasks = [
            asyncio.get_running_loop().create_task(
                LocalAlias(
                    CheckDefinition(check_id=f"alias-{name}", alias_service=other),
                    local,
                    lambda result, name=name: report(name, result),  # type: ignore[misc]
                ).run()
            )
            for name, other in (("a", "b"), ("b", "a"))
        ]
        await asyncio.sleep(10 * LOOK_INTERVAL)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert count < 50

    run_virtual(run())


class Remote:
    """A server in memory with a service `web` on node n2, and an alias that follows it."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, str, str]] = []
        self.faults: list[Exception] = []
        self.calls = 0
        self.server = make_server()

    async def rpc(self, method: str, request: Record) -> object:
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        return await self.server.call(method, request)

    async def put(self, **fields: Any) -> None:
        request = RegisterRequest(datacenter="dc1", node="n2", address="10.0.0.2", **fields)
        await self.server.call("Catalog.Register", request)

    def start(self) -> "asyncio.Task[None]":
        alias = RemoteAlias(
            CheckDefinition(check_id="alias", alias_node="n2", alias_service="web"),
            dc="dc1",
            rpc=self.rpc,
            token="",
            report=lambda result: self.reports.append((now(), *result[:2])),
            rng=Random(1),
        )
        return asyncio.get_running_loop().create_task(alias.run())


def test_remote_alias_follows_by_blocking_queries() -> None:
    async def run() -> None:
        world = Remote()
        await world.server.start()
        running = world.start()
        await asyncio.sleep(1)
        await world.put(service=NodeService(id="web", service="web"), check=check("c1", "passing"))
        await asyncio.sleep(1)
        await world.put(check=check("c1", "critical", output="down"))
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait({running})
        await world.server.stop()
        assert world.reports == [
            (0, "critical", "Service web could not be found on node n2"),
            (1, "passing", "All checks passing."),
            (2, "critical", 'Aliased check "c1" failing: down'),
        ]
        assert world.calls < 10

    run_virtual(run())


def test_one_failure_to_ask_is_not_shown_and_more_are_not_hurried() -> None:
    async def run() -> None:
        world = Remote()
        await world.server.start()
        await world.put(service=NodeService(id="web", service="web"))
        world.faults = [Unavailable("away")]
        running = world.start()
        await asyncio.sleep(5)
        assert [status for _, status, _ in world.reports] == ["passing"]
        world.faults = [Unavailable("away")] * 1000
        await asyncio.sleep(10 * LOOK_INTERVAL)
        assert world.reports[-1][1:] == (
            "critical",
            "Failure checking aliased node or service: away",
        )
        assert world.calls < 40
        running.cancel()
        await asyncio.wait({running})
        await world.server.stop()

    run_virtual(run())
