"""Servers, engines and stores for tests: no network, no clock, every choice seeded."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from isthmus.engine.memory import MemoryEngine
from isthmus.engine.sqlite import SqliteEngine
from isthmus.server.endpoints import Forwarder, GossipPools
from isthmus.server.endpoints.context import WanView
from isthmus.server.server import Server, ServerConfig
from isthmus.store.engine import Engine
from isthmus.store.store import Store

CLUSTER = "11111111-2222-3333-4444-555555555555"
WALL = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_sqlite(
    directory: Path, *, datacenter: str = "dc1", cluster: str = CLUSTER
) -> SqliteEngine:
    """An engine over a directory, not open yet."""
    return SqliteEngine(directory, datacenter=datacenter, cluster=cluster, wall=lambda: WALL)


def make_server(
    engine: Engine | None = None,
    *,
    dc: str = "dc1",
    primary: str = "dc1",
    forward: Forwarder | None = None,
    enabled: Callable[[], bool] = lambda: True,
    gossip: GossipPools | None = None,
    wan: WanView | None = None,
) -> Server:
    """A server, not started yet; in memory unless an engine is given."""
    return Server(
        ServerConfig(
            datacenter=dc,
            primary_datacenter=primary,
            node_name="alpha",
            node_id="a0000000-0000-0000-0000-000000000001",
            rpc_address="127.0.0.1:8300",
        ),
        Store(),
        engine or MemoryEngine(),
        forward=forward,
        rng=Random(1),
        wall=lambda: WALL,
        federation_states_enabled=enabled,
        gossip=gossip,
        wan=wan,
    )
