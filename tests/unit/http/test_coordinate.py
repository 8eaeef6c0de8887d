"""``/v1/coordinate``: shapes, segments, what is asked of the servers."""

import pytest

from isthmus.errors import NoLeader, RequestError
from isthmus.model.coordinate import (
    ORIGIN,
    Coordinate,
    CoordinateUpdateRequest,
    DatacenterMap,
    IndexedCoordinates,
)
from isthmus.model.query import Empty
from support.coordinates import at
from support.http import FakeRpc, as_dict, as_json, make_client

SHOWN = {"Vec": [0] * 8, "Error": 1.5, "Adjustment": 0, "Height": 0.00001}
FOUND = IndexedCoordinates(
    coordinates=(
        Coordinate(node="a", coord=ORIGIN),
        Coordinate(node="a", segment="s", coord=at(0.5)),
    ),
    index=7,
    known_leader=True,
)
NONE = IndexedCoordinates(coordinates=(), index=7, known_leader=True)


async def test_nodes_are_listed_with_the_headers_of_a_query() -> None:
    client = make_client(FakeRpc(Coordinate_ListNodes=FOUND))
    response = await client.get("/v1/coordinate/nodes?dc=dc2&index=3&wait=2s&stale&token=t")
    assert as_json(response)[0] == {"Node": "a", "Segment": "", "Coord": SHOWN}
    assert len(as_json(response)) == 2
    headers = as_dict(response)
    assert (headers["X-Consul-Index"], headers["X-Consul-Knownleader"]) == ("7", "true")
    assert "X-Consul-Effective-Consistency" not in headers
    asked = client.rpc.last
    assert (asked.datacenter, asked.min_query_index, asked.allow_stale) == ("dc2", 3, True)
    assert (asked.max_query_time.seconds, asked.token) == (2.0, "t")


@pytest.mark.parametrize(
    ("query", "segments"), [("", ["", "s"]), ("?segment=s", ["s"]), ("?segment=", [""])]
)
@pytest.mark.parametrize("path", ["nodes", "node/a"])
async def test_segment_is_chosen(path: str, query: str, segments: list[str]) -> None:
    client = make_client(FakeRpc(Coordinate_ListNodes=FOUND, Coordinate_Node=FOUND))
    answer = as_json(await client.get(f"/v1/coordinate/{path}{query}"))
    assert [one["Segment"] for one in answer] == segments


async def test_no_nodes_are_an_empty_list() -> None:
    client = make_client(FakeRpc(Coordinate_ListNodes=NONE))
    assert (await client.get("/v1/coordinate/nodes")).body == b"[]"
    assert (await client.get("/v1/coordinate/nodes?segment=x")).body == b"[]"


async def test_node_without_a_coordinate_is_not_found() -> None:
    client = make_client(FakeRpc(Coordinate_Node=NONE))
    response = await client.get("/v1/coordinate/node/zz")
    assert (response.status, response.body) == (404, b"")
    headers = as_dict(response)
    assert headers["X-Consul-Index"] == "7"
    assert "Content-Type" not in headers
    assert client.rpc.last.node == "zz"


async def test_datacenters_are_listed_without_an_index() -> None:
    maps = (
        DatacenterMap(
            datacenter="dc1", area_id="wan", coordinates=(Coordinate(node="a", coord=ORIGIN),)
        ),
        DatacenterMap(datacenter="dc2", area_id="wan"),
    )
    client = make_client(FakeRpc(Coordinate_ListDatacenters=maps))
    response = await client.get("/v1/coordinate/datacenters?dc=zz")
    assert as_json(response) == [
        {
            "Datacenter": "dc1",
            "AreaID": "wan",
            "Coordinates": [{"Node": "a", "Segment": "", "Coord": SHOWN}],
        },
        {"Datacenter": "dc2", "AreaID": "wan", "Coordinates": []},
    ]
    assert "X-Consul-Index" not in as_dict(response)
    assert client.rpc.last == Empty()


@pytest.mark.parametrize(
    ("query", "body_dc", "dc"),
    [("", "", "dc1"), ("", "dc3", "dc3"), ("?dc=dc2", "dc3", "dc2")],
)
async def test_update_is_sent_to_the_datacenter_that_is_named(
    query: str, body_dc: str, dc: str
) -> None:
    client = make_client(FakeRpc(Coordinate_Update=Empty()))
    body = {"Node": "far", "Segment": "", "Coord": {"Vec": [1, *[0] * 7], "Error": 1}}
    if body_dc:
        body["Datacenter"] = body_dc
    response = await client.put(f"/v1/coordinate/update{query}", body)
    assert (response.status, response.body) == (200, b"")
    assert "Content-Type" not in as_dict(response)
    asked = client.rpc.last
    assert isinstance(asked, CoordinateUpdateRequest)
    assert (asked.datacenter, asked.node) == (dc, "far")
    assert asked.coord is not None
    assert asked.coord.vec == (1.0, *[0.0] * 7)


async def test_what_is_wrong_with_an_update_is_said() -> None:
    client = make_client(FakeRpc(Coordinate_Update=RequestError("incompatible coordinate")))
    response = await client.put("/v1/coordinate/update", {"Node": "a"})
    assert (response.status, response.body) == (500, b"incompatible coordinate")
    response = await client.put("/v1/coordinate/update", {"Nodes": "a"})
    assert response.status == 400
    assert response.body == b'Request decode failed: json: unknown field "Nodes"'
    response = await client.get("/v1/coordinate/update")
    assert (response.status, as_dict(response)["Allow"]) == (405, "OPTIONS,PUT")


@pytest.mark.parametrize("path", ["nodes", "node/a"])
async def test_failed_query_has_the_headers_of_one(path: str) -> None:
    client = make_client(FakeRpc(Coordinate_ListNodes=NoLeader(), Coordinate_Node=NoLeader()))
    response = await client.get(f"/v1/coordinate/{path}")
    assert (response.status, response.body) == (500, b"No cluster leader")
    assert "X-Consul-Index" in as_dict(response)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "nodes"), ("GET", "node/a"), ("GET", "datacenters"), ("PUT", "update")],
)
async def test_agent_without_coordinates_says_so(method: str, path: str) -> None:
    client = make_client()
    client.local.coordinates_enabled = False
    response = await client.request(method, f"/v1/coordinate/{path}")
    assert (response.status, response.body) == (401, b"Coordinate support disabled")
    assert client.rpc.calls == []
