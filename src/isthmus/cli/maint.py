"""``isthmus maint``: take a node or a service out of service, or show which are.

Source: protocol/cli-config-dns.md §1.2.
"""

import json
from typing import Final

from isthmus.cli.client import CLIENT_FLAGS, AgentClient, failing_as, path_part
from isthmus.cli.command import Command, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch

_NODE: Final = "_node_maintenance"
_SERVICE: Final = "_service_maintenance:"


def _maint(args: Parsed) -> int:
    enable, disable, service = args["enable"], args["disable"], args["service"]
    if enable and disable:
        raise UsageError("Only one of -enable or -disable may be provided")
    if not enable and args["reason"]:
        raise UsageError("Reason may only be provided with -enable")
    if not enable and not disable and service:
        raise UsageError("Service requires either -enable or -disable")
    client = AgentClient.of(args)
    if not enable and not disable:
        return _show(client)
    query = {"enable": "true" if enable else "false"}
    if enable:
        query["reason"] = args["reason"]
    what, verb = "service" if service else "node", "enabl" if enable else "disabl"
    with failing_as(f"Error {verb}ing {what} maintenance"):
        if service:
            client.put(f"/v1/agent/service/maintenance/{path_part(service)}", query)
        else:
            client.put("/v1/agent/maintenance", query)
    suffix = f" for {json.dumps(service, ensure_ascii=False)}" if service else ""
    say(f"{what.capitalize()} maintenance is now {verb}ed{suffix}")
    return 0


def _show(client: AgentClient) -> int:
    with failing_as("Error querying Consul agent"):
        node = (client.get_object("/v1/agent/self").get("Config") or {}).get("NodeName", "")
    with failing_as("Error getting checks"):
        checks = client.get_object("/v1/agent/checks")
    for check_id, check in sorted(checks.items()):
        if check_id == _NODE:
            say(f"Node:\n  Name:   {node}")
        elif check_id.startswith(_SERVICE):
            say(f"Service:\n  ID:     {check.get('ServiceID', '')}")
        else:
            continue
        say(f"  Reason: {check.get('Notes', '')}\n")
    return 0


MAINT: Final = Command(
    "maint",
    "Take the agent's node, or one service, out of service and back; or show what is out.",
    _maint,
    (
        switch("enable", "Take out of service."),
        switch("disable", "Put back into service."),
        Flag("reason", "Why; shown to who looks.", placeholder="TEXT"),
        Flag("service", "Only this service, by its id.", placeholder="ID"),
        *CLIENT_FLAGS,
    ),
    examples=(
        "isthmus maint -enable -reason='new disks'",
        "isthmus maint -enable -service=web",
        "isthmus maint -disable",
    ),
)
