"""What every agent is, server or client: a member of the LAN pool with services and an HTTP door.

A server agent (`agent.agent`) answers calls itself, a client agent (`agent.client`) has servers
answer them; whoever needs data here calls `rpc` and need not know which.
"""

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from isthmus.agent import logs, settings, statsd, watch_handlers
from isthmus.agent.api import AgentApi
from isthmus.agent.cache import CallCache
from isthmus.agent.checks import CheckWorld
from isthmus.agent.coordinates import CoordinateReports
from isthmus.agent.dns import dns_config, open_dns
from isthmus.agent.events import UserEvents
from isthmus.agent.identity import identity, node_facts
from isthmus.agent.intervals import Intervals
from isthmus.agent.join import JoinGaveUp
from isthmus.agent.joining import Joining
from isthmus.agent.kept import Kept
from isthmus.agent.keyring import keyring_file, keyring_warnings, snapshot_file
from isthmus.agent.local import LocalState
from isthmus.agent.log_stream import LogStreams
from isthmus.agent.members import address_problem, lan_member_problem, shared_id_problem
from isthmus.agent.named_metrics import MemberEvents, NamedMetrics
from isthmus.agent.node_id import node_id
from isthmus.agent.platform import Platform
from isthmus.agent.ports import listening, serving_http
from isthmus.agent.reload import Reloading
from isthmus.agent.routes import GatewayRoutes
from isthmus.agent.services import LocalServices
from isthmus.agent.sync import CatalogSync
from isthmus.agent.tables import Tables
from isthmus.agent.watches import Watches
from isthmus.config.model import AgentConfig
from isthmus.dns.server import DnsServer
from isthmus.errors import InvalidRequest, IsthmusError, RequestError
from isthmus.http import repeats
from isthmus.http.server import HttpServer
from isthmus.model.diagnosis import DoctorReport
from isthmus.model.network import Networks
from isthmus.model.record import Record
from isthmus.net.gossip import Member, Pool, PoolConfig, PoolEvent

logger = logging.getLogger(__name__)

T = TypeVar("T")

STOP_TIMEOUT: Final = 8.0  # Supervisors and test suites expect an agent to be gone within 10 s.


class NodeAgent:
    """An agent's life, and the parts that servers and clients share.

    Attributes:
        config: As it is now; `reload` replaces what can change.
        lan: The pool of our datacenter; None while we start.
        wan: The pool of all servers; None on a client, or while we start.
        reloading: Who takes a new configuration while we run.
        log_streams: Who watches our log.

    Args:
        config: Checked configuration.
        platform: Network, clock, chance, threads and disk.
    """

    node_id: str
    local: LocalState
    services: LocalServices
    routes: GatewayRoutes
    events: UserEvents
    metrics: NamedMetrics
    intervals: Intervals
    dns: DnsServer

    def __init__(self, config: AgentConfig, platform: Platform) -> None:
        self.config, self._platform = config, platform
        self._entropy, self._wall = platform.entropy, platform.wall
        self._rng = random.Random(int.from_bytes(self._entropy(16), "big"))
        self._tls = platform.tls(settings.tls_config(config))
        self._network = platform.network(self._tls)
        self._stopping = asyncio.Event()
        self._leaving = False
        self._failure: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closers: list[Callable[[], Coroutine[Any, Any, object]]] = []
        self._lan_networks = Networks(config.gossip.serf_lan_allowed_cidrs)
        self.lan: Pool | None = None
        self.wan: Pool | None = None
        self._joining: Joining | None = None
        self.log_streams = LogStreams()
        self.reloading = Reloading()
        self.reloading.add(lambda new: self._tls.reload(settings.tls_config(new)))
        self._lan_events = MemberEvents()

    # What servers and clients do each in their way ------------------------------------------------

    async def rpc(self, method: str, request: Record) -> Any:
        """Carry out a method of `model.methods.METHODS`, wherever the data is."""
        raise NotImplementedError

    def figures(self) -> Mapping[str, Mapping[str, str]]:
        """Our own sections of the figures in ``/v1/agent/self``."""
        raise NotImplementedError

    async def move_storage(self) -> None:
        """Keep the datacenter's data in another engine.

        Raises:
            InvalidRequest: This agent keeps none.
        """
        raise InvalidRequest("this agent is a client: ask the datacenter's server")

    async def diagnose(self, dc: str) -> DoctorReport:
        """Examine the ways between our datacenter and others."""
        raise NotImplementedError

    async def _start(self) -> None:
        raise NotImplementedError

    def _tags(self) -> dict[str, str]:
        """Ours in the LAN pool."""
        raise NotImplementedError

    def _tables(self) -> Tables:
        """What the routes of gateways are made of."""
        raise NotImplementedError

    def _receive_lan_event(self, event: PoolEvent) -> None:
        raise NotImplementedError

    # Life ----------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, run until told to stop, stop; the exit code."""
        try:
            for warning in self.config.warnings:
                logger.warning("configuration: %s", warning)
            self.node_id = node_id(self.config, self._entropy)
            self._identity = identity(self.config, self.node_id)
            await self._start()
            logger.info("agent started", extra={"dc": self.config.datacenter})
            await self._stopping.wait()
        finally:
            await self._stop()
        if self._failure is not None:
            logger.error("agent stops: %s", self._failure)
            return 1
        return 0

    def wall(self) -> datetime:
        """The calendar clock now."""
        return self._wall()

    def stop(self, *, leave: bool) -> None:
        """Stop soon; with `leave` tell the pools that we go for good."""
        self._leaving = self._leaving or leave
        self._stopping.set()

    def receive_signal(self, number: signal.Signals) -> None:
        """Stop, as the configuration wants it for SIGINT or SIGTERM."""
        leave = self.config.leave
        leaving = leave.on_terminate if number == signal.SIGTERM else not leave.skip_on_interrupt
        logger.info("%s: stopping%s", signal.Signals(number).name, " and leaving" * leaving)
        self.stop(leave=leaving)

    async def _stop(self) -> None:
        self.log_streams.close()
        if self._leaving:
            await self._leave()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._withdraw()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                for close in reversed(self._closers):
                    await close()
        except TimeoutError:
            logger.warning("not everything stopped within %g s", STOP_TIMEOUT)

    async def _withdraw(self) -> None:
        """Do what has to be done while everybody can still reach us."""

    async def _leave(self) -> None:
        for name, pool in (("WAN", self.wan), ("LAN", self.lan)):
            if pool is not None:
                logger.info("leaving the %s pool", name)
                await pool.leave()

    # Parts ---------------------------------------------------------------------------------------

    def _make_local(self) -> None:
        """Local services and checks, user events, gateway routes."""
        config = self.config
        self.local = LocalState(
            facts=node_facts(config, self.node_id),
            rng=self._rng,
            config=settings.local_config(config),
        )
        self._catalog_sync = CatalogSync(
            self.local,
            rpc=self.rpc,
            rng=self._rng,
            cluster_size=lambda: len(self._lan_pool_members()),
            token=lambda: self.config.acl.tokens.get("default", ""),
        )
        self.events = UserEvents(
            node=config.node_name,
            services=lambda: self.local.services.values(),
            rpc=self.rpc,
            entropy=self._entropy,
            leader_elected=self._catalog_sync.compare_soon,
        )
        tables = self._tables()
        self._closers.append(tables.close)
        self.routes = GatewayRoutes(
            dc=config.datacenter,
            domain=config.domain,
            trust_domain=settings.trust_domain(config),
            tables=tables,
            services=lambda: self.local.services,
        )
        self.services = LocalServices(
            CheckWorld(
                local=self.local,
                rpc=self.rpc,
                rng=self._rng,
                tls=settings.check_tls(config, self._tls),
                output_size_max=config.check.output_max_size,
            ),
            config=settings.services_config(config),
            kept=Kept(config.data_dir),
            wall=self._wall,
            changed=self.routes.registrations_changed,
        )
        self._closers.append(self.services.close)
        self.services.load(config.services, config.checks)

    async def _open_lan(self) -> None:
        """Start gossip, and open the LAN pool."""
        config = self.config
        loop = asyncio.get_running_loop()

        def died(error: BaseException) -> None:
            loop.call_soon_threadsafe(self._fail, error)

        self._gossip = self._platform.gossip(self._network, on_failure=died)
        self._gossip.start()
        self._closers.append(self._gossip.stop)
        for warning in keyring_warnings(config):
            logger.warning("%s", warning)
        with listening(
            config, "LAN gossip", "serf_lan", config.addresses.serf_lan, port="serf_lan"
        ):
            self.lan = await self._gossip.open_pool(
                PoolConfig(
                    name=config.node_name,
                    bind_host=config.addresses.serf_lan,
                    bind_port=config.ports.serf_lan,
                    advertise_host=config.addresses.advertise,
                    tags=self._tags(),
                    gossip=settings.gossip_config(config, wan=False),
                    keys=settings.gossip_keys(config),
                    keyring_file=keyring_file(config, wan=False),
                    snapshot_file=snapshot_file(config, wan=False),
                    rejoin_after_leave=config.join.rejoin_after_leave,
                    merge_check=self._check_lan_members,
                ),
                on_event=self._note_lan_event,
            )

    def _note_lan_event(self, event: PoolEvent) -> None:
        self._lan_events.note(event)
        self._receive_lan_event(event)

    def _make_http(self) -> None:
        self.cache = CallCache(self.rpc, rng=self._rng)
        self._closers.append(self.cache.close)
        self._http = HttpServer(
            settings.http_config(self.config),
            self.rpc,
            AgentApi(self),
            network=self._network,
            wall=self._wall,
            tables=self._http_tables(),
            cache=self.cache if self.config.http.use_cache else None,
        )

    def _http_tables(self) -> repeats.Tables:
        """What answers over HTTP are made from, as far as that is in this process."""
        return repeats.NoTables()

    async def _open_http(self) -> None:
        self._closers.append(self._http.stop)
        with serving_http(self.config):
            await self._http.start()

    async def _open_dns(self) -> None:
        self.dns = await open_dns(
            self.config,
            self.rpc,
            is_here=self._answers_here,
            cache=self.cache,
            network=self._network,
            rng=random.Random(int.from_bytes(self._entropy(16), "big")),
            wall=self._wall,
        )
        self._closers.append(self.dns.stop)

    def _answers_here(self, allow_stale: bool) -> bool:
        """Whether `rpc` answers reads of our datacenter without waiting for anything."""
        return False

    def reload_dns(self, config: AgentConfig) -> None:
        """Answer DNS as another configuration wants it; ports and addresses stay as they are.

        Raises:
            ValueError: A recursor is no address; nothing has changed.
        """
        self.dns.reconfigure(dns_config(config))

    def _start_metrics(self) -> None:
        """Make intervals of the figures, and send them where the operator wants them."""
        self.intervals = Intervals(
            self.metrics, wall=self._wall, sinks=statsd.sinks(self.config.telemetry)
        )
        self._spawn(self.intervals.run())

    def _start_node_duties(self, joining: Joining) -> None:
        """Keep the catalog up to date with us, and join the pools."""
        self._reload_parts()
        config = self.config
        self._spawn(self._catalog_sync.run())
        self._watches = Watches(self._http.answer, watch_handlers.tell)
        self._closers.append(self._watches.close)
        self._watches.load(config.watches)
        self.reloading.add(lambda config: self._watches.load(config.watches))
        assert self.lan is not None
        if not config.gossip.disable_coordinates:
            reports = CoordinateReports(
                dc=config.datacenter,
                node=config.node_name,
                pool=self.lan,
                rpc=self.rpc,
                rng=self._rng,
            )
            self._spawn(reports.run())
        self._joining = joining
        for duty in joining.duties():
            self._spawn(duty)

    def _lan_pool_members(self) -> tuple[Member, ...]:
        return self.lan.members() if self.lan is not None else ()

    def _check_lan_members(self, members: Sequence[Member]) -> str | None:
        config = self.config
        problems = (
            lan_member_problem(
                member.name,
                member.tags,
                own_name=config.node_name,
                own_id=self.node_id,
                dc=config.datacenter,
            )
            for member in members
        )
        return (
            next(filter(None, problems), None)
            or shared_id_problem(members)
            or address_problem(
                members,
                self._lan_networks,
                own_name=config.node_name,
                key="serf_lan_allowed_cidrs",
            )
        )

    def reload_files(self) -> None:
        """Take a new configuration as far as that is possible without a restart.

        Raises:
            RequestError: What is wrong with it; the old one stays.
        """
        self.config = self.reloading.run(self.config)

    def receive_reload(self) -> None:
        """Take a new configuration because of a signal; what is wrong with it is in the log."""
        with contextlib.suppress(RequestError):
            self.reload_files()

    def _reload_parts(self) -> None:
        """Have the parts that every agent has take a new configuration."""
        add = self.reloading.add
        add(lambda config: self._tls.reload(settings.tls_config(config)))
        add(self.reload_dns)
        add(lambda config: self.local.reconfigure(settings.local_config(config)))
        add(lambda config: self.local.set_meta(node_facts(config, self.node_id).meta))
        add(lambda config: self.services.reload(config.services, config.checks))
        add(lambda config: self._http.reconfigure(settings.http_config(config)))
        add(lambda config: self.metrics.reconfigure(config.telemetry))
        add(lambda config: logs.set_level(config.log.level))

    # Tasks ---------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._receive_end)
        self._tasks.append(task)
        return task

    def _receive_end(self, task: asyncio.Task[None]) -> None:
        """A background duty ended by itself: fine if it is done, the end if it failed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """A part of us is dead and the others cannot do without it: stop, with exit code 1."""
        self._failure = error
        if not isinstance(error, JoinGaveUp):
            # What is no defect of ours is told in a line when we stop.
            level = logging.DEBUG if isinstance(error, IsthmusError) else logging.ERROR
            logger.log(level, "a background duty failed", exc_info=error)
        self._stopping.set()


async def made(make: Callable[[], T]) -> T:
    """Make something on the loop that this runs on."""
    return make()
