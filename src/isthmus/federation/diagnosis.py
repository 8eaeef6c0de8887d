"""From facts about a federation to findings: which hop is broken, and what to do about it.

Facts come from `agent.doctor`, which asks the network; everything that is decided about them is
decided here. A way leads from one datacenter to another, hop after hop: a hop can only be judged
when those before it work, so the first broken one is the one to repair.

Source: protocol/federation.md §6.5, §20.1: what goes wrong, and what operators see of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from isthmus.errors import ALPN, CONNECT, DEADLINE, NO_GATEWAY, NO_ROUTE, TLS
from isthmus.federation.locator import is_usable
from isthmus.model.catalog import CRITICAL, CheckServiceNode
from isthmus.model.diagnosis import BROKEN, OK, UNKNOWN, Finding
from isthmus.names import WAN_FEDERATION_META

CLOCK_DIFFERENCE_MAX: Final = 30.0
"""Seconds that two datacenters' clocks may differ: certificates and ages are still right then."""
RENEW_BEFORE: Final = 7 * 86_400.0
"""A certificate with fewer seconds to live is mentioned."""


class Hop(StrEnum):
    """Hops of a way, in their order."""

    CONFIGURATION = "configuration"
    CERTIFICATES = "certificates"
    GATEWAYS = "gateways"
    ADDRESS = "address"
    TLS = "TLS"
    RPC = "RPC"
    GOSSIP = "gossip"
    REPLICATION = "replication"
    CLOCK = "clock"


_HOP_OF_STEP: Final = {
    NO_GATEWAY: Hop.GATEWAYS,
    CONNECT: Hop.ADDRESS,
    DEADLINE: Hop.ADDRESS,
    TLS: Hop.TLS,
    ALPN: Hop.TLS,
    NO_ROUTE: Hop.TLS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """From whom to whom.

    Attributes:
        source, target: Datacenters.
        primary: The primary datacenter.
    """

    source: str
    target: str
    primary: str

    def finding(self, hop: Hop, verdict: str, text: str, remedy: str = "") -> Finding:
        """A finding of this way."""
        return Finding(
            source=self.source,
            target=self.target,
            hop=hop,
            verdict=verdict,
            text=text,
            remedy=remedy if verdict == BROKEN else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """One certificate.

    Attributes:
        owner: Whose it is, in words: ``this server (/etc/isthmus/server.pem)``.
        names: Its DNS names.
        issuer: Who made it.
        not_before, not_after: When it is valid.
        trusted: Whether our CA made it; None when nobody looked.
    """

    owner: str
    names: tuple[str, ...]
    issuer: str
    not_before: datetime
    not_after: datetime
    trusted: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DialFacts:
    """What one dial showed.

    Attributes:
        gateway: ``host:port``.
        seconds: How long it took.
        step: The step that failed, one of `errors.STEPS`; empty when it worked.
        text: Why.
    """

    gateway: str
    seconds: float = 0.0
    step: str = ""
    text: str = ""


# Configuration and certificates ---------------------------------------------------------------


def judge_configuration(
    way: Way,
    *,
    mesh_gateways: bool,
    tls: bool,
    wan_pool: bool,
    primary_gateways: Sequence[str],
    twins: Sequence[str],
) -> Finding:
    """Whether a server is set up for federation at all.

    Args:
        way: From the datacenter to itself.
        mesh_gateways: Whether federation through gateways is on.
        tls: Whether a CA and a key pair are configured.
        wan_pool: Whether it is in a WAN pool.
        primary_gateways: Configured or discovered addresses.
        twins: Servers that claim our datacenter's name and are none of ours.
    """
    dc = way.source
    if not mesh_gateways:
        return way.finding(
            Hop.CONFIGURATION,
            BROKEN,
            "federation through mesh gateways is off",
            "set connect { enabled = true enable_mesh_gateway_wan_federation = true } on every"
            " server of every datacenter",
        )
    if not tls:
        return way.finding(
            Hop.CONFIGURATION,
            BROKEN,
            "no CA or no certificate is configured, so nobody can be dialled through a gateway",
            "set ca_file, cert_file and key_file; make them with 'isthmus tls'",
        )
    if not wan_pool:
        return way.finding(
            Hop.CONFIGURATION,
            BROKEN,
            "ports.serf_wan is -1: this server is in no WAN pool",
            "remove ports.serf_wan, or set it to 8302",
        )
    if twins:
        return twin_finding(way, dc, twins)
    if dc != way.primary and not primary_gateways:
        return way.finding(
            Hop.CONFIGURATION,
            OK,
            "on; no primary_gateways: the primary is found only while its federation state is"
            " in our store",
        )
    return way.finding(Hop.CONFIGURATION, OK, f"on, primary datacenter is {way.primary}")


def twin_finding(way: Way, dc: str, twins: Sequence[str]) -> Finding:
    """Two datacenters bear one name."""
    return way.finding(
        Hop.CONFIGURATION,
        BROKEN,
        f"another datacenter is named {dc} too: its servers are {', '.join(twins)}",
        "give every datacenter a name of its own (datacenter), remove the other's data"
        " directory, and issue its certificates for the new name",
    )


def judge_certificate(
    way: Way, certificate: CertificateFacts, *, wanted: Sequence[str], wall: datetime
) -> Finding:
    """Whether a certificate lets its server take part.

    Args:
        way: Which way it is on.
        certificate: What it says.
        wanted: Names that others will look for.
        wall: Now.
    """
    owner = certificate.owner
    problem, remedy = _certificate_problem(way, certificate, wanted=wanted, wall=wall)
    if problem:
        return way.finding(Hop.CERTIFICATES, BROKEN, f"certificate of {owner} {problem}", remedy)
    left = (certificate.not_after - wall).total_seconds()
    soon = ", renew it soon" if left < RENEW_BEFORE else ""
    return way.finding(
        Hop.CERTIFICATES,
        OK,
        f"certificate of {owner} names {', '.join(certificate.names)}, made by"
        f" {certificate.issuer}, valid until {moment(certificate.not_after)}{soon}",
    )


def _certificate_problem(
    way: Way, certificate: CertificateFacts, *, wanted: Sequence[str], wall: datetime
) -> tuple[str, str]:
    """What is wrong with it and what to do; empty when nothing is."""
    renew = f"issue a new one: {_issue(wanted)}"
    if wall > certificate.not_after:
        return f"expired at {moment(certificate.not_after)}", renew
    if wall < certificate.not_before:
        return (
            f"is valid only from {moment(certificate.not_before)} on, and it is {moment(wall)}",
            "set the clocks of both datacenters (NTP)",
        )
    if certificate.trusted is False:
        return (
            f"was made by {certificate.issuer}, which is not our CA (ca_file)",
            "use one CA in all datacenters: issue all certificates from it, and put its"
            " certificate into ca_file everywhere",
        )
    missing = [name for name in wanted if not covers(certificate.names, name)]
    if missing:
        have = ", ".join(certificate.names) or "nothing"
        return f"names {have}, not {' and '.join(missing)}", renew
    return "", ""


def _issue(wanted: Sequence[str]) -> str:
    """The command that makes a certificate with these names."""
    for name in sorted(wanted, key=len, reverse=True):
        labels = name.split(".")
        if len(labels) > 3 and labels[1] == "server":
            return f"isthmus tls cert create -server -dc {labels[2]} -node {labels[0]}"
    return "isthmus tls cert create -server -dc DC -node NODE"


def covers(names: Iterable[str], wanted: str) -> bool:
    """Whether one of a certificate's names is `wanted`, or a wildcard for its first label."""
    wanted = wanted.lower()
    rest = wanted.partition(".")[2]
    return any(
        name.lower() == wanted or (name.startswith("*.") and name[2:].lower() == rest)
        for name in names
    )


# Gateways and dials -----------------------------------------------------------------------------


def judge_gateways(
    way: Way, gateways: Sequence[CheckServiceNode], *, dialled: Sequence[str]
) -> Finding:
    """Whether the target has gateways that may be used, and the source one to dial.

    Args:
        way: Which way.
        gateways: All in the target's federation state.
        dialled: What the source would dial, ``host:port``.
    """
    target = way.target
    reasons = [reason for gateway in gateways if (reason := why_unusable(gateway))]
    usable = sum(map(is_usable, gateways))
    if dialled and usable:
        more = f" ({'; '.join(reasons)})" if reasons else ""
        return way.finding(
            Hop.GATEWAYS,
            OK,
            f"{usable} of {len(gateways)} gateways of {target} usable{more}; dialled first:"
            f" {', '.join(dialled)}",
        )
    if dialled and not gateways:
        return way.finding(
            Hop.GATEWAYS,
            UNKNOWN,
            f"{target} has no gateway in our copy of the federation states; dialled first:"
            f" {', '.join(dialled)}",
        )
    register = "isthmus connect gateway -mesh-gateway -register -expose-servers"
    if not dialled:
        via = way.source if target != way.primary or way.source == way.primary else target
        remedy = (
            f"start a gateway in {via}: {register}"
            if via == way.source
            else f"set primary_gateways in {way.source} to the WAN address of a gateway of {target}"
        )
        return way.finding(
            Hop.GATEWAYS, BROKEN, f"no gateway is known that leads to {target}", remedy
        )
    if reasons:
        return way.finding(
            Hop.GATEWAYS,
            BROKEN,
            f"no gateway of {target} can be used: {'; '.join(reasons)}",
            f"repair the gateways of {target}: they must pass their checks and be registered with"
            " -expose-servers",
        )
    return way.finding(
        Hop.GATEWAYS,
        BROKEN,
        f"{target} has no gateway",
        f"start one in {target}: {register}",
    )


def why_unusable(gateway: CheckServiceNode) -> str:
    """Why a gateway carries no federation traffic; empty when it does."""
    service, node = gateway.service, gateway.node
    name = service.id or service.service if service is not None else "a gateway"
    if node is not None and node.node:
        name = f"{name} on {node.node}"
    if service is None or (service.meta or {}).get(WAN_FEDERATION_META) != "1":
        return f"{name} is not registered with {WAN_FEDERATION_META} = 1"
    bad = [check for check in gateway.checks or () if check.status == CRITICAL]
    if bad:
        said = " ".join(bad[0].output.split())[:120]
        return f"{name}: check {bad[0].check_id} is critical{f' ({said})' if said else ''}"
    return ""


def judge_address(way: Way, dials: Sequence[DialFacts]) -> Finding:
    """Whether a gateway can be connected to; a later hop's failure proves that it can."""
    reached = [dial for dial in dials if hop_of(dial.step, dial.text) is not Hop.ADDRESS]
    failed = [dial for dial in dials if dial not in reached]
    if reached:
        more = "".join(f"; not {dial.gateway}: {dial.text}" for dial in failed)
        addresses = ", ".join(dial.gateway for dial in reached)
        return way.finding(Hop.ADDRESS, OK, f"{addresses} accepts connections{more}")
    text = "; ".join(dial.text for dial in failed)
    remedies = dict.fromkeys(_remedy_of(way, dial) for dial in failed)
    return way.finding(Hop.ADDRESS, BROKEN, text, "; ".join(remedies))


def judge_tls(way: Way, dials: Sequence[DialFacts], *, node: str) -> Finding:
    """Whether the right server answers through a gateway."""
    good = [dial for dial in dials if not dial.step]
    bad = [dial for dial in dials if hop_of(dial.step, dial.text) is Hop.TLS]
    if good:
        more = "".join(f"; not through {dial.gateway}: {dial.text}" for dial in bad)
        server = "a server" if node == "*" else f"server {node}"
        fastest = min(good, key=lambda dial: dial.seconds)
        return way.finding(
            Hop.TLS,
            OK,
            f"{server} of {way.target} answers through {fastest.gateway} in"
            f" {fastest.seconds * 1000:.0f} ms{more}",
        )
    text = "; ".join(dial.text for dial in bad)
    return way.finding(Hop.TLS, BROKEN, text, _remedy_of(way, bad[0]) if bad else "")


def _remedy_of(way: Way, dial: DialFacts) -> str:
    return remedy_for(
        dial.step, dial.text, source=way.source, target=way.target, gateway=dial.gateway
    )


def hop_of(step: str, text: str) -> Hop:
    """The hop that a failed step belongs to; `text` tells what took too long."""
    if step == DEADLINE and "handshake" in text:
        return Hop.TLS
    return _HOP_OF_STEP.get(step, Hop.RPC)


def remedy_for(step: str, text: str, *, source: str, target: str, gateway: str) -> str:
    """What to do about a failed dial or call.

    Args:
        step: What failed, one of `errors.STEPS`.
        text: The error.
        source: Datacenter that dialled.
        target: Datacenter that was to be reached.
        gateway: ``host:port`` that was dialled; empty for none.
    """
    match step:
        case "no gateway known":
            return (
                f"start a mesh gateway in {source} (isthmus connect gateway -mesh-gateway"
                " -register -expose-servers); a new secondary needs primary_gateways"
            )
        case "connect":
            return _remedy_for_connect(text, gateway)
        case "deadline" if "handshake" in text:
            return (
                f"what listens at {gateway} accepts connections and then says nothing: restart"
                " that gateway, or the one behind it"
            )
        case "deadline":
            return f"open the way to {gateway} (routes, firewalls), or correct that address"
        case "route":
            return (
                f"{gateway} has no route to {target}, or is no mesh gateway: check that a gateway"
                f" of {target} runs and is healthy, and that {gateway} is a gateway registered"
                " with -expose-servers"
            )
        case "alpn":
            return (
                f"{gateway} leads to something that is no Consul or isthmus server with"
                f" federation on: check what the gateway of {target} routes to"
            )
        case "tls":
            return _remedy_for_tls(text, source=source, target=target, gateway=gateway)
        case "acl":
            return f"use a token that {target} knows, with operator:write for federation states"
        case _:
            return f"look into the log of the server of {target}"


def _remedy_for_connect(text: str, gateway: str) -> str:
    if "refused" in text:
        return f"nothing listens at {gateway}: start the gateway there, or correct that address"
    if "name" in text or "nodename" in text:
        return f"the host name in {gateway} is not known: correct it, or the DNS"
    return f"open the way to {gateway} (routes, firewalls), or correct that address"


_NOT_TLS: Final = ("wrong version number", "http request", "record layer", "packet length", "eof")
_OTHER_CA: Final = ("local issuer", "self-signed", "self signed", "signature failure", "unknown ca")


def _remedy_for_tls(text: str, *, source: str, target: str, gateway: str) -> str:
    said = text.lower()
    ours = "refused our certificate" in said
    whose = source if ours else target
    issue = f"isthmus tls cert create -server -dc {whose} -node NODE"
    if "tls disabled" in said:
        return f"set ca_file, cert_file and key_file on the servers of {source}"
    if "expired" in said:
        return f"the certificate of a server of {whose} expired, issue a new one: {issue}"
    if "not yet valid" in said:
        return f"set the clocks of {source} and {target} (NTP)"
    if any(sign in said for sign in _OTHER_CA):
        return (
            f"{source} and {target} use different CAs: issue all certificates from one CA, and"
            " put its certificate into ca_file everywhere"
        )
    if "not valid for" in said or "mismatch" in said:
        return (
            f"the certificate of the server of {target} lacks the name of its node, issue one"
            f" with it: {issue}"
        )
    if ours:
        return f"the servers of {target} do not accept our certificate, issue one: {issue}"
    if any(sign in said for sign in _NOT_TLS):
        return f"{gateway} is no mesh gateway: correct its address or registration"
    return f"compare ca_file and certificates of {source} and {target}"


# What flows -------------------------------------------------------------------------------------


def judge_rpc(way: Way, *, seconds: float, step: str, text: str, gateway: str) -> Finding:
    """Whether a server answered a call; `text` is the error, empty when it did."""
    if not text:
        return way.finding(
            Hop.RPC, OK, f"a server of {way.target} answered in {seconds * 1000:.0f} ms"
        )
    remedy = remedy_for(step, text, source=way.source, target=way.target, gateway=gateway)
    return way.finding(Hop.RPC, BROKEN, text, remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFacts:
    """A server of the target in the WAN pool.

    Attributes:
        name: ``node.dc``.
        status: Word of ``members -wan``.
        acked: Seconds since it answered a probe of ours last; None for never, or not known.
    """

    name: str
    status: str
    acked: float | None = None


def judge_gossip(way: Way, members: Sequence[MemberFacts], *, patience: float) -> Finding:
    """Whether packets go there and come back: an ack travels a way of its own.

    Args:
        way: Which way; an answered probe proves both directions.
        members: The target's servers.
        patience: Seconds within which each alive member is probed.
    """
    alive = [member for member in members if member.status == "alive"]
    if not alive:
        seen = ", ".join(f"{member.name} is {member.status}" for member in members)
        return way.finding(
            Hop.GOSSIP,
            BROKEN,
            f"no server of {way.target} is alive in the WAN pool: {seen or 'none is known'}",
            f"check that {way.target} reaches {way.source}: run the doctor there; servers join"
            " by themselves once both ways work",
        )
    answered = [member for member in alive if member.acked is not None]
    if not answered:
        return way.finding(
            Hop.GOSSIP,
            UNKNOWN,
            f"{', '.join(member.name for member in alive)} alive, no probe answered yet",
        )
    newest = min(member.acked for member in answered if member.acked is not None)
    if newest > patience:
        return way.finding(
            Hop.GOSSIP,
            BROKEN,
            f"no server of {way.target} has answered a probe for {newest:.0f} s",
            f"packets or their answers are lost: check the gateways of {way.target} and that it"
            f" knows those of {way.source}",
        )
    return way.finding(
        Hop.GOSSIP,
        OK,
        f"{len(alive)} of {len(members)} servers alive, latest answer {newest:.1f} s ago",
    )


def judge_replication(
    way: Way,
    *,
    running: bool,
    last_success: float | None,
    failures: int,
    missing: int,
    text: str,
) -> Finding:
    """Whether the primary's federation states arrive in the source.

    Args:
        way: From a secondary to the primary.
        running: Whether the server that looked replicates; followers do not.
        last_success: Seconds since the primary's latest answer; None for none.
        failures: In a row.
        missing: Records of the primary that are not in the source's store; -1: not known.
        text: The latest error.
    """
    if not running:
        return way.finding(
            Hop.REPLICATION, UNKNOWN, "this server does not lead: ask the leader's agent"
        )
    if failures or last_success is None:
        since = "never" if last_success is None else f"{last_success:.0f} s ago"
        return way.finding(
            Hop.REPLICATION,
            BROKEN,
            f"{failures} failures in a row, latest success {since}: {text or 'not tried yet'}",
            f"repair the way to {way.target}; with ACLs, the replication token needs"
            " operator:write",
        )
    if missing > 0:
        return way.finding(
            Hop.REPLICATION,
            BROKEN,
            f"{missing} federation states of the primary are missing or old in {way.source}",
            f"look for errors of storage in the log of the leader of {way.source}",
        )
    return way.finding(Hop.REPLICATION, OK, f"{way.source} has what the primary has")


def judge_clock(way: Way, *, difference: float | None, uncertainty: float) -> Finding:
    """Whether the clocks agree.

    Args:
        way: Which way.
        difference: The target's clock minus ours, in seconds; None: not known.
        uncertainty: How far the measurement may be off, in seconds.
    """
    if difference is None:
        return way.finding(
            Hop.CLOCK, UNKNOWN, f"nobody in {way.target} tells the time (Consul does not)"
        )
    if abs(difference) - uncertainty <= CLOCK_DIFFERENCE_MAX:
        return way.finding(
            Hop.CLOCK, OK, f"differs by {difference:+z.1f} s (± {uncertainty:.1f} s)"
        )
    ahead = "ahead of" if difference > 0 else "behind"
    return way.finding(
        Hop.CLOCK,
        BROKEN,
        f"the clock of {way.target} is {abs(difference):.0f} s {ahead} that of {way.source}",
        f"synchronise the clocks of {way.source} and {way.target} (NTP): certificates are judged"
        " by them",
    )


def settle(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Leave of every way only the first broken hop its remedy: it is the one to repair."""
    settled, broken = [], set[tuple[str, str]]()
    for finding in findings:
        way = (finding.source, finding.target)
        later = way in broken
        if finding.verdict == BROKEN:
            broken.add(way)
        settled.append(replace(finding, remedy="") if later and finding.remedy else finding)
    return tuple(settled)


def moment(wall: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return f"{wall:%Y-%m-%dT%H:%M:%SZ}"
