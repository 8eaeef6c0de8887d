"""Servers by datacenter, read from member tags."""

import math
from collections.abc import Mapping

import pytest

from isthmus.federation.router import (
    Router,
    ServerInfo,
    federation_states_supported,
    parse_server,
)
from isthmus.model.coordinate import ORIGIN, Coord, Coordinate, DatacenterMap
from support.coordinates import at

TAGS = {"role": "consul", "dc": "dc2", "port": "8300", "build": "1.10.11:", "vsn": "2"}


def make_server(name: str = "alpha.dc2", *, alive: bool = True, **tags: str) -> ServerInfo:
    server = parse_server(name, "10.0.0.1", {**TAGS, **tags}, alive=alive)
    assert server is not None
    return server


def test_server_is_read_from_its_tags() -> None:
    assert make_server(ft_fs="1", wan_join_port="8302") == ServerInfo(
        name="alpha.dc2",
        node="alpha",
        dc="dc2",
        host="10.0.0.1",
        port=8300,
        wan_join_port=8302,
        features=(("fs", 1),),
        build="1.10.11:",
    )


@pytest.mark.parametrize(
    "tags",
    [
        {"role": "node"},
        {"port": "x"},
        {"build": "dev"},
        {"vsn": ""},
        {"ft_fs": "yes"},
        {"expect": "three"},
    ],
)
def test_member_with_unreadable_tags_is_no_server(tags: dict[str, str]) -> None:
    assert parse_server("alpha.dc2", "10.0.0.1", {**TAGS, **tags}, alive=True) is None


def test_alive_servers_stand_before_failed_ones_and_failures_rotate() -> None:
    router = Router()
    servers = [make_server(f"{name}.dc2") for name in ("a", "b", "c")]
    assert [router.put(server) for server in servers] == [True, False, False]
    assert not router.put(servers[0])
    router.failed(servers[0], now=0.0)
    assert [server.node for server in router.servers("DC2")] == ["b", "c", "a"]
    router.put(make_server("b.dc2", alive=False))
    assert [server.node for server in router.servers("dc2")] == ["c", "a", "b"]


def order(router: Router, *, now: float = 0.0, **far: float) -> list[str]:
    """Nodes of dc2 in the order to try; seconds to each, where they are known."""
    found = router.in_order(
        "dc2", now=now, far=lambda name: far.get(name.partition(".")[0], math.inf)
    )
    return [server.node for server in found]


def three_servers() -> Router:
    router = Router()
    for name in ("a", "b", "c"):
        router.put(make_server(f"{name}.dc2"))
    return router


def test_nearest_server_comes_first() -> None:
    router = three_servers()
    assert order(router) == ["a", "b", "c"]
    assert order(router, a=0.3, b=0.1, c=0.2) == ["b", "c", "a"]
    assert order(router, c=9.0) == ["c", "a", "b"]


def test_servers_about_as_near_as_the_nearest_are_equal() -> None:
    router = three_servers()
    assert order(router, a=0.120, b=0.100, c=0.128) == ["a", "b", "c"]
    assert order(router, a=0.002, b=0.0001, c=0.0004) == ["a", "b", "c"]
    router.failed(make_server("a.dc2"), now=0.0)
    assert order(router, now=1e3, a=0.1, b=0.1, c=0.1) == ["b", "c", "a"]


def test_server_that_failed_cools_down_and_is_then_the_nearest_again() -> None:
    router = three_servers()
    nearest = make_server("a.dc2")
    distances = {"a": 0.1, "b": 0.5, "c": 0.5}
    router.failed(nearest, now=10.0)
    router.failed(nearest, now=10.0)  # Two calls at the same time are one failure.
    assert order(router, now=14.9, **distances) == ["b", "c", "a"]
    assert order(router, now=15.0, **distances) == ["a", "b", "c"]
    router.failed(nearest, now=15.0)
    assert order(router, now=24.9, **distances) == ["b", "c", "a"]
    router.answered(nearest)
    assert order(router, now=24.9, **distances) == ["a", "b", "c"]


def test_failed_member_is_tried_last() -> None:
    router = three_servers()
    router.put(make_server("a.dc2", alive=False))
    router.failed(make_server("b.dc2"), now=0.0)
    assert order(router, a=0.1, b=0.1, c=9.0) == ["c", "b", "a"]


def test_server_that_came_back_has_cooled_down() -> None:
    router = three_servers()
    router.failed(make_server("a.dc2"), now=0.0)
    router.put(make_server("a.dc2", alive=False))
    router.put(make_server("a.dc2"))
    assert order(router, a=0.1, b=0.9, c=0.9) == ["a", "b", "c"]


def test_datacenter_goes_with_its_last_server() -> None:
    router = Router()
    router.put(make_server("a.dc2"))
    router.put(make_server("b.dc2"))
    assert not router.remove("a.dc2", "dc2")
    assert not router.remove("zzz.dc2", "dc2")
    assert router.remove("b.dc2", "dc2")
    assert router.datacenters() == ()
    assert router.servers("dc2") == ()


def test_federation_states_need_every_server_of_both_datacenters() -> None:
    both = [make_server("a.dc2", ft_fs="1"), make_server("b.dc1", dc="dc1", ft_fs="1")]
    assert federation_states_supported(both, ["dc1", "DC2"])
    assert not federation_states_supported(both[:1], ["dc1", "dc2"])
    assert not federation_states_supported([*both, make_server("old.dc2")], ["dc1", "dc2"])
    elsewhere = make_server("old.dc3", dc="dc3")
    assert federation_states_supported([*both, elsewhere], ["dc1", "dc2"])


def wan(**coordinates: float) -> Mapping[str, Coord]:
    """Members ``a.dc1`` and so on, each so many seconds from the origin."""
    return {name.replace("_", "."): at(place) for name, place in coordinates.items()}


def spread(*names: str) -> Router:
    """A router that knows servers named ``node.dc``."""
    router = Router()
    for name in names:
        router.put(make_server(name, dc=name.partition(".")[2]))
    return router


@pytest.mark.parametrize(
    ("coordinates", "order"),
    [
        (wan(), ["dc3", "dc1", "dc2", "dc4"]),
        (wan(a_dc1=0.3, a_dc2=0.1, a_dc4=0.2), ["dc3", "dc2", "dc4", "dc1"]),
        (wan(a_dc1=0.1, a_dc2=0.1), ["dc3", "dc1", "dc2", "dc4"]),
        (wan(a_dc3=0.5, a_dc4=0.2), ["dc3", "dc4", "dc1", "dc2"]),
        (wan(a_dc2=0.0, stranger_dc9=0.0), ["dc3", "dc2", "dc1", "dc4"]),
    ],
)
def test_datacenters_are_sorted_by_distance_then_name_ours_first(
    coordinates: Mapping[str, Coord], order: list[str]
) -> None:
    router = spread("a.dc4", "a.dc2", "a.dc1", "a.dc3")
    found = router.datacenters_by_distance("DC3", origin=ORIGIN, coordinates=coordinates)
    assert list(found) == order


def test_datacenter_is_as_far_as_the_median_of_its_servers() -> None:
    router = spread("a.dc1", "b.dc1", "c.dc1", "a.dc2", "b.dc2")

    def order(**coordinates: float) -> tuple[str, ...]:
        return router.datacenters_by_distance("", origin=ORIGIN, coordinates=wan(**coordinates))

    near = {"a_dc2": 0.2, "b_dc2": 0.2}
    assert order(a_dc1=0.1, b_dc1=0.1, c_dc1=9.0, **near) == ("dc1", "dc2")
    assert order(a_dc1=0.1, b_dc1=9.0, c_dc1=9.0, **near) == ("dc2", "dc1")
    assert order(a_dc1=0.1, b_dc1=0.1, **near) == ("dc1", "dc2")  # The third is infinitely far.
    assert order(a_dc1=0.3, b_dc1=0.3, a_dc2=0.1) == ("dc1", "dc2")  # Of two the farther counts.


def test_maps_name_servers_without_their_datacenter_and_skip_the_unknown() -> None:
    router = spread("b.dc1", "a.dc1", "a.dc2")
    assert router.datacenter_maps(wan(a_dc1=0.1, b_dc1=0.2)) == (
        DatacenterMap(
            datacenter="dc1",
            area_id="wan",
            coordinates=(
                Coordinate(node="a", coord=at(0.1)),
                Coordinate(node="b", coord=at(0.2)),
            ),
        ),
        DatacenterMap(datacenter="dc2", area_id="wan", coordinates=()),
    )
