"""``isthmus rtt``: the estimated round trip between two nodes. Texts are Consul's.

Source: protocol/cli-config-dns.md §1.2.
"""

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, failing_as
from isthmus.cli.command import Command, CommandFailed, say
from isthmus.cli.flags import Parsed, UsageError, switch
from isthmus.model.coordinate import Coord, Coordinate, DatacenterMap, distance

T = TypeVar("T")

_MILLISECONDS: Final = 1000.0


def _rtt(args: Parsed) -> int:
    if not 1 <= len(args.rest) <= 2:
        raise UsageError("One or two node names must be specified")
    client = AgentClient.of(args)
    wan = args["wan"]
    names = list(args.rest)
    if len(names) == 1:
        names.append(_own_name(client, wan=wan))
    coordinates = _wan_coordinates(client, names) if wan else _lan_coordinates(client)
    ends = [_end(coordinates, name) for name in names]
    rtt_ms = distance(*ends) * _MILLISECONDS
    pool = "WAN" if wan else "LAN"
    say(f"Estimated {names[0]} <-> {names[1]} rtt: {rtt_ms:.3f} ms (using {pool} coordinates)")
    return 0


def _own_name(client: AgentClient, *, wan: bool) -> str:
    """Name of the agent's node, in the WAN pool with its datacenter."""
    with failing_as("Unable to look up agent info"):
        answer = client.get_object("/v1/agent/self")
    config: dict[str, Any] = answer.get("Config") or {}
    if not config.get("NodeName"):
        raise CommandFailed("Unable to look up agent info: it does not tell its name")
    node = str(config["NodeName"])
    return f"{node}.{config.get('Datacenter', '')}" if wan else node


def _lan_coordinates(client: AgentClient) -> dict[str, Coord | None]:
    with failing_as("Error getting coordinates"):
        entries = client.get_list("/v1/coordinate/nodes")
    return _by_name(_read(entries, Coordinate))


def _wan_coordinates(client: AgentClient, names: Iterable[str]) -> dict[str, Coord | None]:
    """Coordinates of servers by ``node.dc``."""
    for name in names:
        node, _, dc = name.rpartition(".")
        if not node or not dc:
            raise CommandFailed(
                "Node names must be specified as <node name>.<datacenter> with -wan"
            )
    with failing_as("Error getting coordinates"):
        maps = client.get_list("/v1/coordinate/datacenters")
    return _by_name(
        msgspec.structs.replace(one, node=f"{one.node}.{each.datacenter}")
        for each in _read(maps, DatacenterMap)
        for one in each.coordinates or ()
    )


def _read(entries: list[Any], kind: type[T]) -> list[T]:
    try:
        return [msgspec.convert(entry, kind) for entry in entries]
    except msgspec.ValidationError as error:
        raise CommandFailed(f"Error getting coordinates: {error}") from error


def _by_name(found: Iterable[Coordinate]) -> dict[str, Coord | None]:
    """Coordinates by name, whose case does not count; of several segments the first."""
    coordinates: dict[str, Coord | None] = {}
    for one in found:
        coordinates.setdefault(one.node.lower(), one.coord)
    return coordinates


def _end(coordinates: dict[str, Coord | None], name: str) -> Coord:
    coord = coordinates.get(name.lower())
    if coord is None:
        raise CommandFailed(f'Could not find a coordinate for node "{name}"')
    if not coord.is_compatible():
        raise CommandFailed(
            f'The coordinate of node "{name}" is of no use: it has another number of dimensions, '
            "or values that no round trip leads to"
        )
    return coord


RTT: Final = Command(
    "rtt",
    "Estimate the round trip between two nodes; without a second one, to the agent's own.",
    _rtt,
    (
        switch("wan", "Between servers of any datacenters, named <node name>.<datacenter>."),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="NODE1 [NODE2]",
    count=None,
    examples=("isthmus rtt web1 web2", "isthmus rtt -wan alpha.dc1 beta.dc2"),
)
