"""All that reaches other datacenters: router, locator, gateway dialling, calls.

The locator is a table on the main loop; the gossip thread reads it and reports its dials through
the main loop. Source: protocol/federation.md §5, §6, §12.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from random import Random

from isthmus.config.model import AgentConfig
from isthmus.errors import DialFailed
from isthmus.federation.diagnosis import hop_of, remedy_for
from isthmus.federation.locator import (
    GatewayLocator,
    GatewaysChanged,
    LocatorPopulated,
    WayToPrimaryChanged,
)
from isthmus.federation.outcomes import Outcomes, TroubleEnded
from isthmus.federation.router import Router
from isthmus.names import host_port, split_host_port
from isthmus.net.client import ServerTarget
from isthmus.net.direct import DirectDialer
from isthmus.net.network import Network
from isthmus.net.pool import RpcPool
from isthmus.net.wan import FederatedDialer, GatewayDialer, GatewayOutcome, GossipCarrier
from isthmus.server.forward import Forwarder

logger = logging.getLogger(__name__)


class Federation:
    """The ways to other datacenters. Create it on the main loop.

    Args:
        config: The agent's.
        network: Where to dial.
        rng: Source of chance.
        changed: Called when gateways became known or changed.
        populated: Called once, when the locator was told the states of our store.
        far: Seconds to a member of the WAN pool and back; infinite when that is unknown.

    Attributes:
        locator: None when gateways are not in use.
        outcomes: What became of dials and calls.
    """

    def __init__(
        self,
        config: AgentConfig,
        network: Network,
        *,
        rng: Random,
        changed: Callable[[], None],
        populated: Callable[[], None],
        far: Callable[[str], float] = lambda name: math.inf,
    ) -> None:
        self._config, self._network = config, network
        self._changed, self._populated, self._far = changed, populated, far
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.outcomes = Outcomes()
        self.router = Router()
        self.locator: GatewayLocator | None = None
        gateways: GatewayDialer | None = None
        if config.connect.mesh_gateway_wan_federation:
            self.locator = GatewayLocator(
                dc=config.datacenter, primary_dc=config.primary_datacenter, rng=rng
            )
            gateways = self._dialer(self._receive_outcome, self._receive_failure)
        direct = DirectDialer(
            network,
            tls=config.tls.verify_outgoing,
            check_name=config.tls.verify_server_hostname,
            domain=config.domain,
        )
        self.pool = RpcPool(
            FederatedDialer(direct, gateways, config.datacenter),
            on_silent=self._gateway_silent,
            stand_in=self._stand_in,
        )
        self.forwarder = Forwarder(self.router, self.pool, self, far=far)

    def gossip_carrier(self) -> GossipCarrier:
        """What carries gossip through gateways; to be called on the gossip thread's loop."""
        assert self.locator is not None
        dialer = self._dialer(self._receive_from_gossip, self._receive_failure_from_gossip)
        return GossipCarrier(dialer, self._config.datacenter)

    # How calls end (`server.forward.Witness`) -----------------------------------------------------

    def call_answered(self, dc: str, node: str) -> None:
        """See `Witness.call_answered`."""
        if self.outcomes.has_news_in_an_answer:
            self.outcomes.answered(dc, node, now=self._loop.time())
            self._tell_outcomes()

    def call_refused(self, dc: str, node: str) -> float:
        """See `Witness.call_refused`."""
        seconds = self.outcomes.refused(dc, node, now=self._loop.time())
        self._tell_outcomes()
        return seconds

    def call_failed(
        self, dc: str, *, node: str, gateway: str, step: str, text: str, dialled: bool
    ) -> float:
        """See `Witness.call_failed`."""
        now = self._loop.time()
        trouble = self.outcomes.trouble(dc)
        if trouble is None or dialled or self.locator is None:
            trouble = self.outcomes.failed(
                dc, node=node, gateway=gateway, step=step, text=text, by_call=dialled, now=now
            )
            self._tell_outcomes()
        return now - trouble.since

    def why(self, dc: str) -> str:
        """See `Witness.why`."""
        trouble = self.outcomes.trouble(dc)
        if trouble is None:
            return ""
        lasting = self._loop.time() - trouble.since
        return (
            f"no server of it is in the WAN pool yet, and it cannot be joined:"
            f" {trouble.text}, for {lasting:.1f} s now"
        )

    def refresh_primary_gateway_fallback_addresses(self, addresses: Sequence[str]) -> None:
        """Take the addresses that retry-join found in `primary_gateways`."""
        if self.locator is not None:
            self.locator.set_primary_gateways(addresses)
            self.locator_told()

    def locator_told(self) -> None:
        """The locator was told something: log what it says, wake who waits for it."""
        if self.locator is None:
            return
        for event in self.locator.take_outputs():
            match event:
                case LocatorPopulated():
                    logger.info("gateway locator is populated")
                    self._populated()
                case GatewaysChanged(local, primary, fallback, hearsay):
                    logger.info(
                        "gateways changed: local %s, primary %s, configured %s, heard of %s",
                        _listed(local),
                        _listed(primary),
                        _listed(fallback),
                        _listed(hearsay),
                    )
                case WayToPrimaryChanged(through_local):
                    logger.info(
                        "will dial the primary datacenter through %s gateways",
                        "our own" if through_local else "its",
                    )
            self._news.set()
            self._changed()

    async def gateway_known(self, dc: str) -> None:
        """Return as soon as there is a gateway to dial for a datacenter."""
        assert self.locator is not None
        while not self.locator.candidates(dc):
            self._news.clear()
            await self._news.wait()

    async def close(self) -> None:
        """Close all connections."""
        await self.pool.close()

    def _dialer(
        self,
        report: Callable[[GatewayOutcome], None],
        report_failure: Callable[[DialFailed], None],
    ) -> GatewayDialer:
        return GatewayDialer(
            self._network,
            self._pick,
            report,
            domain=self._config.domain,
            report_failure=report_failure,
        )

    def _pick(self, dc: str) -> Sequence[tuple[str, int]]:
        assert self.locator is not None
        return [split_host_port(address) for address in self.locator.candidates(dc)]

    def _receive_from_gossip(self, outcome: GatewayOutcome) -> None:
        self._loop.call_soon_threadsafe(self._receive_outcome, outcome)

    def _receive_failure_from_gossip(self, failure: DialFailed) -> None:
        self._loop.call_soon_threadsafe(self._receive_failure, failure)

    def _receive_failure(self, failure: DialFailed) -> None:
        """A dial failed over all gateways."""
        self.outcomes.failed(
            failure.dc,
            node=failure.node,
            gateway=failure.gateway,
            step=failure.step,
            text=str(failure),
            by_call=False,
            now=self._loop.time(),
        )
        self._tell_outcomes()

    def _tell_outcomes(self) -> None:
        """Log what changed: one line when a datacenter's trouble begins, turns, ends."""
        for event in self.outcomes.take_outputs():
            trouble = event.trouble
            if isinstance(event, TroubleEnded):
                logger.info(
                    "datacenter %s is reached again after %.1f s",
                    trouble.dc,
                    event.seconds,
                    extra={"dc": trouble.dc, "node": trouble.node},
                )
                continue
            logger.warning(
                "cannot reach datacenter %s: %s: remedy: %s",
                trouble.dc,
                trouble.text,
                remedy_for(
                    trouble.step,
                    trouble.text,
                    source=self._config.datacenter,
                    target=trouble.dc,
                    gateway=trouble.gateway,
                ),
                extra={
                    "dc": trouble.dc,
                    "node": trouble.node,
                    "hop": str(hop_of(trouble.step, trouble.text)),
                },
            )

    def _stand_in(self, target: ServerTarget) -> ServerTarget:
        """Another server of the datacenter: server or gateway may be what is silent."""
        if target.dc == self._config.datacenter:
            return target  # That call is for the leader.
        now = self._loop.time()
        for server in self.router.servers(target.dc):
            if server.node == target.node:
                self.router.failed(server, now=now)
        for server in self.router.in_order(target.dc, now=now, far=self._far):
            return ServerTarget(server.dc, server.node, server.host, server.port)
        return target

    def _gateway_silent(self, target: ServerTarget, gateway: str) -> None:
        assert self.locator is not None
        self.locator.gateway_failed(gateway)
        logger.warning(
            "connection through gateway %s shows no sign of life",
            gateway,
            extra={"dc": target.dc, "node": target.node},
        )

    def _receive_outcome(self, outcome: GatewayOutcome) -> None:
        assert self.locator is not None
        address = host_port(outcome.host, outcome.port)
        self.outcomes.gateway_dialled(
            address,
            outcome.dc,
            outcome.node,
            seconds=outcome.seconds,
            error=outcome.text,
            now=self._loop.time(),
        )
        self._tell_outcomes()
        if outcome.ok:
            self.locator.gateway_worked(address)
        else:
            self.locator.gateway_failed(address)
            logger.debug(
                "gateway %s did not lead to server %s: %s: %s",
                address,
                outcome.node,
                outcome.step,
                outcome.text,
                extra={"dc": outcome.dc},
            )


def _listed(addresses: Sequence[str]) -> str:
    return ", ".join(addresses) or "none"
