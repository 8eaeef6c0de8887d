"""Several servers of one datacenter over one storage in memory, connected without a network."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from isthmus.engine.memory import MemoryEngine, MemoryStorage
from isthmus.errors import DialFailed, RemoteError, RequestError, Unavailable
from isthmus.model.record import Record
from isthmus.net.client import ServerTarget
from isthmus.server.election import Alone
from isthmus.server.operator import LanServer
from isthmus.server.server import Server, ServerConfig
from isthmus.store.engine import Engine, LeaderInfo
from isthmus.store.store import Store
from support.servers import CLUSTER, WALL


class Chosen:
    """An election by decree: who is named leads, whoever holds the key."""

    def __init__(self, own: str) -> None:
        self.own, self.winner = own, ""

    def may_claim(self, leader: LeaderInfo | None, *, now: float) -> bool:
        return leader is None and self.winner == self.own

    def may_preempt(self, leader: LeaderInfo) -> bool:
        return self.winner == self.own


class Wires:
    """Calls from server to server."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.cut: set[str] = set()
        self.calls: list[tuple[str, str]] = []

    async def call(
        self,
        target: ServerTarget,
        method: str,
        request: Record,
        reply_type: Any,
        *,
        timeout: float,
        repeatable: bool = False,
    ) -> Any:
        server = self.servers.get(target.node)
        if server is None or target.node in self.cut:
            raise DialFailed("refused", dc="", node=target.node, gateway="", step="connect")
        self.calls.append((target.node, method))
        await asyncio.sleep(0.001)
        try:
            return await server.call(method, request)
        except (RequestError, Unavailable) as error:
            raise RemoteError(str(error)) from error


class Cluster:
    """Servers ``s1`` … over one storage.

    Args:
        count: How many.
        chosen: With elections by decree, see `elect`.
        engine: Makes the engine of each; None: in memory.
    """

    def __init__(
        self, count: int, *, chosen: bool = False, engine: Callable[[], Engine] | None = None
    ) -> None:
        storage = MemoryStorage(cluster=CLUSTER)
        self.storage = storage
        self.wires = Wires()
        self.elections: dict[str, Chosen] = {}
        self.changes: list[str] = []
        self.votes = {f"id-s{number}": True for number in range(1, count + 1)}
        self.failed: set[str] = set()
        for number in range(1, count + 1):
            name = f"s{number}"
            rng = Random(number)
            election = self.elections[name] = Chosen(name)
            self.wires.servers[name] = Server(
                ServerConfig(
                    datacenter="dc1",
                    node_name=name,
                    node_id=f"id-{name}",
                    rpc_address=f"10.0.0.{number}:8300",
                ),
                Store(),
                engine() if engine else MemoryEngine(storage=storage),
                forward=None,
                rng=rng,
                wall=lambda: WALL,
                election=election if chosen else Alone(rng, delay_max=0.5),
                peers=self.wires,
                leadership_changed=lambda name=name: self.changes.append(name),  # type: ignore[misc]
                storage_servers=self,
                lan_servers=self.lan_servers,
            )

    def __getitem__(self, name: str) -> Server:
        return self.wires.servers[name]

    @property
    def servers(self) -> list[Server]:
        """All that run."""
        return list(self.wires.servers.values())

    @property
    def leaders(self) -> list[str]:
        """Who accepts writes."""
        return [server.config.node_name for server in self.servers if server.is_leader]

    async def start(self) -> None:
        """Start all."""
        for server in self.servers:
            await server.start()

    async def stop(self) -> None:
        """Stop all."""
        for server in self.servers:
            await server.stop()

    def lan_servers(self) -> list[LanServer]:
        """What the LAN pool would say."""
        return [
            LanServer(
                server_id=server.config.node_id,
                node=name,
                address=server.config.rpc_address,
                alive=name not in self.failed,
                version="1.10.11",
            )
            for name, server in self.wires.servers.items()
        ]

    async def voters(self) -> dict[str, bool]:
        """What the storage would say."""
        return dict(self.votes)

    async def remove(self, server_id: str) -> None:
        """Let a server go, but not the last but one."""
        if len(self.votes) <= 2:
            raise RequestError("the storage does not let it go: unhealthy cluster")
        del self.votes[server_id]

    def elect(self, name: str) -> None:
        """Have one lead, by decree."""
        for election in self.elections.values():
            election.winner = name

    async def until(self, check: Callable[[], bool], *, timeout: float = 20.0) -> None:
        """Wait for something to be true."""
        async with asyncio.timeout(timeout):
            while not check():  # noqa: ASYNC110 (virtual time)
                await asyncio.sleep(0.01)
