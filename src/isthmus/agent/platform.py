"""What an agent stands on: the machine's network, clock, chance and threads.

Everything that an agent does not decide by itself comes from here, so that the same agent runs
on a machine and, whole, in the simulator.
"""

import gc
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

from isthmus.agent import settings
from isthmus.agent.member import LocalMember
from isthmus.config.model import AgentConfig
from isthmus.net.gossip import GossipRunner, GossipThread
from isthmus.net.network import Network
from isthmus.net.sockets import SocketNetwork
from isthmus.net.tls import TlsConfig, TlsConfigurator
from isthmus.store.engine import Engine

_GC_THRESHOLDS: Final = (20_000, 20, 50)
"""A request leaves no cycles: the usual rounds after 700 new objects find nothing to collect and
cost a write a tenth of its time."""


class Platform(Protocol):
    """Makes the parts of an agent that touch the world."""

    def entropy(self, size: int) -> bytes:
        """So many random bytes."""

    def wall(self) -> datetime:
        """The calendar clock: aware, UTC."""

    @property
    def host_name(self) -> str:
        """Of the machine."""

    def tls(self, config: TlsConfig) -> TlsConfigurator:
        """Certificates out of the operator's files.

        Raises:
            ConfigError: A file cannot be used.
        """

    def network(self, tls: TlsConfigurator) -> Network:
        """Where to listen and dial, with these certificates."""

    def gossip(
        self, network: Network, *, on_failure: Callable[[BaseException], None]
    ) -> GossipRunner:
        """Where the gossip pools live.

        Args:
            network: How they listen and dial.
            on_failure: Called, maybe on another thread, when a defect of ours stopped it.
        """

    def engine(self, config: AgentConfig) -> Engine:
        """Where data is durable."""

    def member(self, config: AgentConfig, node_id: str) -> LocalMember:
        """Our member of the storage cluster; it may run already."""

    def started(self) -> None:
        """The agent runs, and what it made until now will stay."""


class Machine:
    """The machine that this process runs on; implements `Platform`.

    Args:
        entropy: Makes that many random bytes.
        wall: Reads the calendar clock; None: the machine's.
        member: Our member of the storage cluster, if it was started before all else.
    """

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        wall: Callable[[], datetime] | None = None,
        member: LocalMember | None = None,
    ) -> None:
        self._entropy, self._wall, self._member = entropy, wall, member

    def entropy(self, size: int) -> bytes:
        """See `Platform.entropy`."""
        return self._entropy(size)

    def wall(self) -> datetime:
        """See `Platform.wall`."""
        if self._wall is not None:
            return self._wall()
        return datetime.now(UTC)  # noqa: TID251 - This is the driver that reads it.

    @property
    def host_name(self) -> str:
        """See `Platform.host_name`."""
        return os.uname().nodename

    def tls(self, config: TlsConfig) -> TlsConfigurator:
        """See `Platform.tls`."""
        return TlsConfigurator(config)

    def network(self, tls: TlsConfigurator) -> Network:
        """See `Platform.network`."""
        return SocketNetwork(tls)

    def gossip(
        self, network: Network, *, on_failure: Callable[[BaseException], None]
    ) -> GossipRunner:
        """A thread of its own."""
        return GossipThread(network, on_failure=on_failure)

    def engine(self, config: AgentConfig) -> Engine:
        """See `Platform.engine`."""
        return settings.engine(config, entropy=self.entropy, wall=self.wall)

    def member(self, config: AgentConfig, node_id: str) -> LocalMember:
        """See `Platform.member`."""
        return self._member or LocalMember(config, node_id)

    def started(self) -> None:
        """Take what was made until now out of garbage collection's rounds; have fewer of them."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
