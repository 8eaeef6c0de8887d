"""Commands about an agent and the pools it is a member of.

``members``, ``join``, ``leave``, ``force-leave``, ``info``, ``reload``.

Source: protocol/cli-config-dns.md §1.2.
"""

import re
from typing import Any, Final

from isthmus.cli.client import CLIENT_FLAGS, AgentClient, RequestFailed, failing_as, path_part
from isthmus.cli.command import Command, CommandFailed, complain, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch
from isthmus.cli.tables import format_pairs, format_table
from isthmus.names import host_port

NO_MATCH: Final = 2
"""Exit code of ``members`` when no member matches."""

_STATUSES: Final = {0: "none", 1: "alive", 2: "leaving", 3: "left", 4: "failed"}
_TYPES: Final = {"consul": "server", "node": "client"}


def _members(args: Parsed) -> int:
    try:
        status = re.compile(args["status"])
    except re.error as error:
        raise CommandFailed(f"Failed to compile status regexp: {error}") from None
    query = {"segment": args["segment"] or "_all"}
    if args["wan"]:
        query["wan"] = "1"
    with failing_as("Error retrieving members"):
        members = AgentClient.of(args).get_list("/v1/agent/members", query)
    chosen = [one for one in members if status.search(_status(one))]
    if not chosen:
        return NO_MATCH
    chosen.sort(key=lambda one: (one["Name"], (one.get("Tags") or {}).get("segment", "")))
    say(_detailed(chosen) if args["detailed"] else _standard(chosen))
    return 0


def _status(member: dict[str, Any]) -> str:
    return _STATUSES.get(member.get("Status", 0), "unknown")


def _standard(members: list[dict[str, Any]]) -> str:
    rows = [["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Segment"]]
    for one in members:
        tags = one.get("Tags") or {}
        kind = _TYPES.get(tags.get("role", ""), "unknown")
        segment = "<all>" if kind == "server" else tags.get("segment", "") or "<default>"
        build = tags.get("build", "").partition(":")[0] or "< 0.3"
        address = host_port(one.get("Addr", ""), one.get("Port", 0))
        version, dc = tags.get("vsn", ""), tags.get("dc", "")
        rows.append([one["Name"], address, _status(one), kind, build, version, dc, segment])
    return format_table(rows)


def _detailed(members: list[dict[str, Any]]) -> str:
    rows = [["Node", "Address", "Status", "Tags"]]
    for one in members:
        address = host_port(one.get("Addr", ""), one.get("Port", 0))
        rows.append([one["Name"], address, _status(one), format_pairs(one.get("Tags"))])
    return format_table(rows)


def _join(args: Parsed) -> int:
    if not args.rest:
        raise UsageError("At least one address to join must be specified.")
    client, joined = AgentClient.of(args), 0
    for address in args.rest:
        try:
            client.put(
                f"/v1/agent/join/{path_part(address)}", {"wan": "1"} if args["wan"] else None
            )
        except RequestFailed as error:
            complain(f"Error joining address '{address}': {error}")
        else:
            joined += 1
    if not joined:
        raise CommandFailed("Failed to join any nodes.")
    say(f"Successfully joined cluster by contacting {joined} nodes.")
    return 0


def _leave(args: Parsed) -> int:
    with failing_as("Error leaving"):
        AgentClient.of(args).put("/v1/agent/leave")
    say("Graceful leave complete")
    return 0


def _force_leave(args: Parsed) -> int:
    if len(args.rest) != 1:
        raise UsageError("A single node name must be specified to force leave.")
    query = {name: "1" for name in ("prune", "wan") if args[name]}
    with failing_as("Error force leaving"):
        AgentClient.of(args).put(f"/v1/agent/force-leave/{path_part(args.rest[0])}", query)
    return 0


def _info(args: Parsed) -> int:
    with failing_as("Error querying agent"):
        answer = AgentClient.of(args).get_object("/v1/agent/self")
    for group, figures in sorted((answer.get("Stats") or {}).items()):
        say(f"{group}:")
        for name, value in sorted(figures.items()):
            say(f"\t{name} = {value}")
    return 0


def _reload(args: Parsed) -> int:
    with failing_as("Error reloading"):
        AgentClient.of(args).put("/v1/agent/reload")
    say("Configuration reload triggered")
    return 0


MEMBERS: Final = Command(
    "members",
    "List the members of the datacenter's pool, or with -wan of all datacenters' servers.",
    _members,
    (
        switch("wan", "The servers of all datacenters."),
        switch("detailed", "Show all tags."),
        Flag("status", "Only members whose status matches.", default=".*", placeholder="REGEXP"),
        Flag("segment", "Only this segment.", placeholder="NAME"),
        *CLIENT_FLAGS,
    ),
    examples=("isthmus members -wan",),
)
JOIN: Final = Command(
    "join",
    "Make the agent join the pool of other agents.",
    _join,
    (switch("wan", "The pool of all datacenters' servers."), *CLIENT_FLAGS),
    arguments="ADDRESS…",
    count=None,
)
LEAVE: Final = Command("leave", "Make the agent leave its pools and stop.", _leave, CLIENT_FLAGS)
FORCE_LEAVE: Final = Command(
    "force-leave",
    "Make a failed member count as left.",
    _force_leave,
    (
        switch("prune", "Forget it altogether."),
        switch("wan", "In the pool of all datacenters' servers: <node name>.<datacenter>."),
        *CLIENT_FLAGS,
    ),
    arguments="NODE",
    count=None,
    examples=(
        "isthmus force-leave -prune web1",
        "isthmus force-leave -wan alpha.dc1",
    ),
)
INFO: Final = Command("info", "Show the agent's figures.", _info, CLIENT_FLAGS)
RELOAD: Final = Command(
    "reload", "Make the agent read its configuration again.", _reload, CLIENT_FLAGS
)
