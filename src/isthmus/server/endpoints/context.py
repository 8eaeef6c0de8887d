"""What every endpoint works with, and the steps that reads share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Protocol, TypeAlias, TypeVar

from isthmus.errors import RequestError, Unavailable
from isthmus.model.coordinate import Coordinate, DatacenterMap
from isthmus.model.diagnosis import FederationReport
from isthmus.model.keyring import KeyringRequest, KeyringResponse
from isthmus.model.query import QueryOptions
from isthmus.model.session import Session
from isthmus.model.snapshot import (
    SnapshotPiece,
    SnapshotReadRequest,
    SnapshotWriteReply,
    SnapshotWriteRequest,
)
from isthmus.model.storage import StorageReply, StorageRequest
from isthmus.server.blocking import Blocking
from isthmus.server.failover import Failover
from isthmus.server.operator import Operator
from isthmus.store.answer import Answer
from isthmus.store.commands import Command
from isthmus.store.store import Store
from isthmus.units import Duration

T = TypeVar("T")

_NO_POOL = "this server is in no gossip pool now"

Handler: TypeAlias = Callable[["Context", Any], Awaitable[object]]


class Forwarder(Protocol):
    """Carries calls to servers of other datacenters."""

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        """Have a server of `dc` answer.

        Raises:
            NoPathToDatacenter: No server of it is known.
            IsthmusError: The call failed; the text says where.
        """

    def datacenters(self) -> tuple[str, ...]:
        """Datacenters that have servers."""


class GossipPools(Protocol):
    """The gossip pools that this server is a member of."""

    async def fire(self, name: str, payload: bytes) -> None:
        """Tell the members of the LAN pool a user event.

        Raises:
            RequestError: It is too long; nothing was sent.
            Unavailable: There is no pool now.
        """

    async def keys(self, request: KeyringRequest, *, wan: bool) -> KeyringResponse | None:
        """Have the members of a pool do something with their keys; return what they said.

        Returns:
            None when this server is in no WAN pool and that was asked for.

        Raises:
            Unavailable: There is no pool now.
        """


class NoPools:
    """The pools of a server that is in none."""

    async def fire(self, name: str, payload: bytes) -> None:
        """Refuse."""
        raise Unavailable(_NO_POOL)

    async def keys(self, request: KeyringRequest, *, wan: bool) -> KeyringResponse | None:
        """Refuse."""
        raise Unavailable(_NO_POOL)


StorageAnswer: TypeAlias = Callable[[StorageRequest], Awaitable[StorageReply]]


async def no_storage(request: StorageRequest) -> StorageReply:
    """Refuse: this server forms no storage cluster.

    Raises:
        RequestError: Always.
    """
    raise RequestError("this server takes part in no storage cluster")


class SnapshotDesk(Protocol):
    """Takes and restores snapshots."""

    async def read(self, request: SnapshotReadRequest) -> SnapshotPiece:
        """A step of saving."""

    async def write(self, request: SnapshotWriteRequest) -> SnapshotWriteReply:
        """A step of restoring."""


class WanView(Protocol):
    """Where the servers of all datacenters lie, as our WAN pool knows it."""

    def datacenters(self) -> tuple[str, ...]:
        """Datacenters that have servers, nearest first."""

    def maps(self) -> tuple[DatacenterMap, ...]:
        """Coordinates of the servers of each datacenter."""


@dataclass(frozen=True, slots=True)
class Context:
    """What endpoints work with.

    Attributes:
        dc: Our datacenter.
        store: Tables to read.
        blocking: Waits on behalf of reads.
        commit: Makes a command durable and returns its result.
        confirm: Returns if this server surely leads.
        leader: ``host:port`` of the leader's RPC port; empty without one.
        peers: The same of all servers of the datacenter.
        datacenters: Known datacenters, nearest first.
        note_coordinate: Takes where a node lies, to be stored soon.
        datacenter_maps: Where the servers of each datacenter lie.
        federation_states_enabled: Whether all servers concerned support federation states.
        wall: Reads the calendar clock.
        report: Says how the federation fares, as this server sees it.
        gossip: The pools that this server is a member of.
        remote: Carries calls to other datacenters; None when there is no way to any.
        operator: Knows the servers of our datacenter, for operators.
        snapshots: Takes and restores snapshots.
        storage: Answers other servers that form a storage cluster with us.
        rng: Source of random orders and ids.
        failover: Executes prepared queries in other datacenters.
        renew_session: Gives a session its whole time again; False when it is just being ended.
        session_ttl_min: Shortest time to live that a session may have.
    """

    dc: str
    store: Store
    blocking: Blocking
    commit: Callable[[Command], Awaitable[object]]
    confirm: Callable[[], Awaitable[None]]
    leader: Callable[[], str]
    peers: Callable[[], tuple[str, ...]]
    datacenters: Callable[[], tuple[str, ...]]
    note_coordinate: Callable[[Coordinate], None]
    datacenter_maps: Callable[[], tuple[DatacenterMap, ...]]
    operator: Operator
    snapshots: SnapshotDesk
    rng: Random
    failover: Failover
    renew_session: Callable[[Session], bool]
    session_ttl_min: Duration
    federation_states_enabled: Callable[[], bool]
    wall: Callable[[], datetime]
    report: Callable[[], FederationReport] = FederationReport
    gossip: GossipPools = field(default_factory=NoPools)
    remote: Forwarder | None = None
    storage: StorageAnswer = no_storage

    async def read(self, request: QueryOptions, read: Callable[[], Answer[T]]) -> Answer[T]:
        """Answer a read with the consistency and the patience that its caller asks for."""
        if request.require_consistent:
            await self.confirm()
        if request.min_query_index:
            return await self.blocking.answer(read, request)
        return read()
