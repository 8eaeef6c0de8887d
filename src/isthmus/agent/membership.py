"""What pool members mean: servers to call, nodes in the catalog, servers to bring into the WAN.

Source: protocol/gossip.md §14.4, §14.5.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final, Protocol

from msgspec.structs import replace

from isthmus.agent.local import same_check, same_service
from isthmus.agent.members import member_registration
from isthmus.errors import EngineError, IsthmusError, RequestError, Unavailable
from isthmus.federation.pacing import Backoff
from isthmus.federation.router import Router, ServerInfo, parse_server
from isthmus.gossip.roster import (
    Member,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberStatus,
    MemberUpdated,
)
from isthmus.model.catalog import (
    SERF_HEALTH,
    ChecksInStateRequest,
    DeregisterRequest,
    IndexedHealthChecks,
    IndexedNodeServices,
    Node,
    NodeRequest,
    NodeServices,
    RegisterRequest,
)
from isthmus.model.record import Record
from isthmus.names import host_port, wan_name

logger = logging.getLogger(__name__)

RECONCILE_INTERVAL: Final = 60.0  # Consul's.
FLOOD_INTERVAL: Final = 60.0  # Consul's.
UNKNOWN_TIME: Final = 45.0
"""Seconds that no member must have stood for a node before it is removed; less than a round."""
_RETRY_FIRST, _RETRY_LONGEST, _RETRY_JITTER = 0.25, 15.0, 0.2
_PENDING_MAX: Final = 65_536  # Members that wait for the catalog; the full round finds the rest.


class Pool(Protocol):
    """What is needed of a gossip pool."""

    def members(self) -> tuple[Member, ...]:
        """Members now, ours included."""

    async def join(self, addresses: Sequence[str]) -> int:
        """Join; how many were contacted."""


def server_of(member: Member) -> ServerInfo | None:
    """The server that a member is; None for any other member."""
    alive = member.status is MemberStatus.ALIVE
    return parse_server(member.name, member.address, member.tags, alive=alive)


def is_gone(member: Member) -> bool:
    """Whether it left by itself, or was forgotten."""
    return member.status in {MemberStatus.LEFT, MemberStatus.NONE}


class WanMembership:
    """Tells the router about the WAN pool's servers.

    Args:
        router: Is told.
        changed: Called after every change.
        departed: Called with a datacenter whose last server left.
    """

    def __init__(
        self, router: Router, *, changed: Callable[[], None], departed: Callable[[str], None]
    ) -> None:
        self._router, self._changed, self._departed = router, changed, departed

    def receive(self, event: object) -> None:
        """Take an event of the WAN pool."""
        if isinstance(event, MemberJoined | MemberUpdated | MemberFailed):
            self._put(event.member)
        elif isinstance(event, MemberLeft | MemberReaped):
            self._remove(event.member)
        else:
            return
        self._changed()

    def _put(self, member: Member) -> None:
        server = server_of(member)
        if server is None:
            logger.warning("WAN member is no server: %s", member.name)
        elif self._router.put(server):
            logger.info("datacenter joined the federation: %s", server.dc, extra={"dc": server.dc})

    def _remove(self, member: Member) -> None:
        dc = member.tags.get("dc", "")
        if self._router.remove(member.name, dc):
            logger.info("datacenter left the federation: %s", dc, extra={"dc": dc})
            self._departed(dc)


class LanMembership:
    """Keeps the catalog and the WAN pool up to date with the LAN pool.

    Args:
        dc: Our datacenter.
        own_name: Our member name: never deregistered.
        rpc: Writes to the catalog.
        rng: Source of jitter.
        leads: Whether we lead our datacenter: only the leader writes its members.
    """

    def __init__(
        self,
        *,
        dc: str,
        own_name: str,
        rpc: Callable[[str, Record], Awaitable[object]],
        rng: Random,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._dc, self._own_name, self._rpc, self._rng = dc, own_name, rpc, rng
        self._leads = leads
        self._lan: Pool | None = None
        self._wan: Pool | None = None
        self._pending: dict[str, Member] = {}
        self._began = False
        self._unknown: dict[str, float] = {}  # Since when no member stands for a node.
        self._round = False  # Whether a full round is to be finished.
        self._work = asyncio.Event()
        self._flood = asyncio.Event()

    def use(self, lan: Pool, wan: Pool | None) -> None:
        """Take the pools, once they are open."""
        self._lan, self._wan = lan, wan

    def receive(self, event: object) -> None:
        """Take an event of the LAN pool."""
        if not isinstance(
            event, MemberJoined | MemberUpdated | MemberFailed | MemberLeft | MemberReaped
        ):
            return
        member = event.member
        if isinstance(event, MemberReaped):
            member = replace(member, status=MemberStatus.NONE)  # It still says how it ended.
        self._note(member)
        if isinstance(event, MemberJoined) and server_of(event.member) is not None:
            self._flood.set()

    def leadership_changed(self) -> None:
        """We lead now: all members are to be written; or we do not any more."""
        self._began = True
        self._work.set()

    async def reconcile(self) -> None:
        """Write members to the catalog as they change, and all of them each minute."""
        backoff = Backoff(
            first=_RETRY_FIRST, longest=_RETRY_LONGEST, jitter=_RETRY_JITTER, rng=self._rng
        )
        assert self._lan is not None
        while True:
            for member in self._lan.members():
                self._note(member)
            self._round = True
            deadline = asyncio.get_running_loop().time() + RECONCILE_INTERVAL
            self._began = False
            while not self._began:
                try:
                    await self._write_pending()
                    backoff.reset()
                except (Unavailable, EngineError) as error:
                    wait = backoff.failed()
                    logger.warning(
                        "could not write members to the catalog, next try in %.1f s: %s",
                        wait,
                        error,
                    )
                    await asyncio.sleep(wait)
                    continue
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._work.wait()
                except TimeoutError:
                    break

    async def flood(self) -> None:
        """Bring our datacenter's servers into the WAN pool, at each join and each minute."""
        assert self._lan is not None
        if self._wan is None:
            return
        while True:
            for address in missing_in_wan(
                self._lan.members(), self._wan.members(), own_name=self._own_name, dc=self._dc
            ):
                try:
                    await self._wan.join([address])
                    logger.info("brought a server of ours into the WAN pool: %s", address)
                except (IsthmusError, OSError) as error:
                    logger.warning("could not bring %s into the WAN pool: %s", address, error)
            try:
                async with asyncio.timeout(FLOOD_INTERVAL):
                    await self._flood.wait()
            except TimeoutError:
                continue
            self._flood.clear()

    def _note(self, member: Member) -> None:
        if member.name in self._pending or len(self._pending) < _PENDING_MAX:
            self._pending[member.name] = member
            self._work.set()

    async def _write_pending(self) -> None:
        self._work.clear()
        if not self._leads():
            self._pending.clear()
            self._unknown.clear()
            self._round = False
        while self._pending:
            name, member = next(iter(self._pending.items()))
            try:
                await self._write(member)
            except RequestError as error:
                logger.warning("the catalog refuses member %s: %s", name, error)
            if self._pending.get(name) is member:
                del self._pending[name]
        if self._round:
            await self._deregister_unknown()
            self._round = False

    async def _write(self, member: Member) -> None:
        if member.tags.get("role") not in {"consul", "node"}:
            return  # Not an agent: a plain Serf member has no place in the catalog.
        found = await self._found(member.name)
        if is_gone(member):
            if member.name != self._own_name and found.node is not None:
                await self._deregister(member.name)
            return
        alive = member.status is not MemberStatus.FAILED
        if not alive and found.node is None:
            return  # It was never seen alive, or removed by hand.
        registration = member_registration(
            node=member.name,
            address=member.address,
            tags=member.tags,
            server=server_of(member),
            alive=alive,
        )
        if alive:
            registration = _moved(registration, found.node)
        if not await self._is_written(registration, found):
            await self._rpc("Catalog.Register", registration)

    async def _found(self, name: str) -> NodeServices:
        """What the catalog has of a member's node."""
        request = NodeRequest(datacenter=self._dc, node=name)
        answer = await self._rpc("Catalog.NodeServices", request)
        assert isinstance(answer, IndexedNodeServices)
        return answer.node_services or NodeServices()

    async def _is_written(self, registration: RegisterRequest, found: NodeServices) -> bool:
        """Whether the catalog has a registration already; each round finds nearly all."""
        if found.node is None or not registration.skip_node_update:
            return False
        service = registration.service
        if service is not None:
            stored = (found.services or {}).get(service.id)
            if stored is None or not same_service(service, stored):
                return False
        request = NodeRequest(datacenter=self._dc, node=registration.node)
        answer = await self._rpc("Health.NodeChecks", request)
        assert isinstance(answer, IndexedHealthChecks)
        check = registration.check
        assert check is not None
        return any(
            stored.check_id == check.check_id and same_check(check, stored)
            for stored in answer.health_checks or ()
        )

    async def _deregister_unknown(self) -> None:
        """Remove nodes that were agents and that no member has stood for since the last round.

        They left or were forgotten while nobody who could write was there to see it. Patience is
        needed, since a pool that we are just joining is not complete.
        """
        assert self._lan is not None
        request = ChecksInStateRequest(datacenter=self._dc, state="any")
        answer = await self._rpc("Health.ChecksInState", request)
        assert isinstance(answer, IndexedHealthChecks)
        known = {member.name.lower() for member in self._lan.members()} | {self._own_name.lower()}
        now = asyncio.get_running_loop().time()
        self._unknown = {
            check.node: self._unknown.get(check.node, now)
            for check in answer.health_checks or ()
            if check.check_id == SERF_HEALTH and check.node.lower() not in known
        }
        for name, since in sorted(self._unknown.items()):
            if now - since < UNKNOWN_TIME:
                continue
            try:
                await self._deregister(name)
            except RequestError as error:
                logger.warning("the catalog refuses to remove node %s: %s", name, error)

    async def _deregister(self, name: str) -> None:
        await self._rpc("Catalog.Deregister", DeregisterRequest(datacenter=self._dc, node=name))
        logger.info("node left, deregistered: %s", name)


def _moved(registration: RegisterRequest, node: Node | None) -> RegisterRequest:
    """The registration of a live member, with its node if that is another than we know.

    A member that came back at another address, or on a new machine, is found there at once;
    what its own agent wrote of the node stays until that writes it anew.
    """
    if node is None or (node.address, node.id) == (registration.address, registration.id):
        return registration
    logger.info("node %s moved: %s, was %s", node.node, registration.address, node.address)
    return replace(
        registration,
        tagged_addresses=node.tagged_addresses,
        node_meta=node.meta,
        skip_node_update=False,
    )


def missing_in_wan(
    lan: Sequence[Member], wan: Sequence[Member], *, own_name: str, dc: str
) -> list[str]:
    """Join addresses (``node.dc/host:port``) of alive LAN servers that the WAN pool lacks."""
    known = {member.name for member in wan if member.status is MemberStatus.ALIVE}
    missing = []
    for member in lan:
        server = server_of(member)
        if server is None or not server.alive or member.name == own_name:
            continue
        name = wan_name(member.name, dc)
        if name not in known and server.wan_join_port:
            missing.append(f"{name}/{host_port(member.address, server.wan_join_port)}")
    return missing
