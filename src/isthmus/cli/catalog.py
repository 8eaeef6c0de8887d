"""``isthmus catalog datacenters``, ``nodes`` and ``services``.

Source: protocol/cli-config-dns.md §1.2.
"""

from typing import Any, Final

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, failing_as, path_part
from isthmus.cli.command import Command, complain, say
from isthmus.cli.flags import Flag, Parsed, switch
from isthmus.cli.tables import format_pairs, format_table

_ID_SHOWN: Final = 8
"""Characters of a node id that are shown."""
_TAGS_GAP: Final = " " * 6


def _pair(text: str) -> str:
    """Read ``key=value`` as the API's ``key:value``."""
    key, _, value = text.partition("=")
    return f"{key}:{value}"


def _datacenters(args: Parsed) -> int:
    with failing_as("Error listing datacenters"):
        names = AgentClient.of(args).get_list("/v1/catalog/datacenters")
    for name in names:
        say(name)
    return 0


def _nodes(args: Parsed) -> int:
    query: dict[str, Any] = {name: args[name] for name in ("near", "filter") if args[name]}
    if args["node-meta"]:
        query["node-meta"] = args["node-meta"]
    path = "/v1/catalog/nodes"
    if args["service"]:
        path = f"/v1/catalog/service/{path_part(args['service'])}"
    with failing_as("Error listing nodes"):
        nodes = AgentClient.of(args).get_list(path, query)
    if not nodes:
        complain("No nodes match the given query - try expanding your search.")
        return 0
    heading = ["Node", "ID", "Address", "DC"]
    rows = [heading + (["TaggedAddresses", "Meta"] if args["detailed"] else [])]
    seen = set[str]()
    for node in nodes:
        if node["Node"] in seen:
            continue  # One row for a node, however many instances it has.
        seen.add(node["Node"])
        identity = node.get("ID") or ""
        row = [
            node["Node"],
            identity if args["detailed"] else identity[:_ID_SHOWN],
            node.get("Address") or "",
            node.get("Datacenter") or "",
        ]
        if args["detailed"]:
            meta = node.get("NodeMeta") if args["service"] else node.get("Meta")
            row += [format_pairs(node.get("TaggedAddresses")), format_pairs(meta)]
        rows.append(row)
    say(format_table(rows))
    return 0


def _services(args: Parsed) -> int:
    query = {"node-meta": args["node-meta"]} if args["node-meta"] else None
    with failing_as("Error listing services"):
        client = AgentClient.of(args)
        if args["node"]:
            answer = client.get_object(f"/v1/catalog/node/{path_part(args['node'])}")
            services = _of_node(answer)
        else:
            services = client.get_object("/v1/catalog/services", query)
    if not services:
        complain("No services match the given query - try expanding your search.")
        return 0
    if args["tags"]:
        rows = [[name, ",".join(sorted(tags or []))] for name, tags in sorted(services.items())]
        say(format_table(rows, gap=_TAGS_GAP))
    else:
        for name in sorted(services):
            say(name)
    return 0


def _of_node(answer: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for service in (answer.get("Services") or {}).values():
        tags = found.setdefault(service["Service"], [])
        tags += [tag for tag in service.get("Tags") or [] if tag not in tags]
    return found


_META: Final = Flag(
    "node-meta", "Only nodes with this pair.", _pair, repeated=True, placeholder="KEY=VALUE"
)

DATACENTERS: Final = Command(
    "catalog datacenters",
    "List the known datacenters, the nearest first.",
    _datacenters,
    (*CLIENT_FLAGS, *QUERY_FLAGS),
)
NODES: Final = Command(
    "catalog nodes",
    "List the nodes of a datacenter.",
    _nodes,
    (
        switch("detailed", "Show ids in full, tagged addresses and meta."),
        Flag("near", "Sort by round-trip time from this node.", placeholder="NODE"),
        _META,
        Flag("service", "Only nodes of this service.", placeholder="NAME"),
        Flag("filter", "Only nodes that this expression holds for.", placeholder="EXPRESSION"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    examples=("isthmus catalog nodes -datacenter dc2",),
)
SERVICES: Final = Command(
    "catalog services",
    "List the services of a datacenter.",
    _services,
    (
        Flag("node", "Only services of this node.", placeholder="NODE"),
        _META,
        switch("tags", "Show their tags."),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
)
