"""The client agent: everything but the data, which the servers of its datacenter have.

Who talks to whom::

    HTTP ─┐
          ├─ ServerCalls ── RpcPool ── a server of our datacenter, which passes on what is not its
    local ┘      │
    LAN pool ── events ── which servers there are; user events; the keyring
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from isthmus.agent.api import client_figures
from isthmus.agent.client_metrics import ClientMetrics
from isthmus.agent.joining import Joining
from isthmus.agent.members import client_tags
from isthmus.agent.membership import is_gone, server_of
from isthmus.agent.node import NodeAgent
from isthmus.agent.server_calls import POOL, ServerCalls
from isthmus.agent.tables import RemoteTables, Tables
from isthmus.errors import RequestError
from isthmus.gossip.roster import (
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberUpdated,
)
from isthmus.model.diagnosis import DoctorReport
from isthmus.model.record import Record
from isthmus.net.direct import DirectDialer
from isthmus.net.gossip import Member, PoolEvent
from isthmus.net.pool import RpcPool

logger = logging.getLogger(__name__)


class ClientAgent(NodeAgent):
    """A client agent; see `NodeAgent`.

    Attributes:
        calls: To the servers of our datacenter.
    """

    calls: ServerCalls

    async def rpc(self, method: str, request: Record) -> Any:
        """See `NodeAgent.rpc`."""
        return await self.calls.call(method, request)

    def figures(self) -> Mapping[str, Mapping[str, str]]:
        """See `NodeAgent.figures`."""
        return client_figures([server.node for server in self.calls.servers])

    async def diagnose(self, dc: str) -> DoctorReport:
        """Refuse: the ways between datacenters begin at servers.

        Raises:
            RequestError: Always.
        """
        raise RequestError(
            f"{self.config.node_name} is a client agent, and the ways to other datacenters begin at"
            " servers: ask one of them"
        )

    async def _start(self) -> None:
        config = self.config
        self.calls = ServerCalls(
            config.datacenter,
            rng=self._rng,
            member_count=lambda: len(self._lan_pool_members()),
            limits=config.limits,
            hold_time=config.performance.rpc_hold_timeout,
        )
        clock = asyncio.get_running_loop().time
        self.reloading.add(lambda new: self.calls.rate.reconfigure(new.limits, now=clock()))
        dialer = DirectDialer(
            self._network,
            tls=config.tls.verify_outgoing,
            check_name=config.tls.verify_server_hostname,
            domain=config.domain,
        )
        pool = RpcPool(dialer, POOL, stand_in=self.calls.stand_in)
        self.calls.use(pool)
        self._closers.append(pool.close)
        self._make_local()
        await self._open_lan()
        self._make_http()
        await self._open_dns()
        self.metrics = ClientMetrics(
            config.telemetry,
            host=self._platform.host_name,
            calls=self.calls,
            pool=lambda: self.lan,
            connections=pool,
            http=self._http,
            dns=self.dns.door,
            lan_events=self._lan_events,
            wall=self._wall,
            clock=asyncio.get_running_loop().time,
        )
        self._start_metrics()
        await self._open_http()
        self._spawn(self.calls.run())
        assert self.lan is not None
        self._start_node_duties(
            Joining(
                config,
                None,
                known_dcs=set,
                lan=self.lan,
                wan=None,
                rng=self._rng,
            )
        )
        self._platform.started()

    async def _stop(self) -> None:
        if hasattr(self, "calls"):
            self.calls.close()
        await super()._stop()

    def _tags(self) -> dict[str, str]:
        timeout = self.config.gossip.advertise_reconnect_timeout
        return client_tags(self._identity, reconnect_timeout=timeout)

    def _tables(self) -> Tables:
        return RemoteTables(self.config.datacenter, rpc=self.rpc, rng=self._rng)

    def _receive_lan_event(self, event: PoolEvent) -> None:
        self.events.receive(event)
        match event:
            case MemberJoined(member) | MemberUpdated(member) | MemberFailed(member):
                self._put(member)
            case MemberLeft(member) | MemberReaped(member):
                self.calls.remove(member.name)
            case _:
                return
        if self._joining is not None:
            self._joining.wake()

    def _put(self, member: Member) -> None:
        """A member may be a server, or be none any more."""
        server = server_of(member)
        if server is None or is_gone(member) or server.dc != self.config.datacenter:
            self.calls.remove(member.name)
        else:
            self.calls.put(server)
