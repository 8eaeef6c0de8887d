"""Connections through gateways, and what a gateway says of itself."""

from itertools import pairwise
from random import Random

from isthmus.federation.locator import usable_addresses
from isthmus.sim.gateways import Connection, Gateway, outside_address
from isthmus.sim.network import Network
from isthmus.sim.topology import Host, Role
from isthmus.sim.world import Process


class Path:
    """A server of dc2, a gateway of each side, a server of dc1; and a connection over them."""

    def __init__(self) -> None:
        self.network = Network(Random(1))
        names = ("server1.dc2", "gateway1.dc2", "gateway1.dc1", "server1.dc1")
        self.machines = tuple(self.network.add(name, name.rpartition(".")[2]) for name in names)
        self.gateways = tuple(
            Gateway(Host(machine.group, Role.GATEWAY, 1), Process(machine.name, machine))
            for machine in self.machines[1:3]
        )
        self.inbound: dict[Connection, None] = {}
        self.told: list[float] = []
        holders = [*(gateway.connections for gateway in self.gateways), self.inbound]
        self.connection = Connection(self.machines, holders, self.gateways, self.told.append)

    def held(self) -> list[int]:
        tables = (*(gateway.connections for gateway in self.gateways), self.inbound)
        return [len(table) for table in tables]


def test_open_connection_counts_at_every_gateway_and_at_its_end() -> None:
    path = Path()
    assert path.held() == [1, 1, 1]
    path.connection.carried(100)
    path.connection.carried(20)
    assert [gateway.forwarded_size for gateway in path.gateways] == [120, 120]


def test_closed_connection_counts_nowhere_and_nobody_is_told() -> None:
    path = Path()
    path.connection.close()
    path.connection.close()
    assert (path.held(), path.told, path.connection.is_open) == ([0, 0, 0], [], False)


def test_dialler_hears_of_a_break_as_fast_as_the_news_travel() -> None:
    path = Path()
    path.connection.break_at(path.machines[2], path.network)
    way = list(reversed(path.machines[:3]))
    assert path.told == [sum(path.network.latency(*hop) for hop in pairwise(way))]
    assert path.held() == [0, 0, 0]


def test_break_behind_a_cut_is_noticed_by_the_next_message_after_it_heals() -> None:
    path = Path()
    path.network.cut("dc1", "dc2")
    path.connection.break_at(path.machines[2], path.network)
    assert path.told == []
    path.network.cut(path.machines[0].name, path.machines[1].name)
    assert not path.connection.usable(path.network)
    assert path.told == []
    path.network.heal_all()
    assert not path.connection.usable(path.network)
    assert len(path.told) == 1


def test_record_has_the_address_for_each_side() -> None:
    gateway = Path().gateways[1]
    gateway.modify_index = 5
    inside, outside = gateway.addresses
    assert usable_addresses((gateway.record(),), wan=False) == (inside,)
    assert usable_addresses((gateway.record(),), wan=True) == (outside,)
    assert outside == f"{outside_address(gateway.machine)}:8443"


def test_gateway_whose_check_fails_is_not_usable() -> None:
    gateway = Path().gateways[1]
    gateway.critical = True
    assert usable_addresses((gateway.record(),), wan=True) == ()
