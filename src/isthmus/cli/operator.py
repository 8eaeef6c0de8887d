"""``isthmus operator raft``, ``autopilot`` and ``storage``.

Source: protocol/cli-config-dns.md §1.2.
"""

import json
from typing import Any, Final

from isthmus.cli.agent import AGENT_FLAGS, agent_config
from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, failing_as
from isthmus.cli.command import Command, CommandFailed, complain, format_mistakes, say
from isthmus.cli.flags import Flag, Parsed, UsageError, parse_bool, switch, whole_number
from isthmus.cli.tables import format_table
from isthmus.errors import ConfigError, IsthmusError
from isthmus.units import parse_duration

_RAFT: Final = "/v1/operator/raft"
_AUTOPILOT: Final = "/v1/operator/autopilot"
_KEYS: Final = (
    "CleanupDeadServers",
    "LastContactThreshold",
    "MaxTrailingLogs",
    "MinQuorum",
    "ServerStabilizationTime",
    "RedundancyZoneTag",
    "DisableUpgradeMigration",
    "UpgradeVersionTag",
)


def _list_peers(args: Parsed) -> int:
    query = {"stale": ""} if args["stale"] else {}
    with failing_as("Error getting peers: Failed to retrieve raft configuration"):
        found = AgentClient.of(args).get_object(f"{_RAFT}/configuration", query)
    rows = [("Node", "ID", "Address", "State", "Voter", "RaftProtocol")]
    rows += [
        (
            server["Node"],
            server["ID"],
            server["Address"] or "(unknown)",
            "leader" if server["Leader"] else "follower",
            str(server["Voter"]).lower(),
            server["ProtocolVersion"],
        )
        for server in found["Servers"] or ()
    ]
    say(format_table(rows))
    return 0


def _remove_peer(args: Parsed) -> int:
    named = {name: args[name] for name in ("address", "id") if args[name]}
    if len(named) != 1:
        raise UsageError("Must specify either -id or -address of the server to remove")
    ((kind, value),) = named.items()
    with failing_as("Error removing peer"):
        AgentClient.of(args).change("DELETE", f"{_RAFT}/peer", named)
    say(f'Removed peer with {kind} "{value}"')
    return 0


def _transfer(args: Parsed) -> int:
    query = {"id": args["id"]} if args["id"] else {}
    with failing_as("Error transferring leadership"):
        AgentClient.of(args).change("POST", f"{_RAFT}/transfer-leader", query)
    say("Success")
    return 0


def _get_config(args: Parsed) -> int:
    with failing_as("Error querying Autopilot configuration"):
        found = AgentClient.of(args).get_object(f"{_AUTOPILOT}/configuration", {})
    for key in _KEYS:
        say(f"{key} = {_shown(found[key])}")
    return 0


def _set_config(args: Parsed) -> int:
    client = AgentClient.of(args)
    with failing_as("Error querying Autopilot configuration"):
        config = client.get_object(f"{_AUTOPILOT}/configuration", {})
    changes: dict[str, Any] = {}
    for flag, key in _SETTINGS.items():
        if flag in args.given:
            changes[key] = args[flag]
    if not changes:
        raise UsageError("Nothing to set: name at least one of the settings")
    query = {"cas": str(config["ModifyIndex"])}
    with failing_as("Error setting Autopilot configuration"):
        body = json.dumps({**config, **changes}).encode()
        done = client.change("PUT", f"{_AUTOPILOT}/configuration", query, body)
    if done.strip() != b"true":
        say("Configuration could not be atomically updated, please try again")
        return 1
    say("Configuration updated!")
    return 0


def _state(args: Parsed) -> int:
    if args["format"] not in {"pretty", "json"}:
        raise CommandFailed(f"Unknown format: {args['format']}")
    with failing_as("Error querying Autopilot state"):
        found = AgentClient.of(args).get_object(f"{_AUTOPILOT}/state", {})
    if args["format"] == "json":
        say(json.dumps(found, indent=4))
        return 0
    say(f"Healthy:                      {_shown(found['Healthy'])}")
    say(f"Failure Tolerance:            {found['FailureTolerance']}")
    say(f"Optimistic Failure Tolerance: {found['OptimisticFailureTolerance']}")
    say(f"Leader:                       {found['Leader']}")
    say("Voters:")
    for voter in found["Voters"] or ():
        say(f"   {voter}")
    say("Servers:")
    for server_id, server in sorted((found["Servers"] or {}).items()):
        say(f"   {server_id}")
        for label, key in _SERVER_ROWS:
            say(f"      {label + ':':17}{_shown(server[key])}")
        meta = server.get("Meta") or {}
        if meta:
            say("      Meta")
        for key, value in sorted(meta.items()):
            say(f"         {json.dumps(key)}: {json.dumps(value)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if value == "" else str(value)


def _duration(given: str) -> str:
    return str(parse_duration(given))


def _count(given: str) -> int:
    found = whole_number(given)
    if found < 0:
        raise ValueError("must not be negative")
    return found


_SERVER_ROWS: Final = (
    ("Name", "Name"),
    ("Address", "Address"),
    ("Version", "Version"),
    ("Status", "Status"),
    ("Node Type", "NodeType"),
    ("Node Status", "NodeStatus"),
    ("Healthy", "Healthy"),
    ("Last Contact", "LastContact"),
    ("Last Term", "LastTerm"),
    ("Last Index", "LastIndex"),
)
_SETTINGS: Final = {
    "cleanup-dead-servers": "CleanupDeadServers",
    "last-contact-threshold": "LastContactThreshold",
    "max-trailing-logs": "MaxTrailingLogs",
    "min-quorum": "MinQuorum",
    "server-stabilization-time": "ServerStabilizationTime",
    "redundancy-zone-tag": "RedundancyZoneTag",
    "disable-upgrade-migration": "DisableUpgradeMigration",
    "upgrade-version-tag": "UpgradeVersionTag",
}


def _migrate(args: Parsed) -> int:
    if args["online"]:
        return _migrate_online(args)
    try:
        config = agent_config(args)
    except ConfigError as error:
        complain(format_mistakes(error, prefix="==> "))
        return 1
    import asyncio

    from isthmus.agent.migration import describe, migrate
    from isthmus.agent.platform import Machine

    say(f"==> Moving the data in {config.data_dir} to {args['to']}; the agent must be stopped")
    try:
        done = asyncio.run(migrate(config, args["to"], Machine()))
    except (IsthmusError, OSError) as error:
        raise CommandFailed(f"Error! The data was not moved: {error}") from error
    for line in describe(done):
        say(f"    {line}")
    say("Success! Set this before you start the agent again:")
    say(
        "    bootstrap_expect = 3 instead of bootstrap = true, and start the other servers"
        if args["to"] == "etcd"
        else "    bootstrap = true instead of bootstrap_expect"
    )
    return 0


def _migrate_online(args: Parsed) -> int:
    if args["to"] != "etcd":
        raise UsageError("Only a move to etcd can be made while the agent runs")
    say("==> Moving the agent's data to etcd while it serves")
    with failing_as("Error moving the data"):
        AgentClient.of(args).change("PUT", "/v1/isthmus/storage/migrate")
    say("Success! Set this in the agent's configuration before its next start:")
    say("    bootstrap_expect = 3 instead of bootstrap = true")
    say("Other servers with bootstrap_expect = 3 can join now.")
    return 0


def _recover(args: Parsed) -> int:
    try:
        config = agent_config(args)
    except ConfigError as error:
        complain(format_mistakes(error, prefix="==> "))
        return 1
    from isthmus.agent.migration import recover

    try:
        recover(config)
    except (IsthmusError, OSError) as error:
        raise CommandFailed(f"Error! {error}") from error
    say("At its next start this server goes on alone, with the data that it has.")
    say("On every other server: stop it, move storage in its data_dir away, start it again.")
    return 0


RECOVER: Final = Command(
    "operator storage recover",
    "Let a stopped server go on alone, when most servers of its datacenter are lost for good.",
    _recover,
    AGENT_FLAGS,
    examples=("isthmus operator storage recover -config-dir=/etc/isthmus.d",),
)


def _engine(given: str) -> str:
    if given not in {"sqlite", "etcd"}:
        raise ValueError("must be sqlite or etcd")
    return given


MIGRATE: Final = Command(
    "operator storage migrate",
    "Move the data of a datacenter's one server to another engine, while it is stopped; to etcd "
    "also while it runs.",
    _migrate,
    (
        Flag(
            "to",
            "sqlite, for one server, or etcd, for several.",
            _engine,
            "etcd",
            placeholder="ENGINE",
        ),
        switch("online", "Ask the running agent to do it; the flags of its address count then."),
        *AGENT_FLAGS,
        *CLIENT_FLAGS,
    ),
    count=0,
    examples=(
        "isthmus operator storage migrate -online",
        "isthmus operator storage migrate -config-dir=/etc/isthmus.d -to=sqlite",
    ),
)

LIST_PEERS: Final = Command(
    "operator raft list-peers",
    "List the servers that keep the datacenter's data.",
    _list_peers,
    (*CLIENT_FLAGS, *QUERY_FLAGS),
)
REMOVE_PEER: Final = Command(
    "operator raft remove-peer",
    "Remove a server that is gone for good from those that keep the data.",
    _remove_peer,
    (
        Flag("address", "host:port of its server port.", placeholder="ADDRESS"),
        Flag("id", "Its node id.", placeholder="ID"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    examples=("isthmus operator raft remove-peer -address=10.0.1.8:8300",),
)
TRANSFER_LEADER: Final = Command(
    "operator raft transfer-leader",
    "Have another server lead; writes go on.",
    _transfer,
    (
        Flag("id", "Node id of the server that is to lead; any by default.", placeholder="ID"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
)
GET_CONFIG: Final = Command(
    "operator autopilot get-config",
    "Show what holds for servers that come and go.",
    _get_config,
    (*CLIENT_FLAGS, *QUERY_FLAGS),
)
SET_CONFIG: Final = Command(
    "operator autopilot set-config",
    "Change what holds for servers that come and go.",
    _set_config,
    (
        Flag(
            "cleanup-dead-servers",
            "Remove servers that have failed.",
            parse_bool,
            placeholder="BOOL",
        ),
        Flag(
            "last-contact-threshold",
            "Longest silence of a healthy server.",
            _duration,
            placeholder="TIME",
        ),
        Flag(
            "max-trailing-logs",
            "Most writes that a healthy server is behind.",
            _count,
            placeholder="N",
        ),
        Flag(
            "min-quorum",
            "No failed server is removed below so many.",
            _count,
            placeholder="N",
        ),
        Flag(
            "server-stabilization-time",
            "How long a new server must be healthy before it votes.",
            _duration,
            placeholder="TIME",
        ),
        Flag("redundancy-zone-tag", "Kept, and without effect.", placeholder="TAG"),
        Flag(
            "disable-upgrade-migration", "Kept, and without effect.", parse_bool, placeholder="BOOL"
        ),
        Flag("upgrade-version-tag", "Kept, and without effect.", placeholder="TAG"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    examples=("isthmus operator autopilot set-config -cleanup-dead-servers=false",),
)
STATE: Final = Command(
    "operator autopilot state",
    "Show how the datacenter's servers are.",
    _state,
    (
        Flag("format", "pretty or json.", default="pretty", placeholder="FORMAT"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
)
