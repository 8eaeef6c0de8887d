"""``Coordinate``, from a report to what readers see, on virtual time."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from isthmus.errors import NoLeader, RequestError
from isthmus.model.catalog import DeregisterRequest, NodeRequest, RegisterRequest
from isthmus.model.coordinate import (
    Coord,
    Coordinate,
    CoordinateUpdateRequest,
    DatacenterMap,
)
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.server.coordinates import UPDATE_PERIOD
from isthmus.server.server import Server
from isthmus.units import Duration
from support.coordinates import at
from support.servers import make_server
from support.virtual_loop import now, run_virtual, settle

LIST = DatacenterRequest(datacenter="dc1")


def serving(play: Callable[[Server], Coroutine[Any, Any, None]]) -> None:
    """Run a play with a server that leads and has the nodes a and b."""

    async def run() -> None:
        server = make_server()
        await server.start()
        for node in ("a", "b"):
            await server.call("Catalog.Register", RegisterRequest(node=node, address="10.0.0.1"))
        await play(server)
        await server.stop()

    run_virtual(run())


async def report(server: Server, node: str, coord: Coord | None) -> object:
    return await server.call("Coordinate.Update", CoordinateUpdateRequest(node=node, coord=coord))


def test_report_is_seen_after_a_while() -> None:
    async def play(server: Server) -> None:
        assert await report(server, "a", at(0.1)) == Empty()
        assert (await server.call("Coordinate.ListNodes", LIST)).coordinates == ()
        await asyncio.sleep(UPDATE_PERIOD + 1)
        every = await server.call("Coordinate.ListNodes", LIST)
        assert every.coordinates == (Coordinate(node="a", coord=at(0.1)),)
        assert (every.index, every.known_leader) == (4, True)
        one = await server.call("Coordinate.Node", NodeRequest(node="A"))
        assert (one.coordinates, one.index) == (every.coordinates, 4)
        none = await server.call("Coordinate.Node", NodeRequest(node="b"))
        assert (none.coordinates, none.index) == ((), 4)

    serving(play)


def test_the_same_report_again_writes_nothing() -> None:
    async def play(server: Server) -> None:
        for _ in range(10):
            await report(server, "a", at(0.1))
            await asyncio.sleep(15)
        assert server.store.index == 4

    serving(play)


@pytest.mark.parametrize(
    "coord",
    [None, Coord(), Coord(vec=(0.0,) * 7), at(math.nan), at(height=math.inf), at(1e200)],
)
def test_coordinate_of_another_space_is_refused(coord: Coord | None) -> None:
    async def play(server: Server) -> None:
        with pytest.raises(RequestError, match=r"^incompatible coordinate$") as caught:
            await report(server, "a", coord)
        assert caught.value.status == 500

    serving(play)


def test_without_a_leader_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(server: Server) -> None:
        monkeypatch.setattr(Server, "leader_address", "")
        with pytest.raises(NoLeader):
            await report(server, "a", at(0.1))

    serving(play)


def test_readers_block_until_a_node_moves_or_goes() -> None:
    async def play(server: Server) -> None:
        await report(server, "a", at(0.1))
        await asyncio.sleep(10)

        def read(method: str, request: Any) -> asyncio.Task[Any]:
            return asyncio.get_running_loop().create_task(server.call(method, request))

        options: dict[str, Any] = {"min_query_index": 4, "max_query_time": Duration.of(100)}
        every = read("Coordinate.ListNodes", DatacenterRequest(**options))
        one = read("Coordinate.Node", NodeRequest(node="a", **options))
        await settle()
        await report(server, "b", at(0.2))
        assert len((await every).coordinates) == 2
        assert now() == 10 + UPDATE_PERIOD
        assert not one.done()
        await server.call("Catalog.Deregister", DeregisterRequest(node="a"))
        assert (await one).coordinates == ()

    serving(play)


class Wan:
    """What a WAN pool would say."""

    def datacenters(self) -> tuple[str, ...]:
        return ("dc1", "dc3", "dc2")

    def maps(self) -> tuple[DatacenterMap, ...]:
        return (DatacenterMap(datacenter="dc1", area_id="wan"),)


async def test_datacenters_are_listed_as_the_wan_pool_sees_them() -> None:
    server = make_server(wan=Wan())
    await server.start()
    found = await server.call("Coordinate.ListDatacenters", Empty())
    assert found == (DatacenterMap(datacenter="dc1", area_id="wan"),)
    assert server.datacenters() == ("dc1", "dc3", "dc2")
    await server.stop()


async def test_server_without_a_wan_pool_lists_no_datacenter(server: Server) -> None:
    assert await server.call("Coordinate.ListDatacenters", Empty()) == ()
