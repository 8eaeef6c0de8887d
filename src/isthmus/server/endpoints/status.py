"""Who is there: ``Status``."""

from collections.abc import Mapping
from typing import Final

from isthmus.model.operator import RaftStats
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.server.endpoints.context import Context, Handler

_EMPTY: Final = Empty()


async def ping(context: Context, request: Empty) -> Empty:
    """Answer: we are alive."""
    return _EMPTY


async def leader(context: Context, request: DatacenterRequest) -> str:
    """``host:port`` of the leader's RPC port; empty without one. Never waits for a leader."""
    return context.leader()


async def peers(context: Context, request: DatacenterRequest) -> tuple[str, ...]:
    """``host:port`` of the RPC port of every server."""
    return context.peers()


async def raft_stats(context: Context, request: Empty) -> RaftStats:
    """How far our own copy of the data is."""
    return context.operator.stats()


METHODS: Final[Mapping[str, Handler]] = {
    "Ping": ping,
    "Leader": leader,
    "Peers": peers,
    "RaftStats": raft_stats,
}
