"""What is built, and what cannot be."""

import pytest

from isthmus.sim.network import LinkModel
from isthmus.sim.topology import HOSTS_MAX, Host, Role, Topology


def test_hosts_are_named_by_datacenter_role_and_number() -> None:
    topology = Topology(datacenters=2, servers=2)
    assert [host.name for host in topology.hosts(Role.SERVER)] == [
        "server1.dc1",
        "server2.dc1",
        "server1.dc2",
        "server2.dc2",
    ]
    assert str(Host("dc2", Role.GATEWAY, 1)) == "gateway 1 of dc2"


def test_the_first_datacenter_is_the_primary() -> None:
    topology = Topology(datacenters=4)
    assert (topology.primary, topology.last, topology.names[0]) == ("dc1", "dc4", "dc1")


@pytest.mark.parametrize(
    ("name", "number"),
    [("dc1", 1), ("dc3", 3), *((name, None) for name in ("dc4", "dc0", "dc01", "xdc1", "dc"))],
)
def test_only_datacenters_there_are_have_a_number(name: str, number: int | None) -> None:
    assert Topology(datacenters=3).number_of(name) == number


def test_pairs_differ_and_all_other_links_are_as_wan_or_lan_says() -> None:
    slow = LinkModel(median=0.3)
    topology = Topology(pairs={("dc1", "dc3"): slow})
    assert topology.link("dc1", "dc3") is slow
    assert topology.link("dc3", "dc1") is topology.wan
    assert topology.link("dc2", "dc2") is topology.lan


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"datacenters": 0}, "datacenters: 0 is not within 1 to 2000"),
        ({"servers": 10}, "servers: 10 is not within 1 to 9"),
        ({"gateways": 0}, "gateways: 0 is not within 1 to 9"),
        ({"datacenters": 20, "clients": 5000}, f"100100 hosts; the simulator holds {HOSTS_MAX}"),
        ({"pairs": {("dc1", "dc9"): LinkModel()}}, "links: there is no dc9; there are dc1 to dc3"),
        ({"pairs": {("dc1", "dc1"): LinkModel()}}, "links: dc1 to itself is its LAN"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Topology(**changes)  # type: ignore[arg-type]
