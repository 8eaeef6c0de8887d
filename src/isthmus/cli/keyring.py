"""``isthmus keyring``: the gossip keys of all datacenters.

Source: protocol/cli-config-dns.md §1.2.
"""

import json
from typing import Any, Final

from isthmus.cli.client import CLIENT_FLAGS, AgentClient, RequestFailed, failing_as
from isthmus.cli.command import Command, complain, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch, whole_number

RELAY_FACTOR_MAX: Final = 5

_PATH: Final = "/v1/operator/keyring"
_CHANGES: Final = {
    "install": ("POST", "Installing new gossip encryption key..."),
    "use": ("PUT", "Changing primary gossip encryption key..."),
    "remove": ("DELETE", "Removing gossip encryption key..."),
}
_LISTS: Final = {
    "list": ("Keys", "Gathering installed encryption keys..."),
    "list-primary": ("PrimaryKeys", "Gathering installed primary encryption keys..."),
}


def _keyring(args: Parsed) -> int:
    wanted = [name for name in (*_CHANGES, *_LISTS) if args[name]]
    if len(wanted) > 1:
        raise UsageError("Only a single action is allowed")
    if not wanted:
        actions = ", ".join(f"-{name}" for name in (*_CHANGES, *_LISTS))
        raise UsageError(f"One action is needed: {actions}")
    (action,) = wanted
    factor = args["relay-factor"]
    if not 0 <= factor <= RELAY_FACTOR_MAX:
        raise UsageError(
            f"Error parsing relay factor: Relay factor must be in range: [0, {RELAY_FACTOR_MAX}]"
        )
    if args["local-only"] and action not in _LISTS:
        raise UsageError("Error validating local-only: it can only be set for list requests")
    query = {"relay-factor": str(factor)} if factor else {}
    client = AgentClient.of(args)
    if action in _LISTS:
        return _list(client, action, query | ({"local-only": "true"} if args["local-only"] else {}))
    method, text = _CHANGES[action]
    say(f"==> {text}")
    with failing_as("error"):
        client.change(method, _PATH, query, json.dumps({"Key": args[action]}).encode())
    return 0


def _list(client: AgentClient, action: str, query: dict[str, str]) -> int:
    field, text = _LISTS[action]
    say(f"==> {text}")
    with failing_as("error"):
        pools = client.get_list(_PATH, query)
        if not pools:
            raise RequestFailed("the agent answered without any pool")
    for pool in pools:
        say("\n".join(["", *_lines(pool, field)]))
    failed = [_name(pool) for pool in pools if pool.get("Error")]
    if failed:
        complain(f"error: not every pool answered in full: {', '.join(failed)}")
    return 1 if failed else 0


def _name(pool: dict[str, Any]) -> str:
    if pool.get("WAN"):
        return "WAN"
    segment = f" [{pool['Segment']}]" if pool.get("Segment") else ""
    return f"{pool.get('Datacenter', '')} (LAN){segment}"


def _lines(pool: dict[str, Any], field: str) -> list[str]:
    """A pool as Consul shows it: its name, what members said, keys and who has them."""
    lines = [f"{_name(pool)}:"]
    lines += [
        f"  ===> {member}: {text}" for member, text in sorted((pool.get("Messages") or {}).items())
    ]
    lines += [
        f"  {key} [{count}/{pool.get('NumNodes', 0)}]"
        for key, count in sorted((pool.get(field) or {}).items())
    ]
    return lines


KEYRING: Final = Command(
    "keyring",
    "List or change the keys that gossip is encrypted with, in all datacenters at once.",
    _keyring,
    (
        switch("list", "List all keys, and how many members of each pool have them."),
        switch("list-primary", "List the keys that members encrypt with."),
        Flag("install", "Give all members a key; they can read with it at once.", placeholder="K"),
        Flag("use", "Have all members encrypt with a key that they have.", placeholder="K"),
        Flag("remove", "Have all members forget a key that is not in use.", placeholder="K"),
        switch("local-only", "Only the agent's own datacenter; to list only."),
        Flag(
            "relay-factor",
            "Members, 0 to 5, that bring each answer beside the one who gives it.",
            whole_number,
            0,
            placeholder="N",
        ),
        *CLIENT_FLAGS,
    ),
    examples=(
        "isthmus keyring -install=$(isthmus keygen)",
        "isthmus keyring -list",
    ),
)
