"""Examines the ways between our datacenter and others, hop by hop.

It runs in an agent because that has the certificates and stands where the dials come from. What
it finds out is judged by `federation.diagnosis`. Nothing that it does changes anything.

The way back, from another datacenter to ours, is seen through what arrives: answers to gossip's
probes travel it by connections of their own, and an isthmus server there tells what it sees. A
Consul server tells only what it has stored.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from isthmus.agent.status import Clocks, Remote
from isthmus.config.model import OFF, AgentConfig
from isthmus.errors import (
    ConfigError,
    ConnectionLost,
    DialFailed,
    IsthmusError,
    RemoteError,
    Unavailable,
)
from isthmus.federation.diagnosis import (
    CertificateFacts,
    DialFacts,
    Hop,
    MemberFacts,
    Way,
    hop_of,
    judge_address,
    judge_certificate,
    judge_clock,
    judge_configuration,
    judge_gateways,
    judge_gossip,
    judge_replication,
    judge_rpc,
    judge_tls,
    remedy_for,
    settle,
    twin_finding,
)
from isthmus.federation.locator import GatewayLocator, usable_addresses
from isthmus.federation.outcomes import Outcomes
from isthmus.federation.replication import ReplicationStatus, writes_to_follow
from isthmus.federation.route import ViaGateway
from isthmus.model.catalog import CONSUL_SERVICE, IndexedServiceNodes, ServiceRequest
from isthmus.model.diagnosis import (
    BROKEN,
    OK,
    UNKNOWN,
    DatacenterReport,
    DoctorReport,
    FederationReport,
    Finding,
)
from isthmus.model.federation import (
    FederationState,
    FederationStateQuery,
    FederationStateResponse,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.model.timestamp import Timestamp
from isthmus.names import ANY_SERVER, Alpn, server_name, split_host_port
from isthmus.net.direct import explain_dial
from isthmus.net.gossip import Member, MemberStatus
from isthmus.net.inspection import look_at_certificate, own_certificate
from isthmus.net.network import Network, TlsDial
from isthmus.net.tls import TlsConfig

logger = logging.getLogger(__name__)

DIAL_TIMEOUT: Final = 5.0
CALL_TIMEOUT: Final = 10.0
GATEWAYS_MAX: Final = 4
"""Gateways dialled per datacenter."""
PARALLEL_MAX: Final = 8
"""Datacenters examined at a time."""
WATCH_INTERVAL: Final = 10.0
"""Seconds between two looks at our certificate and at servers that bear our name."""
FIRST_LOOK: Final = 1.0
"""Seconds after the start until the first of them, which must not delay the start."""
CONFLICT_AGE_MAX: Final = 120.0
"""Seconds for which a claim of another's name counts; full exchanges repeat it each minute."""
PROBE_SLACK: Final = 15.0
"""Seconds added to the time in which every member is probed once."""

_ORDER: Final = tuple(Hop)


class Ways(Protocol):
    """The ways to other datacenters; `agent.federation.Federation` has them."""

    @property
    def locator(self) -> GatewayLocator | None:
        """Gateways to dial; None when gateways are not in use."""

    @property
    def outcomes(self) -> Outcomes:
        """What became of dials and calls."""

    @property
    def forwarder(self) -> Remote:
        """Calls."""


class GossipPool(Protocol):
    """What is needed of a pool; `net.gossip.Pool` is one."""

    def members(self) -> tuple[Member, ...]:
        """Members now, ours included."""

    async def acks(self) -> dict[str, float]:
        """Seconds since members answered a probe of ours last, by name."""

    async def conflicts(self) -> dict[str, tuple[str, float]]:
        """Names that two members claim: the other's address, and seconds since it did so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the doctor asks.

    Attributes:
        config: The agent's.
        tls: Our files.
        network: Where to dial.
        federation: Gateways and calls.
        states: Our own store's federation states, as they are now.
        wan: The WAN pool; None without one.
        lan: The LAN pool.
        replication: How it fares.
        clocks: Of the other datacenters.
        wall: Reads the calendar clock.
        look: Looks at the certificate that a server shows.
    """

    config: AgentConfig
    tls: Callable[[], TlsConfig]
    network: Network
    federation: Ways
    states: Callable[[], Sequence[FederationState]]
    wan: Callable[[], GossipPool | None]
    lan: Callable[[], GossipPool | None]
    replication: Callable[[], ReplicationStatus | None]
    clocks: Clocks
    wall: Callable[[], datetime]
    look: Callable[..., Awaitable[CertificateFacts | None]] = look_at_certificate


@dataclass(slots=True)
class _Answer:
    """What a call to another datacenter brought."""

    value: Any = None
    seconds: float = 0.0
    step: str = ""
    gateway: str = ""
    text: str = ""


@dataclass(slots=True)
class _Patient:
    """What is known of another datacenter."""

    dc: str
    members: Sequence[Member] = ()
    acks: dict[str, float] = field(default_factory=dict)
    doubles: Sequence[str] = ()

    def alive(self) -> list[Member]:
        return [member for member in self.members if member.status is MemberStatus.ALIVE]

    def node(self) -> str:
        """A server to ask for by name; any when none is known."""
        servers = self.alive() or list(self.members)
        return servers[0].name.removesuffix(f".{self.dc}") if servers else ANY_SERVER


class Doctor:
    """Examines."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._about = surroundings
        self._config = surroundings.config

    async def examine(self, dc: str = "") -> DoctorReport:
        """Examine every way, or those to and from one datacenter.

        Args:
            dc: The other datacenter; empty for all that are known.
        """
        about, own = self._about, self._config.datacenter
        members = self._wan_members()
        acks = await self._acks()
        doubles = await self._doubles()
        findings = self._own([*self._twins(members), *doubles.get(own, ())])
        dcs = [dc] if dc and dc != own else [] if dc else self._known(members)
        gate = asyncio.Semaphore(PARALLEL_MAX)

        async def examine(name: str) -> list[Finding]:
            theirs = [one for one in members if one.tags.get("dc", "") == name]
            async with gate:
                return await self._other(_Patient(name, theirs, acks, doubles.get(name, ())))

        if about.federation.locator is not None:
            for found in await asyncio.gather(*(examine(name) for name in dcs)):
                findings += found
        return DoctorReport(
            datacenter=own,
            node_name=self._config.node_name,
            time=Timestamp.of(about.wall()),
            findings=settle(findings),
        )

    async def watch(self) -> None:
        """Warn, once each time it begins, of what nobody's call would tell; until cancelled.

        That is our own certificate, which fails only at the others, and another datacenter of
        our name.
        """
        warned: set[str] = set()
        strangers: set[str] = set()
        wait = FIRST_LOOK
        while True:
            await asyncio.sleep(wait)
            wait = WATCH_INTERVAL
            members = self._wan_members()
            twins = set(self._twins(members))
            # A server of ours joins the LAN pool first, but news may overtake each other.
            doubles = (await self._doubles()).get(self._config.datacenter, [])
            findings = self._own([*sorted(twins & strangers), *doubles])
            strangers = twins
            broken = {finding.text: finding for finding in findings if finding.verdict == BROKEN}
            for text, finding in broken.items():
                if text not in warned and self._about.federation.locator is not None:
                    logger.warning(
                        "%s: remedy: %s",
                        text,
                        finding.remedy,
                        extra={"dc": finding.target, "hop": finding.hop},
                    )
            warned = set(broken)

    # Ourselves ------------------------------------------------------------------------------------

    def _own(self, twins: Sequence[str]) -> list[Finding]:
        config, about = self._config, self._about
        own = config.datacenter
        way = Way(source=own, target=own, primary=config.primary_datacenter)
        locator = about.federation.locator
        findings = [
            judge_configuration(
                way,
                mesh_gateways=locator is not None,
                tls=config.tls.configured,
                wan_pool=config.ports.serf_wan != OFF,
                primary_gateways=config.connect.primary_gateways,
                twins=twins,
            )
        ]
        certificate = self._own_certificate()
        if certificate is not None:
            node = about.tls().server_name or config.node_name
            wanted = [server_name(own, config.domain), server_name(own, config.domain, node)]
            findings.append(judge_certificate(way, certificate, wanted=wanted, wall=about.wall()))
        return findings

    def _own_certificate(self) -> CertificateFacts | None:
        try:
            return own_certificate(self._about.tls())
        except ConfigError:
            return None  # The agent runs with what it read at its start.

    def _twins(self, members: Sequence[Member]) -> list[str]:
        """Servers in the WAN pool that bear our datacenter's name and are none of its members."""
        lan = self._about.lan()
        if lan is None:
            return []
        ours = {member.tags.get("id", ""): member.name for member in lan.members()}
        return [
            member.name
            for member in members
            if member.tags.get("dc") == self._config.datacenter
            and member.status is MemberStatus.ALIVE
            and member.tags.get("id", "") not in ours
        ]

    def _wan_members(self) -> Sequence[Member]:
        wan = self._about.wan()
        return () if wan is None else sorted(wan.members(), key=lambda member: member.name)

    async def _acks(self) -> dict[str, float]:
        wan = self._about.wan()
        return {} if wan is None else await wan.acks()

    async def _doubles(self) -> dict[str, list[str]]:
        """Servers that bear another's whole name, by datacenter."""
        wan = self._about.wan()
        found: dict[str, list[str]] = {}
        try:
            conflicts = {} if wan is None else await wan.conflicts()
        except Unavailable:  # The gossip thread stops.
            return found
        for name, (address, age) in conflicts.items():
            if age < CONFLICT_AGE_MAX:
                found.setdefault(name.partition(".")[2], []).append(f"{name} at {address}")
        return found

    def _known(self, members: Sequence[Member]) -> list[str]:
        dcs = {member.tags.get("dc", "") for member in members}
        dcs |= {state.datacenter for state in self._about.states()}
        dcs |= {trouble.dc for trouble in self._about.federation.outcomes.troubles()}
        dcs.add(self._config.primary_datacenter)
        return sorted(dcs - {self._config.datacenter, ""})

    # Another datacenter ---------------------------------------------------------------------------

    async def _other(self, patient: _Patient) -> list[Finding]:
        config, dc = self._config, patient.dc
        primary, own = config.primary_datacenter, config.datacenter
        there = Way(source=own, target=dc, primary=primary)
        back = Way(source=dc, target=own, primary=primary)
        out = await self._way_there(there, patient)
        reached = not any(finding.verdict == BROKEN for finding in out)
        return [*out, *await self._way_back(back, patient, reached=reached)]

    async def _way_there(self, way: Way, patient: _Patient) -> list[Finding]:
        locator, dc = self._about.federation.locator, way.target
        assert locator is not None
        dialled = locator.candidates(dc)[:GATEWAYS_MAX]
        findings = [judge_gateways(way, self._gateways_of(dc), dialled=dialled)]
        if not dialled:
            return [*findings, *_untried(way, Hop.GATEWAYS)]
        node = patient.node()
        dials = await asyncio.gather(*(self._dial(address, dc, node) for address in dialled))
        findings.append(judge_address(way, dials))
        if findings[-1].verdict == BROKEN:
            return [*findings, self._gossip(way, patient), *_untried(way, Hop.GOSSIP)]
        findings.append(await self._tls(way, dials, node))
        if findings[-1].verdict == BROKEN:
            return [*findings, self._gossip(way, patient), *_untried(way, Hop.GOSSIP)]
        answer = await self._call(
            dc,
            "Catalog.ServiceNodes",
            ServiceRequest(datacenter=dc, service_name=CONSUL_SERVICE),
            IndexedServiceNodes,
        )
        findings.append(self._rpc(way, answer))
        twins = [*_strangers(patient, answer.value), *patient.doubles]
        if twins:
            findings.insert(0, twin_finding(way, dc, twins))
        findings.append(self._gossip(way, patient))
        if dc == way.primary:
            findings.append(await self._replication(way))
        findings.append(await self._clock(way))
        return findings

    def _gateways_of(self, dc: str) -> Sequence[Any]:
        for state in self._about.states():
            if state.datacenter.lower() == dc.lower():
                return state.mesh_gateways or ()
        return ()

    async def _dial(self, address: str, dc: str, node: str) -> DialFacts:
        loop = asyncio.get_running_loop()
        host, port = split_host_port(address)
        started = loop.time()
        dial = TlsDial(ViaGateway(dc, node).sni(self._config.domain), Alpn.RPC_MULTI)
        try:
            protocol = await self._about.network.dial(
                _Quiet, host, port, tls=dial, timeout=DIAL_TIMEOUT
            )
        except OSError as error:
            text, step = explain_dial(error, address)
            return DialFacts(gateway=address, seconds=loop.time() - started, step=step, text=text)
        seconds = loop.time() - started
        refusal = await protocol.refusal()
        if refusal is not None:
            text, step = explain_dial(refusal, address)
            return DialFacts(gateway=address, seconds=seconds, step=step, text=text)
        return DialFacts(gateway=address, seconds=seconds)

    async def _tls(self, way: Way, dials: Sequence[DialFacts], node: str) -> Finding:
        """Judge the handshakes; when all failed, say what certificate was shown."""
        finding = judge_tls(way, dials, node=node)
        failed = [dial for dial in dials if hop_of(dial.step, dial.text) is Hop.TLS]
        if finding.verdict == OK or not failed:
            return finding
        sni = ViaGateway(way.target, node).sni(self._config.domain)
        host, port = split_host_port(failed[0].gateway)
        shown = await self._about.look(
            self._about.tls(),
            host,
            port,
            TlsDial(sni, Alpn.RPC_MULTI),
            owner=f"server {node} of {way.target}",
            timeout=DIAL_TIMEOUT,
        )
        if shown is None:
            return finding
        judged = judge_certificate(way, shown, wanted=[sni], wall=self._about.wall())
        text = f"{finding.text}; {judged.text}"
        return way.finding(Hop.TLS, BROKEN, text, judged.remedy or finding.remedy)

    def _rpc(self, way: Way, answer: _Answer) -> Finding:
        return judge_rpc(
            way,
            seconds=answer.seconds,
            step=answer.step,
            text=answer.text,
            gateway=answer.gateway,
        )

    def _gossip(self, way: Way, patient: _Patient) -> Finding:
        facts = [
            MemberFacts(
                name=member.name,
                status=str(member.status),
                acked=patient.acks.get(member.name),
            )
            for member in patient.members
        ]
        interval = self._config.gossip.wan.probe_interval
        patience = interval * max(1, len(self._wan_members())) + PROBE_SLACK
        return judge_gossip(way, facts, patience=patience)

    async def _replication(self, way: Way) -> Finding:
        status = self._about.replication()
        now = asyncio.get_running_loop().time()
        missing, text = -1, status.error if status is not None else ""
        answer = await self._call(
            way.target,
            "FederationState.List",
            DatacenterRequest(datacenter=way.target, allow_stale=True),
            IndexedFederationStates,
        )
        if isinstance(answer.value, IndexedFederationStates):
            writes = writes_to_follow(answer.value.states or (), self._about.states())
            missing = len(writes)
        last = status.succeeded_at if status is not None else None
        return judge_replication(
            way,
            running=status is not None and status.running,
            last_success=None if last is None else now - last,
            failures=status.failures if status is not None else 0,
            missing=missing,
            text=text or answer.text,
        )

    async def _clock(self, way: Way) -> Finding:
        other = way.target if way.target != self._config.datacenter else way.source
        reading = await self._about.clocks.ask(other)
        if reading is None:
            return judge_clock(way, difference=None, uncertainty=0.0)
        return judge_clock(way, difference=reading.difference, uncertainty=reading.uncertainty)

    # The way back ---------------------------------------------------------------------------------

    async def _way_back(self, way: Way, patient: _Patient, *, reached: bool) -> list[Finding]:
        dc, own = way.source, way.target
        gossip = self._gossip(way, patient)
        arrives = gossip.verdict == OK
        if not reached:
            seen = "answers to our probes arrive" if arrives else f"{dc} cannot be asked"
            verdict = OK if arrives else UNKNOWN
            return [way.finding(Hop.GATEWAYS, verdict, seen), gossip]
        state, report = await asyncio.gather(
            self._call(
                dc,
                "FederationState.Get",
                FederationStateQuery(datacenter=own, target_datacenter=dc),
                FederationStateResponse,
            ),
            self._call(dc, "Isthmus.Report", DatacenterRequest(datacenter=dc), FederationReport),
        )
        findings = [self._known_there(way, state)]
        told = report.value if isinstance(report.value, FederationReport) else None
        findings += _seen_from_there(way, told, arrives=arrives)
        findings.append(gossip)
        if told is not None and own == way.primary:
            findings.append(_replication_there(way, told))
        return findings

    def _known_there(self, way: Way, answer: _Answer) -> Finding:
        """Whether the other datacenter knows our gateways as they are."""
        if answer.text:
            return way.finding(Hop.GATEWAYS, UNKNOWN, answer.text)
        there: FederationState | None = answer.value.state
        known = usable_addresses((there.mesh_gateways or ()) if there else (), wan=True)
        ours = usable_addresses(self._gateways_of(way.target), wan=True)
        if known and set(known) & set(ours):
            return way.finding(
                Hop.GATEWAYS, OK, f"{way.source} knows our gateways: {', '.join(known)}"
            )
        if not ours:
            return way.finding(
                Hop.GATEWAYS,
                BROKEN,
                f"we have no usable gateway that {way.source} could dial",
                "start one here: isthmus connect gateway -mesh-gateway -register -expose-servers",
            )
        return way.finding(
            Hop.GATEWAYS,
            BROKEN,
            f"{way.source} does not know our gateways ({', '.join(ours)}), but"
            f" {', '.join(known) or 'none'}",
            f"check that replication of federation states works in {way.source} and that we can"
            f" write to the primary {way.primary}",
        )

    # Calls ----------------------------------------------------------------------------------------

    async def _call(self, dc: str, method: str, request: Any, reply: Any) -> _Answer:
        loop = asyncio.get_running_loop()
        started, answer = loop.time(), _Answer()
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                answer.value = await self._about.federation.forwarder.call(
                    dc, method, request, reply
                )
        except DialFailed as error:
            answer.text, answer.step, answer.gateway = str(error), error.step, error.gateway
        except ConnectionLost as error:
            answer.text, answer.step, answer.gateway = str(error), error.step, error.gateway
        except RemoteError as error:
            answer.text, answer.step = str(error), "acl" if error.status == 403 else ""
        except (IsthmusError, Unavailable) as error:
            answer.text = str(error)
        except TimeoutError:
            answer.text = f"no answer to {method} within {CALL_TIMEOUT:g} s"
        answer.seconds = loop.time() - started
        return answer


class _Quiet(asyncio.Protocol):
    """A connection that only proves that it could be made, and was not ended at once.

    In TLS 1.3 a server refuses our certificate after our side of the handshake is done.
    """

    PATIENCE: Final = 0.5

    def __init__(self) -> None:
        self._lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(error)

    async def refusal(self) -> OSError | None:
        """Wait a little for a refusal, then close."""
        try:
            async with asyncio.timeout(self.PATIENCE):
                error = await asyncio.shield(self._lost)
        except TimeoutError:
            error = None
        assert self._transport is not None
        self._transport.abort()
        return error if isinstance(error, OSError) else None


def _untried(way: Way, broken: Hop) -> list[Finding]:
    """Hops behind a broken one."""
    later = _ORDER[_ORDER.index(broken) + 1 :]
    return [
        way.finding(hop, UNKNOWN, "not tried: an earlier hop is broken")
        for hop in later
        if hop is not Hop.REPLICATION or way.target == way.primary
    ]


def _strangers(patient: _Patient, answer: Any) -> list[str]:
    """Alive servers of the WAN pool that the datacenter which answers does not know."""
    if not isinstance(answer, IndexedServiceNodes) or not answer.service_nodes:
        return []
    known = {node.node.lower() for node in answer.service_nodes}
    suffix = f".{patient.dc}"
    return [
        member.name
        for member in patient.alive()
        if member.name.removesuffix(suffix).lower() not in known
    ]


def _seen_from_there(
    way: Way, report: FederationReport | None, *, arrives: bool
) -> Iterable[Finding]:
    """Address, TLS and RPC of the way back, as the other side tells or as arrivals prove."""
    hops = (Hop.ADDRESS, Hop.TLS, Hop.RPC)
    if report is None:
        if arrives:
            text = "answers to our probes arrive from there"
            return [way.finding(hop, OK, text) for hop in hops[:2]] + [
                way.finding(Hop.RPC, UNKNOWN, f"{way.source} does not tell (Consul does not)")
            ]
        text = f"{way.source} does not tell: run the doctor there"
        return [way.finding(hop, UNKNOWN, text) for hop in hops]
    ours = _report_about(report, way.target)
    if ours is None or ours.failing_since.is_zero:
        text = f"{report.node_name} reports no failure"
        return [way.finding(hop, OK, text) for hop in hops]
    broken = hop_of(ours.failed_step, ours.last_error)
    findings = []
    for hop in hops:
        if _ORDER.index(hop) < _ORDER.index(broken):
            findings.append(way.finding(hop, OK, f"{report.node_name} reports no failure"))
            continue
        findings.append(
            way.finding(
                hop,
                BROKEN,
                f"{report.node_name} reports since {ours.failing_since}: {ours.last_error}",
                remedy_for(
                    ours.failed_step,
                    ours.last_error,
                    source=way.source,
                    target=way.target,
                    gateway="",
                ),
            )
        )
        break
    return findings


def _report_about(report: FederationReport, dc: str) -> DatacenterReport | None:
    for one in report.datacenters:
        if one.datacenter.lower() == dc.lower():
            return one
    return None


def _replication_there(way: Way, report: FederationReport) -> Finding:
    status = report.replication
    return judge_replication(
        way,
        running=status.running and report.leader,
        last_success=None if status.last_success.is_zero else 0.0,
        failures=status.failures,
        missing=-1,
        text=status.last_error,
    )
