"""Failover of prepared queries: who is asked, in which order, and who is asked no more for now."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from isthmus.errors import DialFailed, NoPathToDatacenter, RemoteError
from isthmus.federation.cooling import COOLING_FIRST
from isthmus.model.catalog import CheckServiceNode, Node
from isthmus.model.prepared_query import (
    PreparedQuery,
    PreparedQueryExecuteRemoteRequest,
    PreparedQueryExecuteRequest,
    PreparedQueryExecuteResponse,
    QueryDatacenterOptions,
    ServiceQuery,
)
from isthmus.server.failover import Failover, order
from support.virtual_loop import run_virtual

KNOWN = ("dc1", "dc2", "dc3", "dc4")
NOTHING = PreparedQueryExecuteResponse(service="web", datacenter="dc1", index=1)


@pytest.mark.parametrize(
    ("nearest", "named", "wanted"),
    [
        (0, (), ()),
        (2, (), ("dc2", "dc3")),
        (9, (), ("dc2", "dc3", "dc4")),
        (0, ("dc4", "dc2"), ("dc4", "dc2")),
        (1, ("dc4", "dc2", "dc4", "dc3"), ("dc2", "dc4", "dc3")),
        (0, ("dc9", "dc1", "dc3"), ("dc3",)),
    ],
)
def test_nearest_come_first_then_those_named_each_once(
    nearest: int, named: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    failover = QueryDatacenterOptions(nearest_n=nearest, datacenters=named)
    assert order(failover, KNOWN, own="dc1") == wanted


def dead(dc: str) -> DialFailed:
    return DialFailed("dial tcp: i/o timeout", dc=dc, node="*", gateway="", step="deadline")


class FakeRemote:
    """Datacenters that have instances, none, or an error; writes down who was asked."""

    def __init__(self, **answers: int | Exception) -> None:
        self.answers: dict[str, int | Exception] = dict(answers)
        self.asked: list[str] = []
        self.requests: list[PreparedQueryExecuteRemoteRequest] = []

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        assert (method, request.datacenter) == ("PreparedQuery.ExecuteRemote", dc)
        assert reply is PreparedQueryExecuteResponse
        self.asked.append(dc)
        self.requests.append(request)
        answer = self.answers[dc]
        if isinstance(answer, Exception):
            raise answer
        nodes = tuple(CheckServiceNode(node=Node(node=f"n{at}")) for at in range(answer))
        return PreparedQueryExecuteResponse(
            service="web", datacenter=dc, nodes=nodes or None, index=1
        )


def make_query(*datacenters: str) -> PreparedQuery:
    failover = QueryDatacenterOptions(datacenters=datacenters)
    return PreparedQuery(
        id="q", token="own", service=ServiceQuery(service="web", failover=failover)
    )


async def ask(failover: Failover, *datacenters: str, **request: Any) -> tuple[str, int, int]:
    """Datacenter, failovers and number of instances that come back."""
    reply = await failover.ask(
        make_query(*datacenters), PreparedQueryExecuteRequest(**request), NOTHING
    )
    return reply.datacenter, reply.failovers, len(reply.nodes or ())


def make_failover(remote: FakeRemote | None) -> Failover:
    return Failover("dc1", datacenters=lambda: KNOWN, remote=remote)


def play(remote: FakeRemote, steps: Callable[[Failover], Awaitable[Any]]) -> Any:
    """Run steps in virtual time."""

    async def run() -> Any:
        return await steps(make_failover(remote))

    return run_virtual(run())


def test_first_datacenter_that_has_any_answers() -> None:
    remote = FakeRemote(dc2=0, dc3=2, dc4=1)
    assert play(remote, lambda failover: ask(failover, "dc2", "dc3", "dc4")) == ("dc3", 2, 2)
    assert remote.asked == ["dc2", "dc3"]


def test_nothing_anywhere_is_the_answer_of_our_datacenter() -> None:
    remote = FakeRemote(dc2=0, dc3=RemoteError("bad"))
    assert play(remote, lambda failover: ask(failover, "dc2", "dc3")) == ("dc1", 2, 0)


def test_nobody_is_asked_when_the_query_names_nobody() -> None:
    remote = FakeRemote()
    assert play(remote, lambda failover: ask(failover)) == ("dc1", 0, 0)
    assert remote.asked == []


def test_query_and_wishes_of_the_caller_go_along() -> None:
    remote = FakeRemote(dc2=1)
    wishes = {"limit": 3, "connect": True, "token": "t", "allow_stale": True}
    play(remote, lambda failover: ask(failover, "dc2", min_query_index=7, **wishes))
    assert remote.requests == [
        PreparedQueryExecuteRemoteRequest(datacenter="dc2", query=make_query("dc2"), **wishes)  # type: ignore[arg-type]
    ]


def test_error_is_logged_with_its_datacenter(caplog: pytest.LogCaptureFixture) -> None:
    remote = FakeRemote(dc2=dead("dc2"), dc3=1)
    with caplog.at_level(logging.WARNING):
        assert play(remote, lambda failover: ask(failover, "dc2", "dc3")) == ("dc3", 2, 1)
    (record,) = caplog.records
    assert "dial tcp: i/o timeout" in record.getMessage()
    assert (vars(record)["dc"], vars(record)["service"]) == ("dc2", "web")


def test_dead_datacenter_is_asked_last_for_a_while_and_counts_as_before() -> None:
    remote = FakeRemote(dc2=dead("dc2"), dc3=1)

    async def steps(failover: Failover) -> list[tuple[str, int, int]]:
        found = [await ask(failover, "dc2", "dc3") for _ in range(3)]
        remote.answers["dc3"] = 0
        found.append(await ask(failover, "dc2", "dc3"))
        return found

    assert play(remote, steps) == [("dc3", 2, 1)] * 3 + [("dc1", 2, 0)]
    assert remote.asked == ["dc2", "dc3", "dc3", "dc3", "dc3", "dc2"]


def test_datacenter_that_is_well_again_gets_its_place_back() -> None:
    remote = FakeRemote(dc2=dead("dc2"), dc3=1)

    async def steps(failover: Failover) -> list[tuple[str, int, int]]:
        found = [await ask(failover, "dc2", "dc3")]
        remote.answers["dc2"] = 1
        await asyncio.sleep(COOLING_FIRST)
        found.append(await ask(failover, "dc2", "dc3"))
        return found

    assert play(remote, steps) == [("dc3", 2, 1), ("dc2", 1, 1)]


def test_datacenter_in_doubt_is_used_when_no_other_has_any() -> None:
    remote = FakeRemote(dc2=NoPathToDatacenter("dc2"), dc3=0)

    async def steps(failover: Failover) -> list[tuple[str, int, int]]:
        found = [await ask(failover, "dc2", "dc3")]
        remote.answers["dc2"] = 2
        found += [await ask(failover, "dc2", "dc3"), await ask(failover, "dc2", "dc3")]
        return found

    assert play(remote, steps) == [("dc1", 2, 0), ("dc2", 2, 2), ("dc2", 1, 2)]


def test_datacenter_that_answers_with_an_error_is_in_no_doubt() -> None:
    remote = FakeRemote(dc2=RemoteError("Permission denied"), dc3=1)

    async def steps(failover: Failover) -> None:
        await ask(failover, "dc2", "dc3")
        await ask(failover, "dc2", "dc3")

    play(remote, steps)
    assert remote.asked == ["dc2", "dc3"] * 2


def test_server_without_a_way_out_finds_nothing() -> None:
    async def steps() -> tuple[str, int, int]:
        return await ask(make_failover(None), "dc2")

    assert run_virtual(steps()) == ("dc1", 1, 0)
