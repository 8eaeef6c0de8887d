"""A simulated server: two gossip pools, locator, joining, and the duties of a leader.

Every decision is a production core's; here stands what the agent does around them with asyncio
(`agent/`, `server/`): facts go in, actions become messages.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Final, Protocol, TypeAlias

from isthmus.agent.membership import FLOOD_INTERVAL, missing_in_wan, server_of
from isthmus.errors import NoLeader
from isthmus.federation.announce import (
    AnnounceOutput,
    Announcer,
    DeleteState,
    Pruner,
    WriteState,
)
from isthmus.federation.joining import (
    AwaitReady,
    JoinOutput,
    JoinRetry,
    Rejoining,
    TryJoin,
)
from isthmus.federation.locator import GatewayLocator, LocatorPopulated
from isthmus.federation.replication import (
    HEARSAY_TIMEOUT,
    AskForGateways,
    FetchRecords,
    FollowRecords,
    ReplicationOutput,
    ReplicationStatus,
    StateReplicator,
    writes_to_follow,
)
from isthmus.federation.router import Router, ServerInfo, federation_states_supported
from isthmus.gossip.outputs import JoinFinished
from isthmus.gossip.roster import Member, MemberFailed, MemberJoined, MemberLeft, MemberStatus
from isthmus.gossip.streams import JoinTarget
from isthmus.model.federation import (
    DELETE,
    UPSERT,
    FederationState,
    FederationStateRequest,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.names import (
    ANY_SERVER,
    SERF_LAN_PORT,
    split_host_port,
)
from isthmus.server.blocking import QUERY_TIME
from isthmus.server.forward import CALL_TIMEOUT, call_timeout
from isthmus.sim.calls import Answer, Caller, Reply, Request, Sign
from isthmus.sim.datacenter import Datacenter
from isthmus.sim.gateways import Connection
from isthmus.sim.links import SWEEP_INTERVAL, Links
from isthmus.sim.member import Member as PoolMember
from isthmus.sim.network import Machine
from isthmus.sim.topology import Host
from isthmus.sim.ways import NoWay, Way
from isthmus.sim.world import Actor, Message, Process, World

RETRY_JOIN_INTERVAL: Final = 30.0
"""Consul's `retry_interval` and `retry_interval_wan`."""
LEADER_CHECK_INTERVAL: Final = 5.0
LEASE: Final = 20.0
"""A server that runs for so long without seeing the leader alive may take over."""
NEWS_DELAY: Final = 0.02
"""Events of the pools within this time wake the duties once, instead of once each."""
ROUNDS_MAX: Final = 1000
"""Steps of the cores at one moment; more would be a loop without end."""

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""What calendar clocks show at the start."""
ALIVE: Final = MemberStatus.ALIVE


_Core: TypeAlias = Announcer | Pruner | StateReplicator | JoinRetry | Rejoining


class Monitor(Protocol):
    """Is told what the invariants are about."""

    def filled(self) -> None:
        """All stores and pools were filled for a warm start."""

    def offered(self, server: "Server", dc: str, candidates: Sequence[str]) -> None:
        """A server's locator offers these gateways for a dial."""

    def acknowledged(self, server: "Server", state: FederationState) -> None:
        """The primary took a server's federation state."""

    def committed(self, datacenter: Datacenter, about: str) -> None:
        """A datacenter's servers agreed on a write of the record of `about`."""

    def gateways_changed(self, datacenter: Datacenter) -> None:
        """A datacenter's catalog has other gateways than before."""

    def member_event(self, server: "Server", event: object, *, wan: bool) -> None:
        """A pool told a server something about a member."""

    def crossing(self, path: Sequence[Machine], *, back: bool = False) -> None:
        """A message is sent along a path; `back`: on a connection that the other end dialled."""

    def leads(self, server: "Server") -> None:
        """A server begins to lead its datacenter."""


class Surroundings(Protocol):
    """What a server needs of the federation around it."""

    world: World
    primary: str
    datacenters: dict[str, Datacenter]
    monitor: Monitor
    server_count: int

    def server(self, dc: str, node: str) -> "Server | None":
        """A server by its place, as it runs now."""

    def server_on(self, machine: Machine) -> "Server | None":
        """The server on a machine, as it runs now."""

    def servers_of(self, dc: str) -> Sequence[Host]:
        """All servers of a datacenter, running or not."""

    def find(self, server: "Server", candidates: Sequence[str], dc: str, node: str) -> Way | NoWay:
        """Dial over gateways."""

    def connect(
        self, server: "Server", way: Way, lost: Callable[[float], None]
    ) -> Connection | None:
        """Open a connection; `lost` is told in how many seconds. None: what leads there is gone."""

    def primary_gateways(self) -> Sequence[str]:
        """What `primary_gateways` is configured to."""

    def machine_of(self, host: Host) -> Machine:
        """Machine of a server."""

    def count_alive(self, members: tuple[Member, ...]) -> int:
        """How many of a pool's members are alive, as one of them sees it."""


class _Posted(Message):
    """Something to be done by a server; waits while its process stands still."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__(0, reliable=True)
        self.action = action


class _Duties:
    """What a leader does."""

    def __init__(self, server: "Server", *, now: float) -> None:
        self.announcer = Announcer(
            server.host.dc,
            enabled=server.states_enabled,
            wall=server.wall,
            rng=server.rng,
            now=now,
        )
        self.replicator: StateReplicator | None = None
        self.pruner: Pruner | None = None
        if server.is_primary:
            self.pruner = Pruner(server.host.dc, known_dcs=server.known_dcs, now=now)
        else:
            self.replicator = StateReplicator(
                server.host.dc,
                server.primary,
                locator=server.locator,
                enabled=server.states_enabled,
                known_dcs=server.known_dcs,
                status=server.status,
                rng=server.rng,
                now=now,
            )

    def wake(self, *, now: float) -> None:
        """A server or a gateway became known."""
        self.announcer.wake(now=now)
        if self.replicator is not None:
            self.replicator.wake(now=now)
        if self.pruner is not None:
            self.pruner.wake()


class Server(Actor):
    """One server, from the start of its process to its end.

    Attributes:
        host: Which one.
        lan: Its member of the datacenter's pool.
        wan: Its member of the WAN pool.
        locator: Its gateways.
        router: Servers of the datacenters that it calls.
        status: How replication fares.
        started_at: World's time.
    """

    def __init__(self, around: Surroundings, host: Host, process: Process, seed: int) -> None:
        super().__init__(process)
        self.host, self._around, self._world = host, around, around.world
        self.primary = around.primary
        self.datacenter = around.datacenters[host.dc]
        self.rng = Random(seed)
        self.started_at = self._world.now
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._alarm_count = 0
        self.locator = GatewayLocator(dc=host.dc, primary_dc=self.primary, rng=self.rng)
        self.router = Router()
        self._called: set[str] = set()  # Datacenters whose servers the router has.
        self._caller = Caller(self._world, self, self.router, self)
        self._links = Links(self)
        self.status = ReplicationStatus(running=not self.is_primary)
        self._duties: _Duties | None = None
        now = self.now
        self._rejoining = Rejoining(missing=self._missing, rng=self.rng, now=now)
        self._lan_targets: list[JoinTarget] = []
        self._lan_join: JoinRetry | None = None
        self._wan_join: JoinRetry | None = None
        self._joins: dict[tuple[PoolMember, int], Callable[[JoinFinished], None]] = {}
        self._awaiting = 0  # Number of the wait for a gateway; 0: none.
        self._feature_seen = False
        self._news_pending = False
        self._leaving = False
        self._cores: tuple[_Core, ...] = ()
        self._counted: tuple[tuple[Member, ...], int] = (), 0
        self.inbound: dict[Connection, None] = {}
        self.lan: PoolMember
        self.wan: PoolMember

    # Who we are -----------------------------------------------------------------------------------

    @property
    def is_primary(self) -> bool:
        """Whether our datacenter is the primary."""
        return self.host.dc == self.primary

    @property
    def is_leader(self) -> bool:
        """Whether we hold the lease and do the duties."""
        return self._duties is not None and self.datacenter.leader == self.host.node

    @property
    def now(self) -> float:
        """Our own monotonic clock."""
        return self.process.clock(self._world.now)

    def wall(self) -> datetime:
        """Our calendar clock."""
        return EPOCH + timedelta(seconds=self.now)

    @property
    def known_count(self) -> int:
        """WAN members that we take to be alive, ourselves included."""
        members = self.wan.serf.members()
        if members is not self._counted[0]:
            self._counted = members, self._around.count_alive(members)
        return self._counted[1]

    def known_dcs(self) -> set[str]:
        """Datacenters that have servers in the WAN pool."""
        gone = {MemberStatus.LEFT, MemberStatus.NONE}
        return {
            member.tags.get("dc", "")
            for member in self.wan.serf.members()
            if member.status not in gone
        }

    def states_enabled(self) -> bool:
        """Whether all servers concerned support federation states: true once, always true."""
        if not self._feature_seen:
            lan = self.lan.serf.members()
            servers = [server for member in lan if (server := server_of(member)) is not None]
            servers += self._servers(self.primary)
            dcs = {self.host.dc, self.primary}
            self._feature_seen = len(self.datacenter.tables.states) > 0 or (
                federation_states_supported(servers, dcs)
            )
        return self._feature_seen

    # Life -----------------------------------------------------------------------------------------

    def start(self, *, warm: bool) -> None:
        """Begin: both pools are open; with `warm` they are joined, too."""
        self.locator.set_primary_gateways(self._around.primary_gateways())
        self.wan.serf.hold()
        self._gather_cores()
        self._read_states()
        self._check_leadership()
        if not warm:
            others = [host for host in self._around.servers_of(self.host.dc) if host != self.host]
            self._lan_targets = [
                JoinTarget(host.node, (self._around.machine_of(host).address, SERF_LAN_PORT))
                for host in others
            ]
            if others:
                self._lan_join = self._retry(gated=False)
            if not self.is_primary:
                self._wan_join = self._retry(gated=True)
            self._gather_cores()
        self._flood()
        self.alarm(SWEEP_INTERVAL, self._sweep)
        self.alarm(LEADER_CHECK_INTERVAL, self._check_leadership_again)
        self._flush()
        self._world.arm(self)

    def stop(self) -> None:
        """The process died: its connections close."""
        self._caller.close()
        self._links.close()

    def leave(self) -> None:
        """Leave both pools for good; the process ends when the WAN pool knows."""
        if self._duties is not None:
            self._resign()  # The primary prunes our record: it must not be written again.
            self.datacenter.leader = ""
        self._leaving = True
        self.lan.leave()
        self.wan.leave()

    def _sweep(self) -> None:
        self._links.sweep(now=self._world.now)
        self.alarm(SWEEP_INTERVAL, self._sweep)

    def _retry(self, *, gated: bool) -> JoinRetry:
        return JoinRetry(
            interval=RETRY_JOIN_INTERVAL, attempts_max=0, gated=gated, rng=self.rng, now=self.now
        )

    # Actor ----------------------------------------------------------------------------------------

    def alarm(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in so many seconds of our own clock."""
        self._alarm_count += 1
        at = self.now + seconds
        heapq.heappush(self._alarms, (at, self._alarm_count, action))
        if self._alarms[0][0] == at:
            self._world.arm(self)

    def post(self, action: Callable[[], None], *, delay: float = 0.0) -> None:
        """Do something when our process gets to it."""
        self._world.deliver(self._world.now + delay, self, _Posted(action))

    def receive(self, message: Message, *, now: float) -> None:
        """See `Actor.receive`."""
        match message:
            case _Posted():
                message.action()
            case Request():
                self._serve(message)
            case Reply():
                self._caller.receive_reply(message)
            case Sign():
                if message.is_answer:
                    self._caller.receive_sign(message)
                else:
                    answer = Sign(message.link, message.caller, (), is_answer=True)
                    self.send(message.back, message.caller, answer)
            case _:
                raise AssertionError(message)
        self._flush()

    def handle_timer(self, *, now: float) -> None:
        """See `Actor.handle_timer`."""
        local = self.now
        while self._alarms and self._alarms[0][0] <= local:
            heapq.heappop(self._alarms)[2]()
        self._flush()

    def next_timer(self) -> float:
        """See `Actor.next_timer`."""
        due = self._alarms[0][0] if self._alarms else math.inf
        for core in self._cores:
            at = core.next_timer()
            if at is not None and at < due:
                due = at
        return self.process.moment(due) if due < math.inf else due

    def _gather_cores(self) -> None:
        """Note which cores there are now, in the order in which they are run."""
        cores: list[_Core | None] = [self._rejoining, self._lan_join, self._wan_join]
        if self._duties is not None:
            cores += [self._duties.announcer, self._duties.replicator, self._duties.pruner]
        self._cores = tuple([core for core in cores if core is not None])

    def _flush(self) -> None:
        """Let every core do what is due, and carry out what it wants, until all are at rest."""
        for _ in range(ROUNDS_MAX):
            if not self._step():
                return
        raise AssertionError(f"{self.host.name} finds no rest")

    def _step(self) -> bool:
        now, busy = self.now, False
        duties = self._duties
        if duties is not None and not self.is_leader:
            self._resign()
            duties = None
        for core in self._cores:
            core.handle_timer(now=now)
        for output in self._rejoining.take_outputs():
            self._join_datacenter(output.dc)
            busy = True
        for retry in (self._lan_join, self._wan_join):
            for join_output in [] if retry is None else retry.take_outputs():
                assert retry is not None
                self._carry_out_join(retry, join_output)
                busy = True
        if duties is not None:
            for announce_output in duties.announcer.take_outputs():
                self._announce(duties.announcer, announce_output)
                busy = True
            for replication_output in (
                duties.replicator.take_outputs() if duties.replicator is not None else ()
            ):
                assert duties.replicator is not None
                self._replicate(duties.replicator, replication_output)
                busy = True
            for prune_output in duties.pruner.take_outputs() if duties.pruner is not None else ():
                self._prune(prune_output)
                busy = True
        return self._take_locator_events() or busy

    # Pools ----------------------------------------------------------------------------------------

    def lan_event(self, event: object) -> None:
        """Our member of the datacenter's pool tells something."""
        self._take(event, wan=False)
        if isinstance(event, MemberJoined) and server_of(event.member) is not None:
            self.post(self._flood_now)
        if isinstance(event, MemberFailed | MemberLeft | MemberJoined):
            self.post(self._check_leadership)

    def wan_event(self, event: object) -> None:
        """Our member of the WAN pool tells something."""
        self._take(event, wan=True)

    def join_finished(self, pool: PoolMember, finished: JoinFinished) -> None:
        """A join of ours ended."""
        done = self._joins.pop((pool, finished.id), None)
        if done is not None:
            self.post(partial(done, finished))

    def wan_path(self, target: PoolMember) -> tuple[Machine, ...] | None:
        """Machines on the way to another member of the WAN pool; None: there is no way now."""
        machine = self.process.machine
        if target.machine.group == machine.group:
            return machine, target.machine
        return self._links.path(target.name, now=self._world.now)

    def _take(self, event: object, *, wan: bool) -> None:
        self._around.monitor.member_event(self, event, wan=wan)
        member = getattr(event, "member", None)
        if member is None:
            return
        if wan and member.tags.get("dc", "") in self._called:
            self._route(member)
        if wan and isinstance(event, MemberLeft):
            self._notice_departure(member.tags.get("dc", ""))
        if not self._news_pending:
            self._news_pending = True
            self.post(self._tell_news, delay=NEWS_DELAY)

    def _tell_news(self) -> None:
        self._news_pending = False
        self._changed()

    def _changed(self) -> None:
        """A member, a gateway or the locator changed: whoever waits tries again."""
        now = self.now
        if self._duties is not None:
            self._duties.wake(now=now)
        for retry in (self._lan_join, self._wan_join):
            if retry is not None:
                retry.wake()
        self._rejoining.wake(now=now)

    def _notice_departure(self, dc: str) -> None:
        duties = self._duties
        if duties is not None and duties.pruner is not None and dc not in self.known_dcs():
            duties.pruner.datacenter_departed(now=self.now)

    def _servers(self, dc: str) -> tuple[ServerInfo, ...]:
        """Servers of a datacenter; from the first question on the router keeps them."""
        if dc not in self._called:
            self._called.add(dc)
            for member in self._in_wan(dc):
                self._route(member)
        return self.router.servers(dc)

    def _route(self, member: Member) -> None:
        dc = member.tags.get("dc", "")
        if member.status in {MemberStatus.LEFT, MemberStatus.NONE}:
            self.router.remove(member.name, dc)
        elif (server := server_of(member)) is not None:
            self.router.put(server)

    # Joining --------------------------------------------------------------------------------------

    def _missing(self) -> set[str]:
        """Datacenters that have a federation state and no living server in the WAN pool."""
        if self.known_count == self._around.server_count:
            return set()
        known = {state.datacenter for state in self.datacenter.tables.states.list().value}
        known.discard(self.host.dc)
        for member in self.wan.serf.members():
            if member.status is ALIVE:
                known.discard(member.tags.get("dc", ""))
                if not known:
                    break
        return known

    def _join(
        self,
        pool: PoolMember,
        targets: Sequence[JoinTarget],
        done: Callable[[JoinFinished], None] = lambda finished: None,
    ) -> None:
        number = pool.serf.join(targets, ignore_old=True, now=self.now)
        self._joins[pool, number] = done
        pool.touched()

    def _join_any(self, dc: str, done: Callable[[JoinFinished], None]) -> None:
        """Join through whichever server of a datacenter its gateways pick."""
        way = self.dial(dc, ANY_SERVER)
        target = None if isinstance(way, NoWay) else self._around.server_on(way.path[-1])
        if target is not None:
            member = target.wan
            self._join(self.wan, [JoinTarget(member.name, member.address)], done)
            return
        text = way.text if isinstance(way, NoWay) else "the connection was reset"
        seconds = self.wan.serf.config.stream_timeout
        if isinstance(way, NoWay) and not way.hangs:
            seconds = way.seconds
        self.alarm(seconds, partial(done, JoinFinished(0, 0, (text,))))

    def _join_datacenter(self, dc: str) -> None:
        def done(finished: JoinFinished) -> None:
            self._rejoining.tried(dc, now=self.now)

        self._join_any(dc, done)

    def _carry_out_join(self, retry: JoinRetry, output: JoinOutput) -> None:
        match output:
            case AwaitReady(timeout):
                self._alarm_count += 1
                self._awaiting = self._alarm_count
                self.alarm(timeout, partial(self._not_ready, retry, self._awaiting))
                self._check_ready()
            case TryJoin():
                done = partial(self._joined, retry)
                if retry is self._wan_join:
                    self._join_any(self.primary, done)
                else:
                    self._join(self.lan, self._lan_targets, done)
            case _:
                pass  # For the log.

    def _joined(self, retry: JoinRetry, finished: JoinFinished) -> None:
        if finished.contacted:
            retry.joined()
        else:
            retry.join_failed("; ".join(finished.errors), now=self.now)

    def _check_ready(self) -> None:
        if self._awaiting and self._wan_join is not None and self.locator.candidates(self.primary):
            self._awaiting = 0
            self._wan_join.ready()

    def _not_ready(self, retry: JoinRetry, number: int) -> None:
        if self._awaiting == number:
            self._awaiting = 0
            retry.not_ready(now=self.now)

    def _flood(self) -> None:
        self._flood_now()
        self.alarm(FLOOD_INTERVAL, self._flood)

    def _flood_now(self) -> None:
        """Bring our datacenter's servers into the WAN pool."""
        lan = self.lan.serf.members()
        own = self._in_wan(self.host.dc)
        for address in missing_in_wan(lan, own, own_name=self.host.node, dc=self.host.dc):
            name, _, place = address.partition("/")
            self._join(self.wan, [JoinTarget(name, split_host_port(place))])

    def _in_wan(self, dc: str) -> list[Member]:
        """WAN members of one datacenter, without a look at all the others."""
        wan = self.wan.serf
        names = [host.name for host in self._around.servers_of(dc)]
        return [member for name in names if (member := wan.member(name)) is not None]

    # Locator --------------------------------------------------------------------------------------

    def tables_changed(self) -> None:
        """Our datacenter's states changed."""
        self._read_states()
        if self._duties is not None:
            self._duties.announcer.set_states(
                self.datacenter.tables.states.list().value, now=self.now
            )

    def gateways_changed(self) -> None:
        """Our datacenter's gateways changed."""
        if self._duties is not None:
            self._duties.announcer.set_gateways(self.datacenter.tables.gateways, now=self.now)

    def _read_states(self) -> None:
        states = self.datacenter.tables.states.list().value
        self.locator.set_states(states)
        if self._duties is not None and self._duties.pruner is not None:
            self._duties.pruner.set_states(states)

    def _take_locator_events(self) -> bool:
        events = self.locator.take_outputs()
        for event in events:
            if isinstance(event, LocatorPopulated):
                self.wan.serf.release(now=self.now)
                self.wan.touched()
        if events:
            self._changed()
            self._check_ready()
        return bool(events)

    def candidates(self, dc: str) -> tuple[str, ...]:
        """Gateways that our locator offers for a dial."""
        found = self.locator.candidates(dc)
        self._around.monitor.offered(self, dc, found)
        return found

    def dial(self, dc: str, node: str) -> Way | NoWay:
        """Look for a way to a server, and tell the locator how its gateways fared."""
        way = self._around.find(self, self.candidates(dc), dc, node)
        for address in way.tried:
            self.locator.gateway_failed(address)
        if isinstance(way, Way):
            self.locator.gateway_worked(way.address)
        return way

    def connect(self, way: Way, lost: Callable[[], None]) -> Connection | None:
        """Open a connection on a way."""
        return self._around.connect(self, way, lambda delay: self.post(lost, delay=delay))

    def actor(self, machine: Machine) -> Actor | None:
        """The server on a machine."""
        return self._around.server_on(machine)

    def silent(self, address: str) -> None:
        """A connection through a gateway shows no sign of life."""
        self.locator.gateway_failed(address)

    # Leadership -----------------------------------------------------------------------------------

    def _check_leadership_again(self) -> None:
        self._check_leadership()
        self.alarm(LEADER_CHECK_INTERVAL, self._check_leadership_again)

    def _check_leadership(self) -> None:
        """Lead if we hold the lease; take it when its holder is dead and we are next by name."""
        datacenter, me = self.datacenter, self.host.node
        if self._leaving:
            return
        if datacenter.leader and datacenter.leader != me and self._duties is None:
            known = self.lan.serf.member(datacenter.leader)
            if known is not None and known.status is ALIVE:
                return
            alive = {
                member.name
                for member in self.lan.serf.members()
                if member.status is ALIVE and server_of(member) is not None
            }
            patient = known is not None or self._world.now - self.started_at >= LEASE
            if me != min(alive) or not patient:
                return
            datacenter.leader = me
        elif not datacenter.leader:
            datacenter.leader = me
        if datacenter.leader == me and self._duties is None:
            self._lead()

    def _lead(self) -> None:
        now, tables = self.now, self.datacenter.tables
        self._duties = _Duties(self, now=now)
        self._gather_cores()
        if not self.is_primary:
            self.locator.replication_started()
        self._around.monitor.leads(self)
        self._duties.announcer.set_gateways(tables.gateways, now=now)
        self.tables_changed()

    def _resign(self) -> None:
        """Another server holds the lease."""
        self._duties = None
        self._gather_cores()
        self.locator.replication_stopped()

    # Duties ---------------------------------------------------------------------------------------

    def _announce(self, announcer: Announcer, output: AnnounceOutput) -> None:
        if not isinstance(output, WriteState):
            return
        state = output.state
        request = FederationStateRequest(datacenter=self.primary, op=UPSERT, state=state)

        def done(answer: Answer | str) -> None:
            if isinstance(answer, str):
                if self._is_current(announcer):
                    announcer.write_failed(answer, now=self.now)
                return
            self._around.monitor.acknowledged(self, state)
            if self._is_current(announcer):
                announcer.written(now=self.now)

        if self.is_primary:
            done(self._apply(request))
        else:
            self._servers(self.primary)
            self._caller.call(
                self.primary, "FederationState.Apply", request, done, timeout=CALL_TIMEOUT
            )

    def _apply(self, request: FederationStateRequest) -> bool | str:
        try:
            return self.datacenter.apply(self.host.node, request)
        except NoLeader as error:
            return str(error)

    def _is_current(self, duty: Announcer | StateReplicator) -> bool:
        duties = self._duties
        return duties is not None and duty in (duties.announcer, duties.replicator)

    def _replicate(
        self, replicator: StateReplicator, output: ReplicationOutput[FederationState]
    ) -> None:
        match output:
            case FetchRecords(min_index):
                self._fetch(replicator, min_index)
            case FollowRecords(states):
                self._follow(replicator, states)
            case AskForGateways(dc):
                self._ask(replicator, dc)
            case _:
                pass  # For the log.

    def _fetch(self, replicator: StateReplicator, min_index: int) -> None:
        def done(answer: Answer | str) -> None:
            if not self._is_current(replicator):
                return
            if isinstance(answer, str):
                replicator.fetch_failed(answer, now=self.now)
            else:
                assert isinstance(answer, IndexedFederationStates)
                replicator.fetched(answer.states or (), answer.index, now=self.now)

        request = _list_request(self.primary, min_index)
        self._servers(self.primary)
        self._caller.call(
            self.primary, "FederationState.List", request, done, timeout=call_timeout(request)
        )

    def _follow(self, replicator: StateReplicator, states: tuple[FederationState, ...]) -> None:
        writes = writes_to_follow(states, self.datacenter.tables.states.list().value)
        for write in writes:
            done = self._apply(write)
            if isinstance(done, str):
                replicator.follow_failed(done, now=self.now)
                return
        replicator.followed(len(writes), now=self.now)

    def _ask(self, replicator: StateReplicator, dc: str) -> None:
        def done(answer: Answer | str) -> None:
            if not self._is_current(replicator):
                return
            if isinstance(answer, str):
                replicator.not_told(now=self.now)
            else:
                assert isinstance(answer, IndexedFederationStates)
                replicator.told(answer.states or (), now=self.now)

        self._servers(dc)
        request = _list_request(dc, 0)
        self._caller.call(dc, "FederationState.List", request, done, timeout=HEARSAY_TIMEOUT)

    def _prune(self, output: DeleteState) -> None:
        state = FederationState(datacenter=output.dc)
        self._apply(FederationStateRequest(op=DELETE, state=state))

    # Calls of others ------------------------------------------------------------------------------

    def _serve(self, request: Request) -> None:
        match request.call.request:
            case FederationStateRequest() as write:
                self._serve_write(request, write)
            case DatacenterRequest() as read:
                self._serve_list(request, read)
            case _:
                raise AssertionError(request.call.method)

    def _serve_write(self, request: Request, write: FederationStateRequest) -> None:
        leader = self.datacenter.leader
        if leader == self.host.node or request.forwarded:
            self._reply(request, self._apply(write))
            return
        target = self._around.server(self.host.dc, leader) if leader else None
        if target is None:
            self._reply(request, str(NoLeader()))
            return
        path = (self.process.machine, target.process.machine)
        self.send(path, target, request.forward(target.process.machine))

    def _serve_list(self, request: Request, read: DatacenterRequest) -> None:
        tables = self.datacenter.tables
        if not read.min_query_index or tables.states_index > read.min_query_index:
            self._reply_list(request)
            return
        pending = [True]

        def answer() -> None:
            if pending:
                pending.clear()
                self._reply_list(request)

        watch = tables.watches.register(tables.states.topics, lambda: self.post(answer))

        def time_out() -> None:
            tables.watches.cancel(watch)
            answer()

        self.alarm(QUERY_TIME * (1 + self.rng.random() / 16), time_out)

    def _reply_list(self, request: Request) -> None:
        found = self.datacenter.tables.states.list()
        answer = IndexedFederationStates(
            states=found.value, index=found.shown_index, known_leader=True
        )
        self._reply(request, answer)

    def _reply(self, request: Request, answer: Answer | str) -> None:
        if request.connection.is_open:
            reply = Reply(request, answer)
            request.connection.carried(reply.size)
            self.send(request.back, request.caller, reply)

    def send(self, path: Sequence[Machine], actor: Actor, message: Message) -> None:
        """Send a message along a path."""
        answers = isinstance(message, Reply) or (isinstance(message, Sign) and message.is_answer)
        self._around.monitor.crossing(path, back=answers)
        self._world.send(path, actor, message)


def _list_request(dc: str, min_index: int) -> DatacenterRequest:
    return DatacenterRequest(datacenter=dc, allow_stale=True, min_query_index=min_index)
