"""``isthmus federation doctor``: which hop of which way is broken, and what to do.

An isthmus agent examines the ways itself, because it has the certificates and stands where the
dials come from. Of a Consul agent the command asks what any agent tells, and judges that.
"""

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from isthmus.cli.client import CLIENT_FLAGS, AgentClient, RequestFailed, failing_as, path_part
from isthmus.cli.command import Command, CommandFailed, say
from isthmus.cli.flags import Flag, Parsed
from isthmus.errors import ACL, ACL_NOT_FOUND, NO_GATEWAY, NO_REACHABLE_SERVER, PERMISSION_DENIED
from isthmus.federation.diagnosis import (
    Hop,
    MemberFacts,
    Way,
    judge_clock,
    judge_configuration,
    judge_gateways,
    judge_gossip,
    judge_replication,
    judge_rpc,
    settle,
)
from isthmus.federation.locator import usable_addresses
from isthmus.model.catalog import (
    CheckServiceNode,
    HealthCheck,
    Node,
    NodeService,
    ServiceAddress,
)
from isthmus.model.diagnosis import BROKEN, OK, UNKNOWN, Finding
from isthmus.model.timestamp import Timestamp
from isthmus.names import split_host_port

CONNECT_TIMEOUT: Final = 3.0
_STATUSES: Final = ("none", "alive", "leaving", "left", "failed")
_SHOWN: Final = {OK: "ok", BROKEN: "BROKEN", UNKNOWN: "?"}
_NOT_TOLD: Final = "Consul does not tell"


def _format(text: str) -> str:
    if text not in {"table", "json"}:
        raise ValueError("must be table or json")
    return text


def _doctor(args: Parsed) -> int:
    dc = args.values.pop("datacenter")  # Whom to examine, not whom to ask.
    client = AgentClient.of(args)
    with failing_as("Error examining the federation"):
        query = {"datacenter": dc} if dc else None
        status, body = client.request("PUT", "/v1/isthmus/federation/doctor", query)
        report = _decode(client, body) if status == 200 else examine_from_outside(client, dc)
    findings = report["Findings"]
    if args["format"] == "json":
        say(json.dumps(report, indent=4))
    else:
        say(format_findings(findings))
    return 1 if any(finding["Verdict"] == BROKEN for finding in findings) else 0


def _decode(client: AgentClient, body: bytes) -> dict[str, Any]:
    try:
        report = json.loads(body)
    except ValueError as error:
        raise CommandFailed(f"{client.endpoint} did not answer with JSON: {error}") from error
    assert isinstance(report, dict)
    return report


def format_findings(findings: Sequence[Mapping[str, Any]]) -> str:
    """Lay out findings, way by way, one line per hop; a remedy stands under its hop."""
    lines: list[str] = []
    seen = None
    for finding in findings:
        way = (finding["Source"], finding["Target"])
        if way != seen:
            seen = way
            lines += [""] * bool(lines)
            lines.append(way[0] if way[0] == way[1] else f"{way[0]} → {way[1]}")
        shown = _SHOWN.get(finding["Verdict"], finding["Verdict"])
        text = " ".join(finding["Text"].split())
        lines.append(f"  {shown:<7} {finding['Hop']:<14} {text}")
        if finding.get("Remedy"):
            lines.append(f"  {'':<7} {'':<14} remedy: {finding['Remedy']}")
    broken = [finding for finding in findings if finding["Verdict"] == BROKEN]
    ways = {(finding["Source"], finding["Target"]) for finding in broken}
    lines += ["", _summary(len(ways))]
    return "\n".join(lines)


def _summary(count: int) -> str:
    if not count:
        return "Nothing is broken."
    return "One way is broken." if count == 1 else f"{count} ways are broken."


# From outside, for agents that do not examine ------------------------------------------------


def examine_from_outside(client: AgentClient, dc: str) -> dict[str, Any]:
    """Judge what any agent, also Consul's, tells over HTTP.

    Args:
        client: Of the agent.
        dc: The only other datacenter to look at; empty for all.

    Raises:
        RequestFailed: The agent does not answer at all.
    """
    about = client.get_object("/v1/agent/self")
    config, debug = about.get("Config") or {}, about.get("DebugConfig") or {}
    own = config.get("Datacenter", "")
    primary = debug.get("PrimaryDatacenter") or config.get("PrimaryDatacenter") or own
    members = client.get_list("/v1/agent/members", {"wan": "1"})
    states = _states(client)
    way = Way(source=own, target=own, primary=primary)
    findings = [
        judge_configuration(
            way,
            mesh_gateways=bool(debug.get("ConnectMeshGatewayWANFederationEnabled")),
            tls=_has_tls(debug),
            wan_pool=bool(members),
            primary_gateways=debug.get("PrimaryGateways") or (),
            twins=(),
        )
    ]
    known = {member.get("Tags", {}).get("dc", "") for member in members} | set(states)
    for other in sorted(known - {own, ""}):
        if dc in {"", other}:
            there = Way(source=own, target=other, primary=primary)
            findings += _way_there(client, there, states, members)
            findings += _way_back(client, Way(source=other, target=own, primary=primary), states)
    return {
        "Datacenter": own,
        "NodeName": config.get("NodeName", ""),
        "Findings": [_shown(finding) for finding in settle(findings)],
    }


def _shown(finding: Finding) -> dict[str, str]:
    shown = {
        "Source": finding.source,
        "Target": finding.target,
        "Hop": str(finding.hop),
        "Verdict": finding.verdict,
        "Text": finding.text,
    }
    return shown | ({"Remedy": finding.remedy} if finding.remedy else {})


def _has_tls(debug: Mapping[str, Any]) -> bool:
    """Whether files are configured; True also where the agent does not tell."""
    inner = (debug.get("TLS") or {}).get("InternalRPC") or debug
    if "CertFile" not in inner:
        return True
    return bool((inner.get("CAFile") or inner.get("CAPath")) and inner.get("CertFile"))


def _states(client: AgentClient, dc: str = "") -> dict[str, dict[str, Any]]:
    query = {"dc": dc} if dc else None
    states = client.get_list("/v1/internal/federation-states", query)
    return {state["Datacenter"]: state for state in states}


def _way_there(
    client: AgentClient,
    way: Way,
    states: Mapping[str, Mapping[str, Any]],
    members: Sequence[Mapping[str, Any]],
) -> list[Finding]:
    ours = _gateways(states.get(way.source))
    theirs = _gateways(states.get(way.target))
    dialled = usable_addresses(ours, wan=False)
    if not dialled and way.target == way.primary:
        dialled = usable_addresses(theirs, wan=True)
    findings = [judge_gateways(way, theirs, dialled=dialled)]
    answer = _rpc(client, way)
    proved = answer.verdict == OK
    connected = [address for address in dialled if _connects(address)]
    if connected:
        text = f"{', '.join(connected)} accepts connections from here"
        findings.append(way.finding(Hop.ADDRESS, OK, text))
    else:
        text = "no gateway accepts connections from here, where this command runs"
        findings.append(way.finding(Hop.ADDRESS, OK if proved else UNKNOWN, text))
    text = "a call went through" if proved else _NOT_TOLD
    findings.append(way.finding(Hop.TLS, OK if proved else UNKNOWN, text))
    findings.append(answer)
    facts = [
        MemberFacts(name=member["Name"], status=_STATUSES[member.get("Status", 0) % 5])
        for member in members
        if member.get("Tags", {}).get("dc") == way.target
    ]
    findings.append(judge_gossip(way, facts, patience=0.0))
    if way.target == way.primary:
        findings.append(_replication(client, way, states))
    findings.append(_clock(way, states))
    return findings


def _rpc(client: AgentClient, way: Way) -> Finding:
    try:
        client.get_list("/v1/catalog/nodes", {"dc": way.target})
    except RequestFailed as error:
        text = str(error)
        step = ""
        if NO_REACHABLE_SERVER in text:
            step = NO_GATEWAY
        elif PERMISSION_DENIED in text or ACL_NOT_FOUND in text:
            step = ACL
        return judge_rpc(way, seconds=0.0, step=step, text=text, gateway="")
    return way.finding(Hop.RPC, OK, f"a server of {way.target} answered")


def _replication(client: AgentClient, way: Way, states: Mapping[str, Mapping[str, Any]]) -> Finding:
    try:
        theirs = _states(client, way.target)
    except RequestFailed as error:
        return judge_replication(
            way, running=True, last_success=None, failures=1, missing=-1, text=str(error)
        )
    missing = sum(
        1
        for name, state in theirs.items()
        if states.get(name, {}).get("PrimaryModifyIndex") != state.get("ModifyIndex")
    )
    return judge_replication(
        way, running=True, last_success=0.0, failures=0, missing=missing, text=""
    )


def _clock(way: Way, states: Mapping[str, Mapping[str, Any]]) -> Finding:
    """A date in the future of our own datacenter's proves that the other's clock is ahead."""
    theirs, ours = (states.get(dc, {}).get("UpdatedAt") for dc in (way.target, way.source))
    if not theirs or not ours:
        return judge_clock(way, difference=None, uncertainty=0.0)
    import time

    now = Timestamp.of_unix(int(time.time()))  # noqa: TID251
    ahead = Timestamp.parse(theirs).seconds - now.seconds
    difference = float(ahead) if ahead > 0 else None
    return judge_clock(way, difference=difference, uncertainty=1.0)


def _way_back(
    client: AgentClient, way: Way, states: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    path = f"/v1/internal/federation-state/{path_part(way.target)}"
    try:
        answer = client.get_object(path, {"dc": way.source})
    except RequestFailed as error:
        return [way.finding(Hop.GATEWAYS, UNKNOWN, str(error))]
    known = usable_addresses(_gateways(answer.get("State")), wan=True)
    ours = usable_addresses(_gateways(states.get(way.target)), wan=True)
    if set(known) & set(ours):
        text = f"{way.source} knows the gateways of {way.target}: {', '.join(known)}"
        return [
            way.finding(Hop.GATEWAYS, OK, text),
            way.finding(Hop.ADDRESS, UNKNOWN, f"{_NOT_TOLD}: run the doctor in {way.source}"),
        ]
    text = f"{way.source} knows {', '.join(known) or 'no gateway'} of {way.target}"
    return [
        way.finding(
            Hop.GATEWAYS,
            BROKEN,
            f"{text}, which has {', '.join(ours) or 'none that can be used'}",
            f"check that a gateway of {way.target} is registered and healthy, and that replication"
            f" of federation states works in {way.source}",
        )
    ]


def _connects(address: str) -> bool:
    try:
        with socket.create_connection(split_host_port(address), CONNECT_TIMEOUT):
            return True
    except (OSError, ValueError):
        return False


def _gateways(state: Mapping[str, Any] | None) -> list[CheckServiceNode]:
    """The gateways of a federation state, as far as they are judged."""
    return [_gateway(gateway) for gateway in (state or {}).get("MeshGateways") or ()]


def _gateway(gateway: Mapping[str, Any]) -> CheckServiceNode:
    node, service = gateway.get("Node") or {}, gateway.get("Service") or {}
    tagged = {
        tag: ServiceAddress(address=one.get("Address", ""), port=one.get("Port", 0))
        for tag, one in (service.get("TaggedAddresses") or {}).items()
    }
    return CheckServiceNode(
        node=Node(
            node=node.get("Node", ""),
            address=node.get("Address", ""),
            tagged_addresses=node.get("TaggedAddresses") or None,
        ),
        service=NodeService(
            id=service.get("ID", ""),
            service=service.get("Service", ""),
            address=service.get("Address", ""),
            port=service.get("Port", 0),
            meta=service.get("Meta") or None,
            tagged_addresses=tagged or None,
        ),
        checks=tuple(
            HealthCheck(
                check_id=check.get("CheckID", ""),
                status=check.get("Status", ""),
                output=check.get("Output", ""),
            )
            for check in gateway.get("Checks") or ()
        ),
    )


DOCTOR: Final = Command(
    "federation doctor",
    "Find the broken hop of every way between the agent's datacenter and others. Exits 1 if any.",
    _doctor,
    (
        Flag("datacenter", "Only the ways to and from this one.", placeholder="DC"),
        Flag("format", "table or json.", _format, "table", placeholder="FORMAT"),
        *CLIENT_FLAGS,
    ),
    examples=("isthmus federation doctor", "isthmus federation doctor -datacenter dc2"),
)
