"""What the agent does with coordinates: reports, on virtual time, and the order of datacenters."""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from random import Random

import pytest

from isthmus.agent.coordinates import (
    INTERVAL_MIN,
    UPDATES_RATE_MAX,
    CoordinateReports,
    WanCoordinates,
)
from isthmus.agent.settings import gossip_config
from isthmus.config.model import AgentConfig, GossipConfig
from isthmus.errors import RequestError, Unavailable
from isthmus.federation.router import Router, ServerInfo
from isthmus.model.coordinate import ORIGIN, Coord, CoordinateUpdateRequest
from isthmus.model.record import Record
from support.coordinates import at
from support.virtual_loop import now, run_virtual


class FakePool:
    """So many members, each somewhere."""

    def __init__(self, size: int = 3, known: Mapping[str, Coord] | None = None) -> None:
        self.size, self.own, self.known = size, ORIGIN, known or {}

    def members(self) -> tuple[object, ...]:
        return (object(),) * self.size

    def coordinate(self) -> Coord:
        return self.own

    def coordinates(self) -> Mapping[str, Coord]:
        return self.known


class Servers:
    """Take reports, and note when."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, CoordinateUpdateRequest]] = []
        self.fault: Exception | None = None

    async def __call__(self, method: str, request: Record) -> object:
        assert method == "Coordinate.Update"
        assert isinstance(request, CoordinateUpdateRequest)
        self.reports.append((now(), request))
        if self.fault is not None:
            raise self.fault
        return None

    def gaps(self) -> list[float]:
        """Seconds between the reports."""
        moments = [moment for moment, _ in self.reports]
        return [after - before for before, after in pairwise(moments)]


def reporting(
    pool: FakePool,
    servers: Servers,
    *,
    seconds: float,
    seed: int = 1,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    async def run() -> None:
        reports = CoordinateReports(dc="dc1", node="n1", pool=pool, rpc=servers, rng=Random(seed))
        task = asyncio.get_running_loop().create_task(reports.run())
        await asyncio.sleep(seconds / 2)
        meanwhile()
        await asyncio.sleep(seconds / 2)
        assert not task.done()
        task.cancel()

    run_virtual(run())


def test_our_coordinate_is_told_again_and_again() -> None:
    pool, servers = FakePool(), Servers()

    def move() -> None:
        pool.own = at(0.1)

    reporting(pool, servers, seconds=600, meanwhile=move)
    assert all(moment > 300 or told.coord == ORIGIN for moment, told in servers.reports)
    assert servers.reports[-1][1] == CoordinateUpdateRequest(
        datacenter="dc1", node="n1", coord=at(0.1)
    )
    assert servers.reports[0][0] < 2
    assert all(INTERVAL_MIN <= gap <= 2 * INTERVAL_MIN for gap in servers.gaps())
    assert max(servers.gaps()) - min(servers.gaps()) > 1


def test_large_pool_reports_no_faster_than_the_rate() -> None:
    size = 6400
    firsts, gaps = [], []
    for seed in range(20):
        servers = Servers()
        reporting(FakePool(size), servers, seconds=1000, seed=seed)
        firsts.append(servers.reports[0][0])
        gaps += servers.gaps()
    share = size / UPDATES_RATE_MAX
    assert all(share <= gap <= 2 * share for gap in gaps)
    assert max(firsts) - min(firsts) > share / 2  # Even when all were started together.


@pytest.mark.parametrize("fault", [RequestError("denied"), Unavailable("No cluster leader")])
def test_servers_that_refuse_are_told_again(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    servers = Servers()
    servers.fault = fault
    with caplog.at_level(logging.WARNING):
        reporting(FakePool(), servers, seconds=100)
    assert len(servers.reports) >= 3
    told = rf"could not tell the servers our coordinate, next try in \d\d s: {fault}"
    assert len(re.findall(told, caplog.text)) == len(servers.reports)


def test_coordinates_can_be_switched_off() -> None:
    for wan in (False, True):
        assert gossip_config(AgentConfig(), wan=wan).coordinates
        config = AgentConfig(gossip=GossipConfig(disable_coordinates=True))
        assert not gossip_config(config, wan=wan).coordinates


# Datacenters ----------------------------------------------------------------------------------


def router(*names: str) -> Router:
    made = Router()
    for name in names:
        node, _, dc = name.partition(".")
        made.put(ServerInfo(name=name, node=node, dc=dc, host="10.0.0.1", port=8300))
    return made


def test_datacenters_are_sorted_by_what_the_pool_knows_at_the_moment() -> None:
    pool: FakePool | None = None
    wan = WanCoordinates(router("a.dc1", "a.dc2", "a.dc3"), dc="dc3", pool=lambda: pool)
    assert wan.datacenters() == ("dc1", "dc2", "dc3")
    assert [one.coordinates for one in wan.maps()] == [(), (), ()]
    pool = FakePool(known={"a.dc1": at(0.2), "a.dc2": at(0.1)})
    assert wan.datacenters() == ("dc3", "dc2", "dc1")
    pool.known = {"a.dc1": at(0.1), "a.dc2": at(0.2)}
    assert wan.datacenters() == ("dc3", "dc1", "dc2")
    pool.own = at(0.19)
    assert wan.datacenters() == ("dc3", "dc2", "dc1")
    assert [len(one.coordinates or ()) for one in wan.maps()] == [1, 1, 0]
