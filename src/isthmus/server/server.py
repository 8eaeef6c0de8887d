"""One server of a datacenter: every door's calls come in here, and reach the store or elsewhere.

Doors in the same process, servers of other datacenters and the leader's duties all use
`Server.call`. A call about another datacenter is forwarded; the rest is answered from memory,
and written through the committer. Source: protocol/rpc.md §6, §7.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from random import Random
from typing import Any, Final

import msgspec

from isthmus.errors import InvalidRequest, NoPathToDatacenter, RequestError
from isthmus.model.catalog import CheckServiceNode
from isthmus.model.config_entry import ConfigEntry
from isthmus.model.diagnosis import FederationReport
from isthmus.model.federation import FederationState, FederationStateRequest
from isthmus.model.methods import METHODS
from isthmus.model.operator import AutopilotHealthReply
from isthmus.model.query import QueryMeta
from isthmus.model.record import Record
from isthmus.model.session import TTL_MIN
from isthmus.model.timing import Timing
from isthmus.names import MESH_GATEWAY_KIND
from isthmus.net.listener import PeerInfo
from isthmus.net.tasks import TaskScope
from isthmus.server.blocking import QUERY_TIME, QUERY_TIME_MAX, Blocking
from isthmus.server.coordinates import CoordinateUpdates
from isthmus.server.election import Alone, Election
from isthmus.server.endpoints import HANDLERS, Context, Forwarder, GossipPools, Handler, NoPools
from isthmus.server.endpoints.context import StorageAnswer, WanView, no_storage
from isthmus.server.endpoints.federation_state import check_writer
from isthmus.server.endpoints.isthmus import check_server
from isthmus.server.failover import Failover
from isthmus.server.forward import HOLD_TIME, RemoteCaller
from isthmus.server.leader_search import LeaderSearch
from isthmus.server.operator import LanServer, Operator, StorageServers
from isthmus.server.relay import LeaderRelay
from isthmus.server.replica import Replica
from isthmus.server.sessions import SessionTimers
from isthmus.server.snapshot import SnapshotConfig, Snapshots
from isthmus.store.commands import Command
from isthmus.store.engine import Engine, LeaderInfo
from isthmus.store.store import Store
from isthmus.units import Duration

_logger = logging.getLogger(__name__)

_SERVICES: Final = frozenset(name.partition(".")[0] for name in METHODS)
_TIMED: Final = frozenset(
    {
        "Catalog.Deregister",
        "Catalog.Register",
        "KVS.Apply",
        "PreparedQuery.Apply",
        "PreparedQuery.Execute",
        "PreparedQuery.ExecuteRemote",
        "PreparedQuery.Explain",
        "Session.Apply",
        "Session.Renew",
        "Txn.Apply",
        "Txn.Read",
        *(name for name in METHODS if name.startswith(("FederationState.", "ConfigEntry."))),
    }
)
"""Calls whose duration is told: writes, and reads that are seldom."""
_WRITES_TIMED_MAX: Final = 4096
"""Datacenters and operations that are told apart; far more than any federation has."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a server must know of itself; times in seconds.

    Attributes:
        datacenter: Our datacenter.
        primary_datacenter: Where federation states and config entries are written; empty means
            here.
        node_name: Our node.
        node_id: Its UUID.
        rpc_address: ``host:port`` that others reach our RPC port at.
        default_query_time: How long a blocking query waits that does not say.
        max_query_time: Longest wait that a caller may ask for.
        session_ttl_min: Shortest time to live of a session.
        hold_time: How long a call waits for a leader.
    """

    datacenter: str
    node_name: str
    rpc_address: str
    primary_datacenter: str = ""
    node_id: str = ""
    default_query_time: float = QUERY_TIME
    max_query_time: float = QUERY_TIME_MAX
    session_ttl_min: float = TTL_MIN.seconds
    hold_time: float = HOLD_TIME

    def __post_init__(self) -> None:
        """Check the relations between the values."""
        assert self.datacenter
        assert 0 < self.default_query_time <= self.max_query_time
        assert self.session_ttl_min >= 0
        assert self.hold_time > 0

    @property
    def primary(self) -> str:
        """The primary datacenter."""
        return self.primary_datacenter or self.datacenter


class Server:
    """A server: its store, its engine, its endpoints.

    Attributes:
        sessions: Ends sessions that outlived their time.
        search: Finds the leader when our own storage does not tell who it is.
        call_counts: Calls since the start by method, forwarded ones included.
        request_count: Those of them that came over the network.
        timings: Of calls of `_TIMED` methods that were answered here, by method; a read that
            blocked counts with its wait.
        commits: Of writes to our own store until they were durable.
        write_timings: Of writes of federation states to our own store until they were durable, by
            datacenter and operation.

    Args:
        config: What it must know of itself.
        store: Empty tables; `start` fills them from the engine.
        engine: Where writes become durable.
        forward: Carries calls to other datacenters; None when there is no way to any.
        rng: Source of jitter and of batch ids.
        wall: Reads the calendar clock.
        federation_states_enabled: Whether all servers concerned support federation states;
            asked at each use.
        wan: Says where other datacenters lie; None when nothing is known of that.
        report: Says how the federation fares, as this server sees it.
        gossip: The pools that this server is a member of.
        election: When to lead; None: whenever nobody does.
        peers: Calls other servers of our datacenter; None: there is none.
        leadership_changed: Called when we begin or cease to lead, or another server does.
        storage_servers: Who keeps the data; None: we alone.
        lan_servers: All servers of the LAN pool, us included; None: we alone.
        storage: Answers other servers that form a storage cluster with us.
        snapshots: Where files of snapshots are kept, and how large they may get.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        engine: Engine,
        *,
        forward: Forwarder | None,
        rng: Random,
        wall: Callable[[], datetime],
        federation_states_enabled: Callable[[], bool] = lambda: True,
        report: Callable[[], FederationReport] = FederationReport,
        wan: WanView | None = None,
        gossip: GossipPools | None = None,
        election: Election | None = None,
        peers: RemoteCaller | None = None,
        leadership_changed: Callable[[], None] = lambda: None,
        storage: StorageAnswer | None = None,
        snapshots: SnapshotConfig | None = None,
        storage_servers: StorageServers | None = None,
        lan_servers: Callable[[], Sequence[LanServer]] | None = None,
    ) -> None:
        self.config: Final = config
        self.store: Final = store
        self.blocking: Final = Blocking(
            store.watches,
            rng=rng,
            query_time=config.default_query_time,
            query_time_max=config.max_query_time,
        )
        self._forward, self._wan = forward, wan
        self._rng = rng
        self._leadership_changed = leadership_changed
        self._tasks = TaskScope()
        self.sessions: Final = SessionTimers(
            store.sessions, store.lock_delays, commit=self.apply, dc=config.datacenter
        )
        self.replica: Final = Replica(
            store,
            engine,
            info=LeaderInfo(config.node_id, config.node_name, config.rpc_address),
            election=election or Alone(rng),
            rng=rng,
            changed=self._note_leadership,
        )
        own = LanServer(
            server_id=config.node_id,
            node=config.node_name,
            address=config.rpc_address,
            alive=True,
        )
        everyone = lan_servers or (lambda: (own,))
        self.search: Final = LeaderSearch(
            peers, servers=everyone, own_id=config.node_id, dc=config.datacenter
        )
        self._relay = LeaderRelay(
            self.replica,
            caller=peers,
            search=self.search,
            dc=config.datacenter,
            server_id=config.node_id,
            rng=rng,
            hold_time=config.hold_time,
        )
        self._coordinates = CoordinateUpdates(self.apply)
        self.operator: Final = Operator(
            dc=config.datacenter,
            own_id=config.node_id,
            replica=self.replica,
            settings=store.autopilot.get,
            storage=storage_servers or _OneServer(config.node_id),
            servers=everyone,
            caller=peers,
            wall=wall,
        )
        self.snapshots: Final = Snapshots(
            snapshots or SnapshotConfig(),
            self.replica,
            commit=self.apply,
            dc=config.datacenter,
            primary=config.primary,
            rng=rng,
            wall=wall,
        )
        self._context = Context(
            dc=config.datacenter,
            store=store,
            blocking=self.blocking,
            commit=self.apply,
            confirm=self.replica.confirm,
            leader=lambda: self.leader_address,
            peers=lambda: tuple(sorted(server.address for server in everyone() if server.alive)),
            operator=self.operator,
            snapshots=self.snapshots,
            datacenters=self.datacenters,
            note_coordinate=self._coordinates.add,
            datacenter_maps=wan.maps if wan is not None else tuple,
            federation_states_enabled=federation_states_enabled,
            wall=wall,
            report=report,
            gossip=NoPools() if gossip is None else gossip,
            remote=forward,
            storage=storage or no_storage,
            rng=rng,
            failover=Failover(config.datacenter, datacenters=self.datacenters, remote=forward),
            renew_session=self.sessions.renew,
            session_ttl_min=Duration.of(config.session_ttl_min),
        )
        self.call_counts: Final = dict.fromkeys(HANDLERS, 0)
        self.request_count = 0
        self.timings: Final = {name: Timing() for name in HANDLERS if name in _TIMED}
        self.commits: Final = Timing()
        self.write_timings: Final[dict[tuple[str, str], Timing]] = {}
        self._routes: Mapping[str, tuple[Handler, Callable[[Any], str]]] = {
            method: (
                _timed(handler, self.timings[method]) if method in self.timings else handler,
                self._target_of(method),
            )
            for method, handler in HANDLERS.items()
        }

    @property
    def engine(self) -> Engine:
        """Where writes become durable."""
        return self.replica.engine

    # Life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the engine, load the tables, lead if that is our part.

        Raises:
            EngineError: The storage cannot be used; the class says why. Nothing is left open.
        """
        await self.replica.start()
        self._tasks.spawn(self._coordinates.run())
        self._tasks.spawn(self.operator.watch())
        self._tasks.spawn(self.sessions.run())
        _logger.info("storage loaded", extra={"index": self.store.index, **self.store.row_counts()})

    async def stop(self) -> None:
        """Release blocked reads, refuse queued writes, finish the batch in flight, close."""
        self._relay.close()
        await self.search.close()
        self.blocking.close()
        await self.snapshots.close()
        await self._tasks.close()
        await self.replica.stop()

    # Who leads --------------------------------------------------------------------------------

    def _note_leadership(self) -> None:
        self.sessions.lead(self.replica.is_leader)
        self._leadership_changed()

    @property
    def autopilot(self) -> AutopilotHealthReply | None:
        """How the datacenter's servers were when we last looked; None if we do not lead."""
        return self.operator.seen if self.is_leader else None

    @property
    def is_leader(self) -> bool:
        """Whether this server accepts writes."""
        return self.replica.is_leader

    @property
    def leader_address(self) -> str:
        """``host:port`` of the leader's RPC port; empty without a leader.

        Nor is there one that we know of while we lead and could not confirm it for a while.
        """
        leader = self.replica.leader
        if leader is None:
            return ""
        is_other = leader.server_id != self.config.node_id
        return leader.address if is_other or self.replica.is_sure() else ""

    def datacenters(self) -> tuple[str, ...]:
        """Datacenters that have servers, nearest first; ours is always among them."""
        known: tuple[str, ...] = ()
        if self._wan is not None:
            known = self._wan.datacenters()
        elif self._forward is not None:
            known = self._forward.datacenters()
        own = self.config.datacenter
        return known if own in known else (own, *known)

    # Calls ------------------------------------------------------------------------------------

    def request_type(self, method: str) -> type[Record]:
        """Type of a method's argument.

        Raises:
            RequestError: There is no such method; the text is Go's.
        """
        if method not in self._routes:
            raise _unknown(method)
        return METHODS[method].request

    async def call(self, method: str, request: Any, peer: object = None) -> Any:
        """Answer one call; the type of the reply is `METHODS[method].reply`.

        Args:
            method: Name on the wire, such as ``KVS.Get``.
            request: Record of the method's request type.
            peer: Who calls, if it came over the network.

        Raises:
            RequestError: There is no such method, the request is wrong, or the peer may not.
            Unavailable: No leader here, or no way to the datacenter asked for.
            EngineError: A write failed; the class says what is known.
        """
        route = self._routes.get(method)
        if route is None:
            raise _unknown(method)
        self.call_counts[method] += 1
        if isinstance(peer, PeerInfo):
            self.request_count += 1
            if method == _APPLY:
                check_writer(request, peer, dc=self.config.datacenter)
            elif method == _STORAGE:
                check_server(peer)
        handler, target = route
        dc = target(request)
        if dc and dc != self.config.datacenter:
            return await self._forwarded(dc, method, request)
        if not self.engine.shared or METHODS[method].local or METHODS[method].anywhere:
            return await handler(self._context, request)
        stale = METHODS[method].may_be_stale and getattr(request, "allow_stale", False)
        if stale and self.replica.is_loaded:
            return self._dated(await handler(self._context, request))
        return await self._relay.call(method, request, lambda: handler(self._context, request))

    def version(self) -> int | None:
        """Version of our tables, if a read of the default mode may be answered from them now."""
        return self.store.version if self.replica.is_sure() else None

    def note_repeat(self, method: str) -> None:
        """Count a call that was not made, since its answer could be given again."""
        self.call_counts[method] += 1

    def _dated(self, reply: object) -> object:
        """A reply of a server that need not lead, with how old its data may be.

        A leader that could not confirm for a while that it leads may have been replaced.
        """
        if not isinstance(reply, QueryMeta) or self.replica.is_sure():
            return reply
        return msgspec.structs.replace(
            reply,
            last_contact=Duration.of(self.replica.last_contact),
            known_leader=bool(self.leader_address),
        )

    async def apply(self, command: Command) -> object:
        """Make a command durable in our own store, unchecked; return its result.

        For duties of the leader, whose writes are not requests. Raises as `Committer.submit`.
        """
        clock = asyncio.get_running_loop()
        started = clock.time()
        result = await self.replica.submit(command)
        seconds = clock.time() - started
        self.commits.add(seconds)
        if isinstance(command, FederationStateRequest) and command.state is not None:
            self._note_write(command.state.datacenter, command.op, seconds)
        return result

    def _note_write(self, dc: str, operation: str, seconds: float) -> None:
        key = (dc.lower(), operation)
        if key in self.write_timings or len(self.write_timings) < _WRITES_TIMED_MAX:
            self.write_timings.setdefault(key, Timing()).add(seconds)

    async def _forwarded(self, dc: str, method: str, request: Record) -> object:
        if self._forward is None:
            raise NoPathToDatacenter(dc)
        if method in _TO_PRIMARY:
            request = msgspec.structs.replace(request, datacenter=dc)
        return await self._forward.call(dc, method, request, METHODS[method].reply)

    def _target_of(self, method: str) -> Callable[[Any], str]:
        """How to see which datacenter must answer; ``""`` is this one."""
        if METHODS[method].local:
            return lambda request: ""
        if method in _TO_PRIMARY:
            primary = self.config.primary
            return lambda request: primary
        return attrgetter("target_datacenter" if method == _GET else "datacenter")

    # What duties watch ------------------------------------------------------------------------

    async def federation_states(self, min_index: int) -> tuple[int, tuple[FederationState, ...]]:
        """Our copies of all states, as soon as their index is greater than `min_index`.

        Returns:
            The index, at least 1, to pass next time; and the states by datacenter.
        """
        read = self.store.federation.list
        answer = await self.blocking.wait_past(read, min_index) if min_index else read()
        return answer.changed or 1, answer.value

    def config_entries(self) -> tuple[ConfigEntry, ...]:
        """Our copies of all config entries."""
        return self.store.config_entries.list().value

    async def mesh_gateways(self, min_index: int) -> tuple[int, tuple[CheckServiceNode, ...]]:
        """Our own mesh gateways, as soon as their index is greater than `min_index`.

        Returns:
            The index, at least 1, to pass next time; and the gateways with their checks.
        """
        catalog = self.store.catalog

        def read() -> Any:
            return catalog.dump_kind(MESH_GATEWAY_KIND)

        answer = await self.blocking.wait_past(read, min_index) if min_index else read()
        return answer.changed or 1, answer.value


_APPLY: Final = "FederationState.Apply"
_TO_PRIMARY: Final = frozenset({_APPLY, "ConfigEntry.Apply", "ConfigEntry.Delete"})
"""Writes that the primary carries out, whatever datacenter they name."""
_GET: Final = "FederationState.Get"
_STORAGE: Final = "Isthmus.Storage"


class _OneServer:
    """The storage of a datacenter with one server."""

    def __init__(self, server_id: str) -> None:
        self._server_id = server_id

    async def voters(self) -> Mapping[str, bool]:
        """Us."""
        return {self._server_id: True}

    async def remove(self, server_id: str) -> None:
        """Refuse.

        Raises:
            InvalidRequest: Always.
        """
        raise InvalidRequest("a datacenter's only server cannot be removed")


def _timed(handler: Handler, timing: Timing) -> Handler:
    """The same handler, whose durations are added up whether it fails or not."""

    async def handle(context: Context, request: Any) -> object:
        clock = asyncio.get_running_loop()
        started = clock.time()
        try:
            return await handler(context, request)
        finally:
            timing.add(clock.time() - started)

    return handle


def _unknown(method: str) -> RequestError:
    service, dot, _ = method.rpartition(".")
    if not dot:
        return RequestError(f"rpc: service/method request ill-formed: {method}")
    what = "method" if service in _SERVICES else "service"
    return RequestError(f"rpc: can't find {what} {method}")
