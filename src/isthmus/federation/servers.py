"""The servers of our own datacenter as a client agent sees them: whom to call, and when to change.

All calls go to the first server of a list. One that fails goes to its end and cools down. Every
few minutes the list is shuffled, so that the clients of a datacenter spread over its servers again
after some were away; the new order counts once its first server has answered a ping.

Source: protocol/rpc.md §7, "Rebalance".
"""

from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

from isthmus.federation.cooling import Cooling
from isthmus.federation.router import ServerInfo

REBALANCE_MIN: Final = 120.0
"""Seconds that a client stays with a server, at least; Consul's number."""
REBALANCE_JITTER: Final = 60.0
"""Seconds that chance adds, at most; Consul's number."""
REBALANCES_PER_SERVER: Final = 64.0
"""Clients per second that come to one server by rebalancing, at most; Consul's number."""
SERVERS_MAX: Final = 64
"""Servers that are listed; a datacenter has at most a few."""


@dataclass(frozen=True, slots=True)
class PingServer:
    """Action: find out whether `server` answers, and tell `LanServers.pinged`."""

    server: ServerInfo


Output: TypeAlias = PingServer


class LanServers:
    """The servers of our datacenter, in the order in which they are called.

    Args:
        rng: Source of order and jitter.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(self, *, rng: Random, now: float) -> None:
        self._rng = rng
        self._servers: dict[str, ServerInfo] = {}  # In order, by name.
        self._cooling = Cooling()
        self._settled = False  # Whether any has answered us.
        self._trial: list[str] = []  # The order that is to come, while it is tried.
        self._outputs: list[Output] = []
        self._rebalance_at = now + self._interval(0)

    def __len__(self) -> int:
        """How many are known, failed ones included."""
        return len(self._servers)

    def put(self, server: ServerInfo) -> ServerInfo | None:
        """Add a server, or replace what is known of it.

        Returns:
            What was known of it before, if it is reached in another way now.
        """
        known = self._servers.get(server.name)
        if known is None and len(self._servers) >= SERVERS_MAX:
            return None
        if known is None or (server.alive and not known.alive):
            self._cooling.forget(server.name)  # It was just started.
        self._servers[server.name] = server
        if known is None and not self._settled:
            self._shuffle()  # Clients that start together do not all begin with the same one.
        moved = known is not None and (known.host, known.port) != (server.host, server.port)
        return known if moved else None

    def remove(self, name: str) -> ServerInfo | None:
        """Forget a server that left; return it if it was known."""
        self._cooling.forget(name)
        return self._servers.pop(name, None)

    def in_order(self, *, now: float) -> tuple[ServerInfo, ...]:
        """Whom to call first, second and so on: those that cool down late, failed members last."""
        return tuple(
            sorted(
                self._servers.values(),
                key=lambda server: (
                    not server.alive,
                    self._cooling.is_cooling(server.name, now=now),
                ),
            )
        )

    def failed(self, server: ServerInfo, *, now: float) -> None:
        """A call to it failed: it goes to the end and cools down."""
        if server.name in self._servers:
            self._cooling.failed(server.name, now=now)
            self._servers[server.name] = self._servers.pop(server.name)

    def answered(self, server: ServerInfo) -> None:
        """It carried a call out."""
        self._settled = True
        self._cooling.forget(server.name)

    # Rebalancing ----------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """Moment at which `handle_timer` is due, on the driver's clock."""
        return self._rebalance_at

    def handle_timer(self, *, now: float, member_count: int) -> None:
        """Begin to rebalance, if it is time.

        Args:
            now: On the driver's clock.
            member_count: Members of the LAN pool: the more, the rarer each of them rebalances.
        """
        if now < self._rebalance_at:
            return
        self._rebalance_at = now + self._interval(member_count)
        self._trial = [name for name, server in self._servers.items() if server.alive]
        self._rng.shuffle(self._trial)
        self._try_next()

    def pinged(self, server: ServerInfo, *, ok: bool, now: float) -> None:
        """Whether a server answered its ping; if not, the next one gets one."""
        if not self._trial or self._trial[0] != server.name:
            return  # The list was shuffled anew meanwhile.
        if not ok:
            self.failed(server, now=now)
            self._trial.pop(0)
            self._try_next()
            return
        self.answered(server)
        # Whom nobody asked comes next; who did not answer, and failed members, last.
        first = {name: self._servers[name] for name in self._trial if name in self._servers}
        self._servers = first | self._servers
        self._trial = []

    def take_outputs(self) -> list[Output]:
        """Remove and return all that is to be done, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _shuffle(self) -> None:
        names = list(self._servers)
        self._rng.shuffle(names)
        self._servers = {name: self._servers[name] for name in names}

    def _try_next(self) -> None:
        while self._trial and self._trial[0] not in self._servers:
            self._trial.pop(0)
        if self._trial:
            self._outputs.append(PingServer(self._servers[self._trial[0]]))

    def _interval(self, member_count: int) -> float:
        stay = REBALANCE_MIN + self._rng.uniform(0, REBALANCE_JITTER)
        rate = REBALANCES_PER_SERVER * max(1, len(self._servers))
        return max(stay, member_count / rate)
