"""A server's storage: the engine that its configuration asks for.

An etcd of our own has to be formed or joined before there is an engine to open; what that takes is
in `agent.etcd`, which is loaded only where etcd is used.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Final

from isthmus.agent.member import FOLDER
from isthmus.agent.platform import Platform
from isthmus.config.model import AgentConfig
from isthmus.errors import ConfigError, InvalidRequest, Mistake
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.model.storage import StorageReply, StorageRequest
from isthmus.names import host_port
from isthmus.net.client import ServerTarget
from isthmus.server.election import Alone, Election
from isthmus.server.forward import RemoteCaller
from isthmus.server.operator import LanServer
from isthmus.server.server import Server
from isthmus.store.engine import Engine

logger = logging.getLogger(__name__)

ELECTION_DELAY_MAX: Final = 0.5
"""With somebody else's etcd: seconds after which the last server claims a free leadership."""


class ServerStorage:
    """The storage of one server, when nothing has to be formed before it can be opened.

    Attributes:
        engine: Where its data is durable.
        election: When it leads; None: whenever nobody does.
        needs_others: Whether other servers, and so gossip and RPC, come before the engine.
        is_shared: Whether several servers use it.

    Args:
        config: The agent's.
        engine: See above.
        election: See above.
        node_id: Our server id.
        lan: Members of the LAN pool, as of now.
    """

    needs_others = False

    def __init__(
        self,
        config: AgentConfig,
        engine: Engine,
        election: Election | None = None,
        *,
        node_id: str,
        lan: Callable[[], tuple[Member, ...]],
    ) -> None:
        self._config, self._own_id, self._lan = config, node_id, lan
        self.engine, self.election = engine, election
        self.is_shared = engine.shared

    async def open(self) -> None:
        """Know what we knew before; then `answer` may be called."""

    async def run(self, server: Server) -> None:
        """Bring the storage up, start the server on it, and care for it, until cancelled.

        Raises:
            EngineError: It cannot be used; the class says why.
        """
        await server.start()

    async def leave(self, server: Server) -> None:
        """The server leaves its datacenter for good: let the others do without it."""

    async def close(self) -> None:
        """Stop what we started; the engine itself is the server's to close."""

    def wake(self) -> None:
        """A server came or went."""

    async def voters(self) -> Mapping[str, bool]:
        """Server ids, and whether each counts for the majority: we alone, or all that live."""
        if not self.is_shared:
            return {self._own_id: True}
        known = presence(self._lan(), dc=self._config.datacenter)
        return {server: True for server, alive in known.items() if alive} | {self._own_id: True}

    async def remove(self, server_id: str) -> None:
        """Refuse: servers that do not keep the data themselves come and go with the LAN pool.

        Raises:
            InvalidRequest: Always.
        """
        raise InvalidRequest(
            "only servers that run the datacenter's etcd themselves can be removed from it; "
            "a server that is gone leaves with: isthmus force-leave NODE"
        )

    async def answer(self, request: StorageRequest) -> StorageReply:
        """Answer another server's step of forming a cluster.

        Raises:
            InvalidRequest: We run no etcd.
            RequestError, Unavailable: It cannot be done now; the text says why.
        """
        raise InvalidRequest(
            f"server {self._config.node_name} keeps its data in {self._config.storage_engine}: "
            "servers of one datacenter need the same storage"
        )


def make_storage(
    config: AgentConfig,
    platform: Platform,
    *,
    node_id: str,
    caller: RemoteCaller,
    lan: Callable[[], tuple[Member, ...]],
    rng: Random,
) -> ServerStorage:
    """The storage that a configuration asks for, not open yet.

    Args:
        config: The agent's.
        platform: Clock, chance, disk.
        node_id: Our server id.
        caller: Calls other servers.
        lan: Members of the LAN pool, as of now.
        rng: Source of jitter.

    Raises:
        ConfigError: The data directory has data that another engine keeps.
    """
    _check_kept(config)
    if config.storage_engine != "etcd":
        return ServerStorage(config, platform.engine(config), node_id=node_id, lan=lan)
    from isthmus.agent import etcd  # It loads gRPC, which others do without.

    if config.storage.endpoints:
        election = Alone(rng, delay_max=ELECTION_DELAY_MAX)
        engine = etcd.external_engine(config, platform)
        return ServerStorage(config, engine, election, node_id=node_id, lan=lan)
    return etcd.ManagedStorage(config, platform, node_id=node_id, caller=caller, lan=lan, rng=rng)


class CurrentStorage:
    """Who keeps the data now; implements `server.operator.StorageServers`.

    Args:
        current: The storage, which may be exchanged for another.
    """

    def __init__(self, current: Callable[[], ServerStorage]) -> None:
        self._current = current

    async def voters(self) -> Mapping[str, bool]:
        """See `StorageServers.voters`."""
        return await self._current().voters()

    async def remove(self, server_id: str) -> None:
        """See `StorageServers.remove`."""
        await self._current().remove(server_id)


async def move_to_etcd(
    config: AgentConfig,
    platform: Platform,
    *,
    node_id: str,
    caller: RemoteCaller,
    lan: Callable[[], tuple[Member, ...]],
    rng: Random,
    server: Server,
) -> ServerStorage:
    """Have a running server keep its data in an etcd of its own, which others can then join.

    Reads go on; writes wait for the seconds that the copying takes. The old files stay, under
    another name.

    Returns:
        The new storage, which runs; the old one is closed.

    Raises:
        InvalidRequest: The data is in etcd already, or nowhere. Nothing changed.
        EngineError, Unavailable: It could not be done; the data is where it was.
    """
    if config.data_dir is None:
        raise InvalidRequest("an agent with -dev keeps nothing that could be moved")
    if server.engine.shared:
        raise InvalidRequest("this server's data is in etcd already")
    from isthmus.agent import etcd

    alone = replace(config, bootstrap=True, bootstrap_expect=0)
    storage = etcd.ManagedStorage(alone, platform, node_id=node_id, caller=caller, lan=lan, rng=rng)
    try:
        await storage.open()
        await storage.keeper.run()
        await server.replica.move(storage.engine, storage.members)
    except BaseException:
        await storage.close()
        raise
    storage.serve(server)
    stamp = int(platform.wall().timestamp())
    old = config.data_dir / "store"
    kept = old.rename(old.with_name(f"sqlite.migrated-{stamp}"))
    logger.info("the data is kept by etcd from now on; the old files are in %s", kept)
    return storage


def departed(members: tuple[Member, ...], *, dc: str) -> set[str]:
    """Ids of servers of our datacenter that left, and did not come back."""
    return {
        member.tags.get("id", "")
        for member in members
        if member.tags.get("role") == "consul"
        and member.tags.get("dc") == dc
        and member.status is MemberStatus.LEFT
    }


def presence(members: tuple[Member, ...], *, dc: str) -> dict[str, bool]:
    """Servers of our datacenter by id: whether each is alive; who left is missing."""
    return {
        member.tags.get("id", ""): member.status is not MemberStatus.FAILED
        for member in members
        if member.tags.get("role") == "consul"
        and member.tags.get("dc") == dc
        and member.status not in {MemberStatus.LEFT, MemberStatus.NONE}
    }


def lan_servers(members: tuple[Member, ...], *, own: LanServer, dc: str) -> list[LanServer]:
    """All servers of our datacenter, failed ones too, in order of their nodes."""
    found = {own.server_id: own}
    for member in members:
        tags = member.tags
        if (
            tags.get("role") == "consul"
            and tags.get("dc") == dc
            and member.status not in {MemberStatus.LEFT, MemberStatus.NONE}
            and tags.get("id", "") not in {"", own.server_id}
            and tags.get("port", "").isdigit()
        ):
            found[tags["id"]] = LanServer(
                server_id=tags["id"],
                node=member.name,
                address=host_port(member.address, int(tags["port"])),
                alive=member.status is not MemberStatus.FAILED,
                version=tags.get("build", "").partition(":")[0],
                read_replica=bool(tags.get("read_replica")),
            )
    return sorted(found.values(), key=lambda server: server.node)


def other_servers(
    members: tuple[Member, ...], *, own_id: str, dc: str
) -> Mapping[str, ServerTarget]:
    """Living servers of our datacenter but us, by id."""
    found = {}
    for member in members:
        server_id, port = member.tags.get("id", ""), member.tags.get("port", "")
        if (
            member.status is MemberStatus.ALIVE
            and member.tags.get("role") == "consul"
            and member.tags.get("dc") == dc
            and server_id not in {"", own_id}
            and port.isdigit()
        ):
            found[server_id] = ServerTarget(dc, member.name, member.address, int(port))
    return found


def _check_kept(config: AgentConfig) -> None:
    """Refuse to start empty beside data that another engine keeps.

    Raises:
        ConfigError: The data directory has such data.
    """
    if config.data_dir is None:
        return
    sqlite, etcd = config.data_dir / "store" / "state.db", config.data_dir / FOLDER / "etcd"
    wanted = config.storage_engine
    for engine, place in (("sqlite", sqlite), ("etcd", etcd)):
        if engine != wanted and wanted != "memory" and place.exists():
            raise ConfigError(
                [
                    Mistake(
                        config.origins.get("storage.engine", ""),
                        "storage.engine",
                        f"this server's data is kept by {engine} ({place}), and the configuration "
                        f"asks for {wanted}",
                        f'set storage {{ engine = "{engine}" }}, or move the data with: '
                        f"isthmus operator storage migrate -to={wanted} and the agent's own flags",
                    )
                ]
            )
