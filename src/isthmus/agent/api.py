"""What the HTTP door asks of its agent (`http.local_agent.LocalAgent`)."""

import asyncio
import hashlib
import os
import sys
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from isthmus import __version__
from isthmus.agent import stacks
from isthmus.agent.debug_config import debug_config
from isthmus.agent.events import EventFilter, UserEvents
from isthmus.agent.host import host_info
from isthmus.agent.intervals import Intervals
from isthmus.agent.local import LocalState
from isthmus.agent.log_stream import LogStreams
from isthmus.agent.logs import LEVELS
from isthmus.agent.members import COMPATIBLE_BUILD
from isthmus.agent.named_metrics import NamedMetrics
from isthmus.agent.routes import GatewayRoutes
from isthmus.agent.services import LocalServices
from isthmus.config.model import OFF, AgentConfig
from isthmus.errors import WAN_JOIN_DISABLED, InvalidRequest, RequestError
from isthmus.gossip import roster
from isthmus.model.agent import (
    SCRIPT,
    TTL,
    AgentService,
    CheckDefinition,
    Member,
    ServiceDefinition,
)
from isthmus.model.catalog import HealthCheck
from isthmus.model.coordinate import ORIGIN, Coord
from isthmus.model.diagnosis import DoctorReport
from isthmus.model.event import UserEvent
from isthmus.model.metric import Metrics
from isthmus.names import wan_name
from isthmus.net.gossip import Pool
from isthmus.server.server import Server
from isthmus.wire import gojson


class Parts(Protocol):
    """The agent's parts that its API shows or uses."""

    config: AgentConfig
    node_id: str
    local: LocalState
    services: LocalServices
    routes: GatewayRoutes
    events: UserEvents
    lan: Pool | None
    wan: Pool | None
    metrics: NamedMetrics
    intervals: Intervals
    log_streams: LogStreams

    def figures(self) -> Mapping[str, Mapping[str, str]]:
        """Sections of the figures in ``/v1/agent/self`` that a server has, or a client."""

    async def move_storage(self) -> None:
        """Keep the datacenter's data in another engine; an `InvalidRequest` where that is none."""

    async def diagnose(self, dc: str) -> DoctorReport:
        """Examine the ways between our datacenter and others."""

    def stop(self, *, leave: bool) -> None:
        """Stop soon."""

    def wall(self) -> datetime:
        """The calendar clock now."""

    def reload_files(self) -> None:
        """Read the configuration again; a `RequestError` says why it cannot be taken over."""


class AgentApi:
    """The agent's own state and deeds, as the HTTP API shows them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @property
    def datacenter(self) -> str:
        """Our datacenter."""
        return self._parts.config.datacenter

    @property
    def node_name(self) -> str:
        """Our node."""
        return self._parts.config.node_name

    @property
    def coordinates_enabled(self) -> bool:
        """Whether round trips are estimated."""
        return not self._parts.config.gossip.disable_coordinates

    async def self_info(self) -> Mapping[str, object]:
        """Body of ``/v1/agent/self``."""
        parts, config = self._parts, self._parts.config
        member = _shown(parts.lan.local_member()) if parts.lan is not None else None
        stats: dict[str, Mapping[str, str]] = {
            "agent": {
                "check_monitors": str(parts.services.runner_count(SCRIPT)),
                "check_ttls": str(parts.services.runner_count(TTL)),
                "checks": str(len(parts.local.checks)),
                "services": str(len(parts.local.services)),
            },
            "build": {
                "prerelease": "",
                "revision": f"isthmus-{__version__}",
                "version": COMPATIBLE_BUILD,
            },
            "runtime": _runtime(),
            **parts.figures(),
        }
        for name, pool in (("serf_lan", parts.lan), ("serf_wan", parts.wan)):
            if pool is not None:
                stats[name] = await pool.stats()
        return {
            "Config": {
                "Datacenter": config.datacenter,
                "PrimaryDatacenter": config.primary_datacenter,
                "NodeName": config.node_name,
                "NodeID": parts.node_id,
                "Revision": f"isthmus-{__version__}",
                "Server": config.server,
                "Version": COMPATIBLE_BUILD,
            },
            "DebugConfig": debug_config(config),
            "Coord": self._coordinate(),
            "Member": member,
            "Stats": stats,
            "Meta": {"consul-network-segment": "", **config.node_meta},
            "xDS": {"SupportedProxies": {}},
        }

    def _coordinate(self) -> Coord | None:
        """Where our node lies in its LAN pool; None where that is not estimated."""
        if not self.coordinates_enabled:
            return None
        return self._parts.lan.coordinate() if self._parts.lan is not None else ORIGIN

    def members(self, *, wan: bool) -> Sequence[Member] | None:
        """Members of a pool, sorted by name."""
        pool = self._parts.wan if wan else self._parts.lan
        if pool is None:
            config = self._parts.config
            not_a_member = wan and (config.ports.serf_wan == OFF or not config.server)
            return None if not_a_member else ()  # The latter while we start.
        return tuple(_shown(member) for member in sorted(pool.members(), key=lambda m: m.name))

    async def join(self, address: str, *, wan: bool) -> None:
        """Join a pool through a member at `address`."""
        config = self._parts.config
        if wan and not config.server:
            raise RequestError("Must be a server to join WAN cluster")
        if wan and config.connect.mesh_gateway_wan_federation:
            raise RequestError(WAN_JOIN_DISABLED)
        pool = self._parts.wan if wan else self._parts.lan
        if pool is None:
            raise RequestError("this agent is in no WAN pool (ports.serf_wan is -1)")
        await pool.join([address])

    async def leave(self) -> None:
        """Begin to leave and to stop."""
        self._parts.stop(leave=True)

    async def force_leave(self, node: str, *, prune: bool, wan: bool) -> None:
        """Declare a failed member as having left."""
        parts = self._parts
        names = {wan_name(node, self.datacenter), node}
        found = False
        pools = [parts.wan] if wan else [parts.lan, parts.wan]
        for pool in pools:
            if pool is None:
                continue
            for member in pool.members():
                if member.name in names:
                    found = True
                    await pool.force_leave(member.name, prune)
        if not found:
            raise RequestError(f"agent: No node found with name '{node}'")

    def services(self) -> Mapping[str, AgentService]:
        """Services of this agent by id."""
        return {
            service_id: AgentService.of(service, datacenter=self.datacenter)
            for service_id, service in sorted(self._parts.local.services.items())
        }

    def services_called(self, name: str) -> Sequence[AgentService]:
        """Instances of a service on this agent."""
        return [
            AgentService.of(service, datacenter=self.datacenter)
            for service in self._parts.local.services.values()
            if service.service == name
        ]

    def service(self, service_id: str) -> AgentService | None:
        """One service; None when there is none."""
        service = self._parts.local.services.get(service_id)
        return AgentService.of(service, datacenter=self.datacenter) if service else None

    def checks_of(self, service_id: str) -> Sequence[HealthCheck]:
        """Checks that concern a service: its own and those of the node."""
        checks = self._parts.local.checks_of(service_id, with_node=True)
        return sorted(checks, key=lambda check: check.check_id)

    async def service_changed(
        self, service_id: str, *, content_hash: str, wait: float
    ) -> AgentService | None:
        """A service once its content hash differs from the one given."""
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            service = self._parts.local.services.get(service_id)
            if service is None:
                return None
            shown = AgentService.of(service, datacenter=self.datacenter)
            digest = hashlib.blake2b(gojson.encode(shown), digest_size=8).hexdigest().lstrip("0")
            left = deadline - asyncio.get_running_loop().time()
            if digest != content_hash or left <= 0:
                return msgspec.structs.replace(shown, content_hash=digest)
            await self._parts.local.wait_for_service(service_id, left)

    async def register_service(
        self, definition: ServiceDefinition, *, replace_existing_checks: bool
    ) -> None:
        """Register a service with its checks."""
        names = self._parts.services.register(definition, replace_checks=replace_existing_checks)
        await self._settle(names)

    async def deregister_service(self, service_id: str) -> None:
        """Remove a service and its checks."""
        await self._settle(self._parts.services.deregister(service_id))

    def checks(self) -> Mapping[str, HealthCheck]:
        """Checks of this agent by id."""
        return dict(sorted(self._parts.local.checks.items()))

    async def register_check(self, definition: CheckDefinition) -> None:
        """Register a check of the node or of a service."""
        await self._settle(self._parts.services.register_check(definition))

    async def deregister_check(self, check_id: str) -> None:
        """Remove a check."""
        await self._settle(self._parts.services.deregister_check(check_id))

    async def update_check(self, check_id: str, *, status: str, output: str) -> None:
        """Set the state of a TTL check and restart its time."""
        names = self._parts.services.update_check(check_id, status, output)
        await self._parts.local.synced(*names)

    async def set_maintenance(
        self, service_id: str, *, enable: bool, reason: str, token: str
    ) -> None:
        """Take a service, or with an empty id the node, out of service or back."""
        names = self._parts.services.set_maintenance(
            service_id, enable=enable, reason=reason, token=token
        )
        await self._settle(names)

    async def _settle(self, names: Sequence[tuple[str, str]]) -> None:
        """Wait until what was registered is on the disk and, if that is soon, in the catalog."""
        await self._parts.services.saved()
        await self._parts.local.synced(*names)

    async def fire_event(self, event: UserEvent, *, dc: str, token: str) -> UserEvent:
        """Spread an event among the agents of a datacenter."""
        return await self._parts.events.fire(event, dc=dc, token=token)

    async def events(
        self, *, name: str, node: str, service: str, tag: str, index: int, wait: float
    ) -> tuple[int, Sequence[UserEvent]]:
        """The newest events, once their index differs from the one given."""
        chosen = EventFilter(name=name, node=node, service=service, tag=tag)
        return await self._parts.events.changed(chosen, index=index, wait=wait)

    async def diagnose(self, dc: str) -> DoctorReport:
        """Examine the ways between our datacenter and others."""
        return await self._parts.diagnose(dc)

    @property
    def prometheus_enabled(self) -> bool:
        """Whether metrics are shown in Prometheus' format."""
        return self._parts.config.telemetry.prometheus_retention_time > 0

    async def metrics(self) -> Metrics:
        """See `LocalAgent.metrics`."""
        return await self._parts.metrics.collect()

    async def recent_metrics(self) -> Metrics:
        """See `LocalAgent.recent_metrics`."""
        return await self._parts.intervals.recent()

    async def next_metrics(self) -> Metrics:
        """See `LocalAgent.next_metrics`."""
        return await self._parts.intervals.next()

    def watch_log(self, level: str, *, as_json: bool) -> AsyncGenerator[bytes, None]:
        """See `LocalAgent.watch_log`."""
        number = LEVELS.get(level.upper())
        if number is None:
            raise InvalidRequest(f"Bad request: Unknown log level: {level}")
        if self._parts.log_streams.is_full:
            raise RequestError("too many clients watch this agent's log", status=429)
        return self._parts.log_streams.watch(number, as_json=as_json)

    def host(self) -> Mapping[str, object]:
        """See `LocalAgent.host`."""
        return host_info(self._parts.wall())

    async def reload(self) -> None:
        """See `LocalAgent.reload`."""
        self._parts.reload_files()

    @property
    def debug_enabled(self) -> bool:
        """Whether stacks, profile and memory may be shown."""
        return self._parts.config.enable_debug

    def stacks(self) -> str:
        """Where every thread and task is."""
        return stacks.stacks()

    def memory(self) -> str:
        """Objects in memory by type."""
        return stacks.memory()

    async def profile(self, seconds: float) -> str:
        """Where the time goes."""
        return await stacks.profile(seconds)

    async def move_storage(self) -> None:
        """See `LocalAgent.move_storage`."""
        await self._parts.move_storage()

    async def gateway_routes(self, service_id: str, content_hash: str, wait: float) -> bytes | None:
        """The route table of a mesh gateway as JSON."""
        table = await self._parts.routes.table(service_id, content_hash, wait)
        return None if table is None else table.to_json()


def server_figures(
    server: Server, *, bootstrap: bool, peer_count: int
) -> Mapping[str, Mapping[str, str]]:
    """What a server has to say of itself in ``/v1/agent/self``."""
    index = str(server.store.index)
    return {
        "consul": {
            "acl": "disabled",
            "bootstrap": str(bootstrap).lower(),
            "known_datacenters": str(len(server.datacenters())),
            "leader": str(server.is_leader).lower(),
            "leader_addr": server.leader_address,
            "server": "true",
        },
        "raft": {
            "applied_index": index,
            "commit_index": index,
            "last_log_index": index,
            "num_peers": str(peer_count),
            "state": "Leader" if server.is_leader else "Follower",
        },
    }


def client_figures(servers: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """The same of a client, which knows `servers` and calls the first of them."""
    return {
        "consul": {"acl": "disabled", "known_servers": str(len(servers)), "server": "false"},
        "isthmus": {"servers": ", ".join(servers)},
    }


def _shown(member: roster.Member) -> Member:
    return Member(
        name=member.name,
        addr=member.address,
        port=member.port,
        tags=dict(sorted(member.tags.items())),
        status=int(member.status),
        protocol_min=member.protocol_min,
        protocol_max=member.protocol_max,
        protocol_cur=member.protocol_cur,
        delegate_min=member.delegate_min,
        delegate_max=member.delegate_max,
        delegate_cur=member.delegate_cur,
    )


def _runtime() -> dict[str, str]:
    """What this process runs on, under the names of what is much like it in Consul."""
    system = os.uname()
    return {
        "arch": system.machine,
        "cpu_count": str(os.cpu_count() or 0),
        "goroutines": str(len(asyncio.all_tasks()) + threading.active_count()),
        "max_procs": str(len(os.sched_getaffinity(0))),
        "os": system.sysname.lower(),
        "version": f"python{'.'.join(map(str, sys.version_info[:3]))}",
    }
