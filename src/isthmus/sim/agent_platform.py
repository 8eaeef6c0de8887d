"""What a whole agent stands on in the simulator instead of a machine (`agent/platform.py`)."""

import asyncio
import copy
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, TypeVar

from isthmus.agent.member import LocalMember
from isthmus.config.model import AgentConfig
from isthmus.engine.memory import MemoryEngine
from isthmus.errors import Unavailable
from isthmus.net.gossip import GossipRunner, Pool, PoolConfig, PoolEvent
from isthmus.net.gossip_driver import PoolDriver
from isthmus.net.gossip_pool import Mailbox
from isthmus.net.network import Network
from isthmus.net.tls import TlsConfig, TlsConfigurator
from isthmus.sim.fabric import Fabric, Host, HostNetwork
from isthmus.sim.loop import HostLoop
from isthmus.store.engine import Engine

T = TypeVar("T")

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""The calendar's moment 0 of every simulation."""


class Disk:
    """What outlives the program of a host.

    Args:
        cluster: UUID of its storage.
    """

    def __init__(self, cluster: str) -> None:
        self.engine = MemoryEngine(cluster=cluster)

    def seal(self) -> None:
        """Keep what is there: the program that wrote to it was killed, and reaches it no more."""
        self.engine = copy.copy(self.engine)
        vars(self.engine).update(copy.deepcopy(vars(self.engine)))


class GossipHere:
    """Runs gossip pools on the agent's one loop; implements `GossipRunner`.

    Args:
        network: How to listen and dial.
        entropy: Makes that many random bytes.
    """

    def __init__(self, network: Network, *, entropy: Callable[[int], bytes]) -> None:
        self._network, self._entropy = network, entropy
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drivers: dict[PoolDriver, None] = {}

    def start(self) -> None:
        """See `GossipRunner.start`."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """See `GossipRunner.stop`."""
        self._loop = None
        while self._drivers:
            driver, _ = self._drivers.popitem()
            await driver.close()

    async def open_pool(self, config: PoolConfig, *, on_event: Callable[[PoolEvent], None]) -> Pool:
        """See `GossipRunner.open_pool`."""
        mailbox = Mailbox(asyncio.get_running_loop(), on_event)
        driver = PoolDriver(config, self._network, mailbox, entropy=self._entropy)
        await driver.open()
        self._drivers[driver] = None
        return Pool(self, driver)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """See `GossipRunner.call`."""
        if self._loop is None:
            work.close()
            raise Unavailable("the gossip pools do not run")
        return await work

    def post(self, callback: Callable[[], None]) -> bool:
        """See `GossipRunner.post`."""
        if self._loop is None:
            return False
        self._loop.call_soon(callback)
        return True

    async def close_driver(self, driver: PoolDriver) -> None:
        """See `GossipRunner.close_driver`."""
        with suppress(KeyError):
            del self._drivers[driver]
        await driver.close()


class SimulatedMachine:
    """A simulated host as an agent sees it; implements `isthmus.agent.platform.Platform`.

    Args:
        fabric: The network.
        host: The host.
        loop: The agent's loop; the calendar follows its clock.
        disk: What outlives the agent.
        seed: Of every chance of this run of the agent.
    """

    def __init__(
        self, fabric: Fabric, host: Host, loop: HostLoop, disk: Disk, *, seed: str
    ) -> None:
        self._fabric, self._host, self._loop, self._disk = fabric, host, loop, disk
        self._rng = Random(seed)

    def entropy(self, size: int) -> bytes:
        """See `Platform.entropy`."""
        return self._rng.randbytes(size)

    def wall(self) -> datetime:
        """See `Platform.wall`."""
        return EPOCH + timedelta(seconds=self._loop.time())

    @property
    def host_name(self) -> str:
        """See `Platform.host_name`."""
        return self._host.name

    def tls(self, config: TlsConfig) -> TlsConfigurator:
        """The names of files; nothing is read."""
        return TlsConfigurator(config, read_files=False)

    def network(self, tls: TlsConfigurator) -> Network:
        """See `Platform.network`."""
        made = HostNetwork(self._fabric, self._host, entropy=self.entropy, tls=tls)
        self._loop.network = made
        return made

    def gossip(
        self, network: Network, *, on_failure: Callable[[BaseException], None]
    ) -> GossipRunner:
        """No thread; a defect is one of the loop's."""
        return GossipHere(network, entropy=self.entropy)

    def engine(self, config: AgentConfig) -> Engine:
        """See `Platform.engine`."""
        return self._disk.engine

    def member(self, config: AgentConfig, node_id: str) -> LocalMember:
        """There is no etcd in a simulation: its servers share an engine in memory."""
        raise NotImplementedError("a simulated server runs no etcd")

    def started(self) -> None:
        """Nothing to do: other agents live beside this one."""
