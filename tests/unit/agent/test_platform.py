import datetime
from pathlib import Path

from isthmus.agent.platform import Machine
from isthmus.config.model import AgentConfig
from isthmus.engine.memory import MemoryEngine
from isthmus.engine.sqlite import SqliteEngine
from isthmus.net.gossip import GossipThread
from isthmus.net.sockets import SocketNetwork
from isthmus.net.tls import TlsConfig

WALL = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def test_given_clock_and_chance_are_used() -> None:
    machine = Machine(entropy=bytes, wall=lambda: WALL)
    assert machine.wall() == WALL
    assert machine.entropy(3) == b"\0\0\0"


def test_machine_has_its_own_clock_and_chance() -> None:
    machine = Machine()
    assert machine.wall().tzinfo is datetime.UTC
    assert machine.wall() > WALL
    assert machine.entropy(16) != machine.entropy(16)
    assert machine.host_name


def test_machine_has_sockets_threads_and_disk(tmp_path: Path) -> None:
    machine = Machine()
    network = machine.network(machine.tls(TlsConfig()))
    assert isinstance(network, SocketNetwork)
    assert isinstance(machine.gossip(network, on_failure=lambda error: None), GossipThread)
    assert isinstance(machine.engine(AgentConfig()), MemoryEngine)
    assert isinstance(machine.engine(AgentConfig(data_dir=tmp_path)), SqliteEngine)
