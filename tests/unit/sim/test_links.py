"""Kept connections that carry gossip."""

from collections.abc import Callable
from random import Random

from isthmus.sim.gateways import Connection
from isthmus.sim.links import CARRIER, Links
from isthmus.sim.network import Machine, Network
from isthmus.sim.ways import NoWay, Way


class Around:
    """Counts dials; leads to every server of dc1 but those that are gone."""

    def __init__(self) -> None:
        network = Network(Random(1))
        self.path = tuple(network.add(name, "dc1") for name in ("a", "gateway1", "b"))
        self.dials: list[str] = []
        self.gone: set[str] = set()
        self.opened: list[Connection] = []

    def dial(self, dc: str, node: str) -> Way | NoWay:
        self.dials.append(f"{node}.{dc}")
        if node in self.gone:
            return NoWay((), 0.0, "gone", hangs=False)
        return Way(self.path, (), (), "", 0.1)

    def connect(self, way: Way, lost: Callable[[], None]) -> Connection:
        self.opened.append(Connection(way.path, [], (), lambda delay: lost()))
        return self.opened[-1]


def path(links: Links, name: str, now: float = 0.0) -> tuple[Machine, ...] | None:
    return links.path(name, now=now)


def test_connection_is_kept_for_the_next_packet() -> None:
    around = Around()
    links = Links(around)
    assert path(links, "server1.dc1") == path(links, "server1.dc1", 30.0) == around.path
    assert around.dials == ["server1.dc1"]


def test_each_name_has_a_connection_of_its_own() -> None:
    around = Around()
    links = Links(around)
    path(links, "server1.dc1")
    path(links, "server2.dc1")
    assert (around.dials, len(links)) == (["server1.dc1", "server2.dc1"], 2)


def test_broken_connection_is_dialled_anew() -> None:
    around = Around()
    links = Links(around)
    path(links, "server1.dc1")
    around.opened[0].close()
    assert path(links, "server1.dc1") == around.path
    assert len(around.dials) == 2


def test_failed_dial_is_no_way_and_is_tried_again() -> None:
    around = Around()
    around.gone.add("server1")
    links = Links(around)
    assert path(links, "server1.dc1") is None
    around.gone.clear()
    assert path(links, "server1.dc1") == around.path


def test_idle_connections_are_closed() -> None:
    around = Around()
    links = Links(around)
    path(links, "server1.dc1", 0.0)
    path(links, "server2.dc1", 30.0)
    links.sweep(now=CARRIER.idle_timeout)
    assert [connection.is_open for connection in around.opened] == [False, True]
    assert len(links) == 1


def test_end_of_the_process_closes_all() -> None:
    around = Around()
    links = Links(around)
    path(links, "server1.dc1")
    links.close()
    assert (len(links), around.opened[0].is_open) == (0, False)
