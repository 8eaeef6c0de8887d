"""Servers by datacenter, read from member tags."""

import pytest

from isthmus.federation.router import (
    Router,
    ServerInfo,
    federation_states_supported,
    parse_server,
)

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
    router.failed(servers[0])
    assert [server.node for server in router.servers("DC2")] == ["b", "c", "a"]
    router.put(make_server("b.dc2", alive=False))
    assert [server.node for server in router.servers("dc2")] == ["c", "a", "b"]


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
