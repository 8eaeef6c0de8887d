"""The gateway locator: a table that says which gateways lead to a datacenter.

It is told, it never asks: the server's watch on its own store brings federation states,
retry-join the configured addresses of the primary's gateways, the replication duty its
outcomes, and every dial whether a gateway worked. Source: protocol/federation.md §12.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

from isthmus.model.address import lan_address, wan_address
from isthmus.model.catalog import CRITICAL, CheckServiceNode
from isthmus.model.federation import FederationState
from isthmus.names import WAN_FEDERATION_META, host_port

FAILURES_BEFORE_DIRECT: Final = 3  # Consul's value.
_OUTCOMES_MAX: Final = 4096  # Gateways remembered; far more than any federation has.


@dataclass(frozen=True, slots=True)
class LocatorPopulated:
    """Event: the store was read for the first time; gateways can be picked from now on."""


@dataclass(frozen=True, slots=True)
class GatewaysChanged:
    """Event: a list changed. These are the new ones, ``host:port``, sorted.

    Attributes:
        local: Our own gateways.
        primary: The primary's, as replicated.
        fallback: The primary's, as configured.
        hearsay: The primary's, as another secondary says.
    """

    local: tuple[str, ...]
    primary: tuple[str, ...]
    fallback: tuple[str, ...]
    hearsay: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WayToPrimaryChanged:
    """Event: the primary is now dialled through our own gateways, or directly through its."""

    through_local: bool


Event: TypeAlias = LocatorPopulated | GatewaysChanged | WayToPrimaryChanged


class GatewayLocator:
    """Which gateways to dial for a datacenter, best first.

    Reading (`candidates`) is safe from any thread; everything else belongs to one.

    Args:
        dc: Our datacenter.
        primary_dc: The primary datacenter.
        rng: Spreads load over gateways that are equally good.
    """

    def __init__(self, *, dc: str, primary_dc: str, rng: Random) -> None:
        self._dc, self._primary_dc, self._rng = dc.lower(), primary_dc.lower(), rng
        self._local: tuple[str, ...] = ()
        self._primary: tuple[str, ...] = ()
        self._fallback: tuple[str, ...] = ()
        self._hearsay: tuple[str, ...] = ()  # The primary's gateways, as another secondary says.
        self._primary_index = 0  # Primary's modify index of its own record, as replicated.
        self._populated = False
        self._replicating = False
        self._failures = 0  # Consecutive failures of replication.
        self._failing: dict[str, int] = {}  # Gateway → consecutive failures of dials.
        self._through_local = True
        self._outputs: list[Event] = []

    @property
    def populated(self) -> bool:
        """Whether federation states have been told at least once."""
        return self._populated

    @property
    def local(self) -> tuple[str, ...]:
        """Our own usable gateways, LAN addresses, sorted."""
        return self._local

    @property
    def primary(self) -> tuple[str, ...]:
        """The primary's usable gateways as replicated, WAN addresses, sorted."""
        return self._primary

    @property
    def is_cut_off(self) -> bool:
        """Whether replication failed so often that the direct way to the primary is taken."""
        return not self._through_local

    @property
    def hearsay(self) -> tuple[str, ...]:
        """Gateways of the primary that another secondary told us of, sorted."""
        return self._hearsay

    def way_to_primary(self) -> tuple[bool, str]:
        """Whether the primary is dialled through our own gateways, and why so, in words.

        Source: protocol/federation.md §12.4, §12.5.
        """
        if not self._local:
            return False, "no gateway of ours can be used"
        if not self._through_local:
            return False, f"replication failed {self._failures} times in a row"
        if not self._replicating:
            return True, "this server does not lead, so it has no reason to doubt our gateways"
        if self._failures:
            return True, f"replication failed {self._failures} times in a row, not yet too often"
        return True, "replication works"

    @property
    def fallback(self) -> tuple[str, ...]:
        """Configured addresses of the primary's gateways, sorted."""
        return self._fallback

    def set_states(self, states: Iterable[FederationState]) -> None:
        """Take the federation states of our own store; they replace what was told before."""
        local: tuple[str, ...] = ()
        primary: tuple[str, ...] = ()
        for state in states:
            if state.datacenter.lower() == self._dc:
                local = usable_addresses(state.mesh_gateways or (), wan=False)
            if state.datacenter.lower() == self._primary_dc:
                primary = usable_addresses(state.mesh_gateways or (), wan=True)
                self._primary_index = state.primary_modify_index
        if (local, primary) != (self._local, self._primary):
            self._local, self._primary = local, primary
            self._report_lists()
        if not self._populated:
            self._populated = True
            self._outputs.append(LocatorPopulated())
        self._decide_way()

    def set_primary_gateways(self, addresses: Iterable[str]) -> None:
        """Take the configured or discovered addresses (``host:port``) of the primary's gateways."""
        fallback = tuple(sorted(set(addresses)))
        if fallback != self._fallback:
            self._fallback = fallback
            self._report_lists()

    def set_hearsay(self, states: Iterable[FederationState]) -> None:
        """Take what another secondary has, while we are cut off from the primary.

        Only the primary's own record counts, and only if it is newer than ours. It is used for
        dialling and never stored; the first success of replication makes it obsolete.

        Source: protocol/federation.md §21.5, "Better".
        """
        for state in states:
            if (
                state.datacenter.lower() == self._primary_dc
                and state.primary_modify_index > self._primary_index
            ):
                hearsay = usable_addresses(state.mesh_gateways or (), wan=True)
                if hearsay != self._hearsay:
                    self._hearsay = hearsay
                    self._report_lists()

    def replication_started(self) -> None:
        """We lead a secondary and replicate from the primary: its outcomes count from now on."""
        self._replicating, self._failures = True, 0
        self._decide_way()

    def replication_stopped(self) -> None:
        """We lead no longer."""
        self._replicating, self._failures = False, 0
        self._decide_way()

    def replication_succeeded(self) -> None:
        """The primary answered: nobody's hearsay is needed any more."""
        self._failures = 0
        if self._hearsay:
            self._hearsay = ()
            self._report_lists()
        self._decide_way()

    def replication_failed(self) -> None:
        """The primary did not answer, or refused."""
        self._failures += 1
        self._decide_way()

    def gateway_worked(self, address: str) -> None:
        """A dial through the gateway reached its server."""
        self._failing.pop(address, None)

    def gateway_failed(self, address: str) -> None:
        """A dial through the gateway failed; it is tried last until one works again."""
        if address in self._failing or len(self._failing) < _OUTCOMES_MAX:
            self._failing[address] = self._failing.get(address, 0) + 1

    def candidates(self, dc: str) -> tuple[str, ...]:
        """Gateways (``host:port``) to dial for `dc`, best first; empty when none is known.

        Gateways whose last dial failed stand behind the others, never left out. Within a class
        the order is random, so that load spreads. Source: protocol/federation.md §12.4.
        """
        addresses = list(self._addresses(dc.lower()))
        self._rng.shuffle(addresses)
        if self._failing:
            addresses.sort(key=lambda address: self._failing.get(address, 0) > 0)
        return tuple(addresses)

    def take_outputs(self) -> list[Event]:
        """Remove and return the events, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _addresses(self, dc: str) -> Sequence[str]:
        if not self._populated:
            return ()
        if self._dc == self._primary_dc or dc != self._primary_dc:
            return self._local
        if self._through_local and self._local:
            return self._local
        return sorted({*self._primary, *self._fallback, *self._hearsay})

    def _decide_way(self) -> None:
        """Source: protocol/federation.md §12.5. Followers get no outcomes and stay local."""
        through_local = not self._replicating or self._failures < FAILURES_BEFORE_DIRECT
        if through_local != self._through_local:
            self._through_local = through_local
            self._outputs.append(WayToPrimaryChanged(through_local))

    def _report_lists(self) -> None:
        self._outputs.append(
            GatewaysChanged(self._local, self._primary, self._fallback, self._hearsay)
        )


def usable_addresses(gateways: Iterable[CheckServiceNode], *, wan: bool) -> tuple[str, ...]:
    """Addresses (``host:port``, sorted) of the gateways that may carry federation traffic.

    Kept are those with the federation meta and no critical check.

    Source: protocol/federation.md §12.2.
    """
    address = wan_address if wan else lan_address
    usable = (address(gateway) for gateway in gateways if is_usable(gateway))
    return tuple(sorted({host_port(host, port) for host, port in usable if host and port}))


def is_usable(gateway: CheckServiceNode) -> bool:
    """Whether it exposes its datacenter's servers and none of its checks is critical."""
    service = gateway.service
    if service is None or (service.meta or {}).get(WAN_FEDERATION_META) != "1":
        return False
    return all(check.status != CRITICAL for check in gateway.checks or ())
