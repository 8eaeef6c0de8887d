"""Which pools are joined, through whom, and for how long: from configuration to duties.

Source: protocol/federation.md §3; without gateways the ordinary retry-join of both pools.
"""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from random import Random
from typing import Any

from isthmus.agent.federation import Federation
from isthmus.agent.join import Rejoin, RetryJoin, Reunion, discover_primary_gateways
from isthmus.config.model import AgentConfig
from isthmus.names import ANY_SERVER, WAN_JOIN_PLACEHOLDER, host_port, wan_name
from isthmus.net.gossip import Member, MemberStatus, Pool


class Joining:
    """Joins the pools, and joins lost datacenters again.

    Args:
        config: The agent's.
        federation: Ways to other datacenters; a client has none.
        known_dcs: Datacenters that have a federation state, ours included.
        lan: Our datacenter's pool.
        wan: The WAN pool; None when there is none.
        rng: Source of jitter.
    """

    def __init__(
        self,
        config: AgentConfig,
        federation: Federation | None,
        *,
        known_dcs: Callable[[], set[str]],
        lan: Pool,
        wan: Pool | None,
        rng: Random,
    ) -> None:
        self._config, self._federation, self._known_dcs = config, federation, known_dcs
        self._lan, self._wan, self._rng = lan, wan, rng
        self._wakeable: list[RetryJoin | Rejoin] = []

    def wake(self) -> None:
        """A member, a gateway or the locator changed: try sooner."""
        for joining in self._wakeable:
            joining.wake()

    def duties(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What has to run in the background; each ends by itself or never."""
        join = self._config.join
        if join.start_join:
            yield self._join_once("LAN", self._lan, join.start_join, "start_join")
        if join.retry_join:
            yield self._retry(
                "LAN", self._lan, join.retry_join, join.retry_interval, join.retry_max
            )
        if self._config.server:
            lan, dc = self._lan, self._config.datacenter
            yield Reunion(failed=lambda: failed_servers(lan.members(), dc=dc), join=lan.join).run()
        if self._wan is None:
            return
        if self._config.connect.mesh_gateway_wan_federation:
            assert self._federation is not None
            yield from self._through_gateways(self._wan, self._federation)
            return
        if join.start_join_wan:
            yield self._join_once("WAN", self._wan, join.start_join_wan, "start_join_wan")
        if join.retry_join_wan:
            yield self._retry(
                "WAN", self._wan, join.retry_join_wan, join.retry_interval_wan, join.retry_max_wan
            )

    def _through_gateways(
        self, wan: Pool, federation: Federation
    ) -> Iterator[Coroutine[Any, Any, None]]:
        config, connect, primary = (
            self._config,
            self._config.connect,
            self._config.primary_datacenter,
        )

        async def rejoin(dc: str) -> None:
            await wan.join([self._any_server_of(dc)])

        rejoining = Rejoin(
            known=lambda: self._known_dcs() - {config.datacenter},
            present=lambda: _alive_dcs(wan),
            join=rejoin,
            rng=self._rng,
        )
        self._wakeable.append(rejoining)
        yield rejoining.run()
        if config.primary:
            return  # The primary waits for new secondaries.
        if connect.primary_gateways:
            yield discover_primary_gateways(
                self._primary_gateways,
                federation.refresh_primary_gateway_fallback_addresses,
                interval=connect.primary_gateways_interval,
            )
        yield self._retry(
            "WAN",
            wan,
            [self._any_server_of(primary)],
            config.join.retry_interval_wan,
            config.join.retry_max_wan,
            ready=lambda: federation.gateway_known(primary),
        )

    def _retry(
        self,
        name: str,
        pool: Pool,
        addresses: Sequence[str],
        interval: float,
        attempts_max: int,
        ready: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> Coroutine[Any, Any, None]:
        joining = RetryJoin(
            pool=name,
            addresses=addresses,
            join=pool.join,
            interval=interval,
            rng=self._rng,
            attempts_max=attempts_max,
            ready=ready,
        )
        self._wakeable.append(joining)
        return joining.run()

    def _join_once(
        self, name: str, pool: Pool, addresses: Sequence[str], key: str
    ) -> Coroutine[Any, Any, None]:
        """Join at the start; the agent stops when nobody answers."""
        return RetryJoin(
            pool=name,
            addresses=addresses,
            join=pool.join,
            interval=self._config.join.retry_interval,
            rng=self._rng,
            attempts_max=1,
            bound_by=key,
        ).run()

    def _any_server_of(self, dc: str) -> str:
        """Join address of whichever server of a datacenter its gateways pick."""
        placeholder = host_port(WAN_JOIN_PLACEHOLDER, self._config.ports.serf_wan)
        return f"{wan_name(ANY_SERVER, dc)}/{placeholder}"

    async def _primary_gateways(self) -> Sequence[str]:
        """Host names stay as they are: each dial resolves them anew."""
        return self._config.connect.primary_gateways


def failed_servers(members: Sequence[Member], *, dc: str) -> list[str]:
    """Join addresses of servers of a datacenter that failed; who left is none of them."""
    return [
        f"{member.name}/{host_port(member.address, member.port)}"
        for member in members
        if member.status is MemberStatus.FAILED
        and member.tags.get("role") == "consul"
        and member.tags.get("dc") == dc
    ]


def _alive_dcs(wan: Pool) -> set[str]:
    return {
        member.tags.get("dc", "") for member in wan.members() if member.status is MemberStatus.ALIVE
    }
