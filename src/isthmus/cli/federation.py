"""``isthmus federation list``, ``get`` and ``gateways``: who knows which gateways of whom.

They read Consul's three internal endpoints, so they show what any server of any datacenter knows,
isthmus or Consul.

Source: protocol/federation.md §23.
"""

import json
from typing import Any, Final

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, failing_as, path_part
from isthmus.cli.command import Command, CommandFailed, say
from isthmus.cli.flags import Flag, Parsed
from isthmus.cli.tables import format_table
from isthmus.names import host_port

_SEVERITY: Final = ("passing", "warning", "critical")
_GATEWAY_HEADING: Final = ["Node", "Service", "LAN Address", "WAN Address", "Health"]


def _format(text: str) -> str:
    if text not in {"table", "json"}:
        raise ValueError("must be table or json")
    return text


def _list(args: Parsed) -> int:
    with failing_as("Error listing federation states"):
        states = AgentClient.of(args).get_list("/v1/internal/federation-states")
    if args["format"] == "json":
        return _say_json(states)
    if not states:
        say("No federation states: no datacenter has announced its mesh gateways yet.")
        return 0
    rows = [["Datacenter", "Gateways", "WAN Addresses", "Updated", "Primary Index", "Index"]]
    for state in states:
        gateways = state.get("MeshGateways") or []
        rows.append(
            [
                state["Datacenter"],
                str(len(gateways)),
                ",".join(_address(gateway, "wan") for gateway in gateways) or "none",
                state.get("UpdatedAt", ""),
                str(state.get("PrimaryModifyIndex", "")),
                str(state.get("ModifyIndex", "")),
            ]
        )
    say(format_table(rows))
    return 0


def _get(args: Parsed) -> int:
    dc = args.rest[0]
    with failing_as("Error reading the federation state"):
        answer = AgentClient.of(args).get_object(f"/v1/internal/federation-state/{path_part(dc)}")
    state = answer.get("State")
    if not state:
        raise CommandFailed(
            f"Error! No federation state of datacenter: {dc}\n"
            "Those that exist are shown by: isthmus federation list"
        )
    if args["format"] == "json":
        return _say_json(answer)
    for name in ("Datacenter", "UpdatedAt", "PrimaryModifyIndex", "CreateIndex", "ModifyIndex"):
        say(f"{name:21}{state.get(name, '')}")
    gateways = state.get("MeshGateways") or []
    say(f"{'MeshGateways':21}{len(gateways)}")
    if gateways:
        say("")
        say(format_table([_GATEWAY_HEADING, *map(_gateway_row, gateways)]))
    return 0


def _gateways(args: Parsed) -> int:
    with failing_as("Error listing mesh gateways"):
        answer = AgentClient.of(args).get_object("/v1/internal/federation-states/mesh-gateways")
    if args["format"] == "json":
        return _say_json(answer)
    rows = [
        [dc, *_gateway_row(gateway)]
        for dc, gateways in sorted(answer.items())
        for gateway in gateways or []
    ]
    if not rows:
        say("No mesh gateways: start one with isthmus connect gateway -register -expose-servers.")
        return 0
    say(format_table([["Datacenter", *_GATEWAY_HEADING], *rows]))
    return 0


def _gateway_row(gateway: dict[str, Any]) -> list[str]:
    service, node = gateway.get("Service") or {}, gateway.get("Node") or {}
    health = max(
        (check.get("Status", "critical") for check in gateway.get("Checks") or []),
        key=lambda status: _SEVERITY.index(status) if status in _SEVERITY else len(_SEVERITY),
        default="passing",
    )
    return [
        node.get("Node", ""),
        service.get("ID") or service.get("Service", ""),
        _address(gateway, "lan"),
        _address(gateway, "wan"),
        health,
    ]


def _address(gateway: dict[str, Any], tag: str) -> str:
    """Address of a gateway as the other side of `tag` dials it."""
    service, node = gateway.get("Service") or {}, gateway.get("Node") or {}
    tagged = (service.get("TaggedAddresses") or {}).get(tag)
    if tagged and tagged.get("Address"):
        return host_port(tagged["Address"], tagged.get("Port", 0))
    host = service.get("Address") or (node.get("TaggedAddresses") or {}).get(tag)
    return host_port(host or node.get("Address", ""), service.get("Port", 0))


def _say_json(value: Any) -> int:
    say(json.dumps(value, indent=4))
    return 0


_FLAGS: Final = (
    Flag("format", "table or json.", _format, "table", placeholder="FORMAT"),
    *CLIENT_FLAGS,
    *QUERY_FLAGS,
)

LIST: Final = Command(
    "federation list",
    "List the federation states that the agent's datacenter knows.",
    _list,
    _FLAGS,
)
GET: Final = Command(
    "federation get",
    "Show one datacenter's federation state with its mesh gateways.",
    _get,
    _FLAGS,
    arguments="DC",
    count=1,
)
GATEWAYS: Final = Command(
    "federation gateways",
    "List the mesh gateways of all datacenters.",
    _gateways,
    _FLAGS,
    examples=("isthmus federation gateways -datacenter dc2",),
)
