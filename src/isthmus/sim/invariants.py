"""What must hold in every simulated federation: always, and within a bound once all has healed.

Nothing here changes what happens: the federation tells (`server.Monitor`), and is looked at.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Final

from isthmus.federation.locator import usable_addresses
from isthmus.gossip.roster import MemberFailed, MemberJoined, MemberLeft, MemberStatus
from isthmus.gossip.serf import Serf
from isthmus.model.federation import FederationState
from isthmus.names import ANY_SERVER, split_wan_name
from isthmus.sim.datacenter import Datacenter
from isthmus.sim.network import Machine
from isthmus.sim.recording import LAN, WAN, Recording
from isthmus.sim.topology import Host, Role
from isthmus.sim.ways import NoWay

if TYPE_CHECKING:
    from isthmus.sim.federation import Federation
    from isthmus.sim.server import Server

INDEXES: Final = "indexes"
OFFERS: Final = "offers"
CROSSINGS: Final = "crossings"
COUNTERS: Final = "counters"
NAMES: Final = "names"
ACKNOWLEDGED: Final = "acknowledged"
DECLARED_DEAD: Final = "declared dead"
STATES: Final = "states"
WAYS: Final = "ways"

SENTENCES: Final[Mapping[str, str]] = {
    INDEXES: "The index of a store, and of a record in it, never goes back.",
    OFFERS: "A locator offers only gateways that some known state or configuration contains.",
    CROSSINGS: "No message crosses datacenters except through a gateway of the one it enters.",
    COUNTERS: "Incarnation and Lamport times of a server never go back while it lives.",
    NAMES: "Members' tables hold only names of members that exist.",
    ACKNOWLEDGED: "A federation state that the primary acknowledged is never lost there.",
    DECLARED_DEAD: "No live, reachable member stays declared dead for longer than the bound.",
    STATES: "Each datacenter's newest federation state reaches every datacenter within the bound.",
    WAYS: "Every datacenter can reach every other within the bound.",
}
"""What is checked: the first six always, the others once all has been well for the bound."""

RECENT: Final = 1.0
"""Seconds that a follower may offer what its store held before: it is told a little later."""
WAYS_CHECKED_MAX: Final = 30
"""Datacenters that each one's ways to are checked; in a larger federation chance picks them."""
VIOLATIONS_MAX: Final = 100
"""Violations of one invariant that are recorded; further ones would say the same."""
_GATEWAY: Final = Role.GATEWAY.value
_GONE: Final = frozenset({MemberStatus.FAILED, MemberStatus.LEFT})


class Invariants:
    """Watches one federation.

    Args:
        recording: Takes violations, detections and convergences.
        bound: Seconds within which all must be well once nothing is disturbed.
        quiet_since: Since when nothing is disturbed; None: something is, now.
        unreachable: Whether a fault that lasts separates two datacenters.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        bound: float,
        quiet_since: Callable[[], float | None],
        unreachable: Callable[[str, str], bool],
    ) -> None:
        self._recording, self._bound = recording, bound
        self._quiet_since, self._unreachable = quiet_since, unreachable
        recording.invariants.update(SENTENCES)
        self._federation: Federation
        self._counts: dict[str, int] = {}
        self._indexes: dict[str, int] = {}
        self._record_indexes: dict[tuple[str, str], int] = {}
        self._counters: dict[Server, tuple[int, ...]] = {}
        self._known: dict[str, dict[str, float]] = {}
        """Addresses that each datacenter's store held: until when (infinite: it holds them)."""
        self._ever: set[str] = set()
        """Addresses of the primary's gateways that any store ever held: hearsay may be old."""
        self._dead: dict[tuple[Server, str, bool], float] = {}
        """Who takes whom for dead in which pool (WAN: True), since when."""
        self._acknowledged: dict[str, int] = {}
        self._behind: dict[str, set[str]] = {}
        """For each datacenter with news: those that do not have its newest state yet."""
        self._changed_at: dict[str, float] = {}
        self._told: set[object] = set()

    def watch(self, federation: "Federation") -> None:
        """Look at this federation; before it is built."""
        self._federation = federation

    def filled(self) -> None:
        """See `Monitor.filled`."""
        self._changed_at.clear()
        for datacenter in self._federation.datacenters.values():
            self._indexes[datacenter.name] = datacenter.tables.states_index
            self._behind[datacenter.name] = set()
            self._remember_addresses(datacenter)

    @property
    def behind_count(self) -> int:
        """Datacenters that lack the newest state of some datacenter."""
        lacking: set[str] = set()
        return len(lacking.union(*self._behind.values()))

    @property
    def _now(self) -> float:
        return self._federation.world.now

    def violated(self, invariant: str, text: str) -> None:
        """Record a violation."""
        count = self._counts[invariant] = self._counts.get(invariant, 0) + 1
        if count <= VIOLATIONS_MAX:
            self._recording.violated(self._now, invariant, text)

    # Always ---------------------------------------------------------------------------------------

    def committed(self, datacenter: Datacenter, about: str) -> None:
        """See `Monitor.committed`."""
        name, tables = datacenter.name, datacenter.tables
        index = tables.states_index
        if index < self._indexes.get(name, 0):
            self.violated(INDEXES, f"{name}: index went back from {self._indexes[name]} to {index}")
        self._indexes[name] = index
        state = tables.state(about)
        key = name, about
        if state is None:
            self._record_indexes.pop(key, None)
        else:
            before = self._record_indexes.get(key, 0)
            if not before <= state.modify_index <= index:
                self.violated(
                    INDEXES,
                    f"{name}: record of {about} has index {state.modify_index}, after {before},"
                    f" in a store at {index}",
                )
            self._record_indexes[key] = state.modify_index
        self._compare(datacenter, about, state)
        if about in {name, self._federation.primary}:  # Those that a locator reads.
            self._remember_addresses(datacenter)

    def offered(self, server: "Server", dc: str, candidates: Sequence[str]) -> None:
        """See `Monitor.offered`."""
        known, since = self._known.get(server.host.dc, {}), self._now
        process = server.process
        if since - process.stood_until <= RECENT:
            since = process.stood_from  # It has yet to hear what changed while it stood still.
        for address in candidates:
            if known.get(address, 0.0) >= since or address in self._federation.primary_gateways():
                continue
            if address in server.locator.hearsay and address in self._ever:
                continue
            self.violated(
                OFFERS,
                f"{server.host.name} is offered {address} for {dc}, which neither a state of its"
                " datacenter nor its configuration contains",
            )

    def crossing(self, path: Sequence[Machine], *, back: bool = False) -> None:
        """See `Monitor.crossing`."""
        dialled = tuple(reversed(path)) if back else path
        for source, target in pairwise(dialled):
            if source.group != target.group and not target.name.startswith(_GATEWAY):
                self.violated(
                    CROSSINGS,
                    f"from {source.name} straight to {target.name}, which is no gateway",
                )

    def leads(self, server: "Server") -> None:
        """See `Monitor.leads`."""
        self._recording.note(self._now, f"{server.host.name} leads {server.host.dc}")

    def acknowledged(self, server: "Server", state: FederationState) -> None:
        """See `Monitor.acknowledged`."""
        dc = server.host.dc
        held = self._federation.datacenters[self._federation.primary].tables.state(dc)
        if held is None or held.modify_index < self._acknowledged.get(dc, 0):
            self.violated(ACKNOWLEDGED, f"the primary has not kept what it took from {dc}")
            return
        if held.updated_at == state.updated_at:
            self._acknowledged[dc] = held.modify_index

    def member_event(self, server: "Server", event: object, *, wan: bool) -> None:
        """See `Monitor.member_event`."""
        if isinstance(event, MemberJoined):
            self._check_name(server, event.member.name, wan=wan)
            self._dead.pop((server, event.member.name, wan), None)
        elif isinstance(event, MemberFailed):
            name = event.member.name
            self._check_name(server, name, wan=wan)
            self._dead.setdefault((server, name, wan), self._now)
            self._classify(server, name, wan=wan)
        elif isinstance(event, MemberLeft):
            self._dead.setdefault((server, event.member.name, wan), self._now)

    def _host(self, server: "Server", name: str, *, wan: bool) -> Host | None:
        """The host that a member's name belongs to."""
        node, dc = split_wan_name(name) if wan else (name, server.host.dc)
        for role in Role:
            digits = node.removeprefix(role)
            if digits != node and digits.isdigit():
                host = Host(dc, role, int(digits))
                known = (
                    self._federation.clients if role is Role.CLIENT else (self._federation.servers)
                )
                return host if host in known and (role is Role.SERVER or not wan) else None
        return None

    def _check_name(self, server: "Server", name: str, *, wan: bool) -> None:
        if self._host(server, name, wan=wan) is None:
            pool = WAN if wan else LAN
            self.violated(NAMES, f"{server.host.name} knows {name!r} in its {pool} pool: no such")

    def _classify(self, server: "Server", name: str, *, wan: bool) -> None:
        """Was it right to declare that member dead?"""
        host, federation, now = self._host(server, name, wan=wan), self._federation, self._now
        if host is None:
            return
        pool = WAN if wan else LAN
        gone_at = federation.gone_at.get(host)
        if gone_at is not None:
            self._recording.detected(
                now, pool=pool, victim=host, observer=server.host, seconds=now - gone_at
            )
        elif federation.reachable(server.host, host):
            self._recording.mistaken(now, pool=pool, victim=host, observer=server.host)

    # From time to time ----------------------------------------------------------------------------

    def check(self) -> None:
        """Check what is not told: counters, and all that has a bound."""
        for server in self._federation.running_servers():
            self._check_counters(server)
        primary = self._federation.datacenters[self._federation.primary].tables
        for dc, index in self._acknowledged.items():
            held = primary.state(dc)
            if (held is None or held.modify_index < index) and not self._told_before(
                (ACKNOWLEDGED, dc)
            ):
                self.violated(ACKNOWLEDGED, f"the primary lost the record of {dc}, index {index}")
        quiet = self._quiet_since()
        if quiet is not None and self._now - quiet >= self._bound:
            self._check_dead(quiet)
            self._check_states(quiet)

    def check_end(self) -> None:
        """Check at the end of a run, if all has been well for the bound."""
        self.check()
        exist = {host.name for host in self._federation.servers}
        for server in self._federation.running_servers():
            for name in sorted({m.name for m in server.wan.serf.members()} - exist):
                self._check_name(server, name, wan=True)
            for member in server.lan.serf.members():
                self._check_name(server, member.name, wan=False)
        quiet = self._quiet_since()
        if quiet is not None and self._now - quiet >= self._bound:
            self._check_members()
            self._check_ways()
        for dc, changed_at in sorted(self._changed_at.items()):
            self._recording.converged(dc, changed_at=changed_at, seconds=None)

    def _check_counters(self, server: "Server") -> None:
        counters = _counters(server.lan.serf) + _counters(server.wan.serf)
        before = self._counters.get(server)
        if before == counters:
            return
        if before is not None and any(
            now < then for now, then in zip(counters, before, strict=True)
        ):
            self.violated(COUNTERS, f"{server.host.name}: {before} became {counters}")
        self._counters[server] = counters

    def _check_dead(self, quiet: float) -> None:
        federation, now = self._federation, self._now
        for key, since in list(self._dead.items()):
            server, name, wan = key
            host = self._host(server, name, wan=wan)
            if host is None or federation.servers.get(server.host) is not server:
                del self._dead[key]
                continue
            if now - max(since, quiet) < self._bound or not server.process.running:
                continue
            if federation.process_of(host).running and self._meets(server.host, host):
                del self._dead[key]
                self.violated(
                    DECLARED_DEAD,
                    f"{server.host.name} takes {name} for dead since {since:.1f} s,"
                    f" and nothing is disturbed since {quiet:.1f} s",
                )

    def _check_members(self) -> None:
        """Everyone knows everyone who runs, not only those once seen and lost."""
        federation = self._federation
        running = [server.host for server in federation.running_servers()]
        whole = len(running) == len(federation.servers)
        for server in federation.running_servers():
            if whole and server.known_count == len(running):
                continue
            pool = server.wan.serf
            for host in running:
                known = pool.member(host.name)
                if (known is None or known.status in _GONE) and self._meets(server.host, host):
                    self.violated(
                        DECLARED_DEAD,
                        f"{server.host.name} does not have {host.name} in its WAN pool alive",
                    )

    def _check_states(self, quiet: float) -> None:
        for dc, behind in self._behind.items():
            since = max(self._changed_at.get(dc, 0.0), quiet)
            if self._now - since < self._bound or not self._has_server(dc):
                continue
            for other in sorted(behind):
                met = self._meets_dc(dc, other) and self._meets_dc(other, self._federation.primary)
                if met and self._has_server(other) and not self._told_before((STATES, dc, other)):
                    self.violated(
                        STATES,
                        f"{other} does not have the newest federation state of {dc}, whose"
                        f" gateways changed at {self._changed_at.get(dc, 0.0):.1f} s",
                    )

    def _check_ways(self) -> None:
        federation = self._federation
        names = list(federation.datacenters)
        chance = Random(len(names))
        for name in names:
            server = next(
                (server for server in federation.running_servers() if server.host.dc == name), None
            )
            if server is None:
                continue
            others = [
                dc
                for dc in names
                if dc != name
                and self._has_server(dc)
                and self._has_gateway(dc)
                and self._has_gateway(name)
                and self._meets_dc(name, dc)
            ]
            if len(others) > WAYS_CHECKED_MAX:
                others = chance.sample(others, WAYS_CHECKED_MAX)
            for dc in others:
                way = federation.find(server, server.locator.candidates(dc), dc, ANY_SERVER)
                if isinstance(way, NoWay):
                    self.violated(WAYS, f"{server.host.name} finds no way to {dc}: {way.text}")

    def _told_before(self, what: object) -> bool:
        known = what in self._told
        self._told.add(what)
        return known

    def _has_server(self, dc: str) -> bool:
        return any(
            self._federation.servers[host].process.running
            for host in self._federation.servers_of(dc)
        )

    def _has_gateway(self, dc: str) -> bool:
        return any(
            gateway.process.running
            for host, gateway in self._federation.gateways.items()
            if host.dc == dc
        )

    def _meets(self, one: Host, other: Host) -> bool:
        return one.dc == other.dc or self._meets_dc(one.dc, other.dc)

    def _meets_dc(self, one: str, other: str) -> bool:
        """No fault that lasts separates them, and each has a gateway that runs."""
        return one == other or (
            not self._unreachable(one, other)
            and self._has_gateway(one)
            and self._has_gateway(other)
        )

    # Federation states ----------------------------------------------------------------------------

    def gateways_changed(self, datacenter: Datacenter) -> None:
        """See `Monitor.gateways_changed`."""
        name = datacenter.name
        self._changed_at[name] = self._now
        current = self._current(name)
        self._behind[name] = {
            other.name
            for other in self._federation.datacenters.values()
            if not _is_newest(other.tables.state(name), current)
        }
        self._see_convergence(name)

    def _compare(self, datacenter: Datacenter, about: str, state: FederationState | None) -> None:
        """A record changed: does that datacenter have the newest state now?"""
        if about not in self._federation.datacenters:
            return
        behind = self._behind.setdefault(about, set())
        if _is_newest(state, self._current(about)):
            if datacenter.name in behind:
                behind.discard(datacenter.name)
                self._see_convergence(about)
        else:
            behind.add(datacenter.name)

    def _current(self, about: str) -> FederationState:
        """What a datacenter's newest state says."""
        gateways = self._federation.datacenters[about].tables.gateways
        return FederationState(datacenter=about, mesh_gateways=gateways or None)

    def _see_convergence(self, about: str) -> None:
        changed_at = self._changed_at.get(about)
        if changed_at is not None and not self._behind[about]:
            del self._changed_at[about]
            self._recording.converged(about, changed_at=changed_at, seconds=self._now - changed_at)

    def _remember_addresses(self, datacenter: Datacenter) -> None:
        """Note which gateways a datacenter's store holds now, and until when it held the others."""
        tables, primary = datacenter.tables, self._federation.primary
        own, of_primary = tables.state(datacenter.name), tables.state(primary)
        held = {
            *_addresses(own, wan=False),
            *_addresses(of_primary, wan=True),
        }
        self._ever.update(_addresses(of_primary, wan=True))
        known = self._known.setdefault(datacenter.name, {})
        for address, until in known.items():
            if until == float("inf") and address not in held:
                known[address] = self._now + RECENT
        known.update(dict.fromkeys(held, float("inf")))


def _counters(serf: Serf) -> tuple[int, ...]:
    """What of a member may only rise."""
    return (
        serf.memberlist.table.me.incarnation,
        serf.clock.time,
        serf.event_clock.time,
        serf.query_clock.time,
    )


def _is_newest(state: FederationState | None, current: FederationState) -> bool:
    return state is not None and state.is_same(current)


def _addresses(state: FederationState | None, *, wan: bool) -> Iterable[str]:
    return () if state is None else usable_addresses(state.mesh_gateways or (), wan=wan)
