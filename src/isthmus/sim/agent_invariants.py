"""What must hold in a federation of whole agents: at every moment, and some time after healing.

That nothing crosses between datacenters past their gateways is checked by the network itself, on
everything that is sent (`Fabric.check_way`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from isthmus.federation.locator import usable_addresses
from isthmus.gossip.roster import MemberStatus
from isthmus.model.federation import FederationState
from isthmus.sim import invariants
from isthmus.sim.agent_programs import AgentProgram
from isthmus.sim.agents import AgentFederation
from isthmus.sim.invariants import CROSSINGS, DECLARED_DEAD, INDEXES, OFFERS, STATES

LOOK_INTERVAL: Final = 1.0
"""Virtual seconds between two looks."""
PROGRAMS: Final = "programs"
SENTENCES: Final[Mapping[str, str]] = {
    **{name: invariants.SENTENCES[name] for name in (INDEXES, OFFERS, CROSSINGS)},
    PROGRAMS: "No task and no callback of an agent dies, and no agent ends by itself.",
    **{name: invariants.SENTENCES[name] for name in (DECLARED_DEAD, STATES)},
}
"""What is checked, by name: the first four always, the others some time after healing."""
BOUND: Final = 180.0
"""Virtual seconds of quiet after which all must be well.

A connection that was silenced is tried again after at most two minutes, as TCP has it; the rest is
for the agents.
"""


class InvariantBroken(AssertionError):
    """What must hold did not; says what, and the notes of the error say when.

    Attributes:
        invariant: Which one, by its name in `SENTENCES`.
    """

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(text)
        self.invariant = invariant


class Invariants:
    """Looks at a federation again and again, from outside of virtual time.

    Args:
        federation: Is looked at.
        bound: Seconds of quiet after which what is alive and reachable is seen so, and every
            state the primary has acknowledged is everywhere.
    """

    def __init__(self, federation: AgentFederation, *, bound: float = BOUND) -> None:
        self._federation, self._bound = federation, bound
        self._indexes: dict[tuple[str, str], int] = {}
        self._offers: dict[str, frozenset[str]] = {}  # What each server could know a look ago.
        self._ever: set[str] = set()  # Gateways of the primary, as any server ever knew them.
        self.look_count = 0
        federation.timeline.call_later(LOOK_INTERVAL, self._look)

    def _look(self) -> None:
        self.look_count += 1
        federation = self._federation
        federation.check()
        for server in federation.servers.values():
            if server.is_up:
                self._check_indexes(server)
                self._check_locator(server)
                self._check_members(server)
        self._check_states()
        federation.timeline.call_later(LOOK_INTERVAL, self._look)

    # Always.

    def _check_indexes(self, server: AgentProgram) -> None:
        """No modify index goes back, nor does one of a row; not over a restart either."""
        indexes = {"the store": server.agent.server.store.index}
        for state in server.states():
            indexes[f"the state of {state.datacenter}"] = state.modify_index
            indexes[f"the primary's state of {state.datacenter}"] = state.primary_modify_index
        for what, index in indexes.items():
            last = self._indexes.get((server.name, what), 0)
            if index < last:
                text = f"{server.name}: index of {what}: {index} after {last}"
                raise InvariantBroken(INDEXES, text)
            self._indexes[server.name, what] = index

    def _check_locator(self, server: AgentProgram) -> None:
        """The locator offers no gateway that no state and no configuration contains."""
        locator = server.agent.federation.locator
        assert locator is not None
        states = {state.datacenter: state for state in server.states()}
        primary = self._federation.topology.primary
        now = frozenset(
            (*_usable(states, server.dc, wan=False), *_usable(states, primary, wan=True))
        )
        self._ever |= set(_usable(states, primary, wan=True))
        # It is told in the turn after a write, so what it knew a look ago may still be offered.
        known = now | self._offers.get(server.name, frozenset())
        self._offers[server.name] = now
        configured = set(server.config.connect.primary_gateways)
        strangers = {*locator.local, *locator.primary} - known
        strangers |= set(locator.fallback) - configured
        strangers |= set(locator.hearsay) - self._ever
        if strangers:
            listed = ", ".join(sorted(strangers))
            text = f"{server.name} offers gateways that nothing contains: {listed}"
            raise InvariantBroken(OFFERS, text)

    # After healing.

    def _check_members(self, server: AgentProgram) -> None:
        """Who is alive and reachable is not held for failed longer than the bound."""
        federation = self._federation
        seen = server.members()
        for other in federation.servers.values():
            quiet = federation.now - max(
                federation.quiet_since[server.dc], federation.quiet_since[other.dc]
            )
            if quiet <= self._bound or not other.is_up:
                continue
            status = seen.get(other.member_name, MemberStatus.NONE)
            if status is not MemberStatus.ALIVE:
                raise InvariantBroken(
                    DECLARED_DEAD,
                    f"{server.name} holds {other.name} for {status.name.lower()}"
                    f" after {quiet:.0f} s of quiet",
                )

    def _check_states(self) -> None:
        """After the bound every acknowledged state is in every datacenter."""
        federation = self._federation
        quiet = federation.now - max(federation.quiet_since.values())
        if quiet > self._bound and (missing := federation.missing()):
            text = f"after {quiet:.0f} s of quiet: {'; '.join(missing)}"
            raise InvariantBroken(STATES, text)


def _usable(states: Mapping[str, FederationState], dc: str, *, wan: bool) -> Sequence[str]:
    state = states.get(dc)
    return () if state is None else usable_addresses(state.mesh_gateways or (), wan=wan)
