"""``isthmus services register`` and ``deregister``: services of the agent that is asked.

Source: protocol/cli-config-dns.md §1.2.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, failing_as, path_part
from isthmus.cli.command import Command, CommandFailed, complain, format_mistakes, say
from isthmus.cli.flags import Flag, Parsed, UsageError, whole_number
from isthmus.errors import ConfigError
from isthmus.names import split_host_port

_TEXTS: Final = {
    "kind": "Kind",
    "id": "ID",
    "name": "Name",
    "address": "Address",
    "port": "Port",
    "socket": "SocketPath",
}
"""Flags whose values are sent as they are, and the fields that they fill."""


def _pair(text: str) -> tuple[str, str]:
    """Parse ``key=value``."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError('missing "=", expected key=value')
    return name, value


def _tagged_address(text: str) -> tuple[str, dict[str, Any]]:
    """Parse ``tag=address`` or ``tag=address:port``."""
    name, address = _pair(text)
    if address.count(":") == 1 or address.startswith("["):
        try:
            host, port = split_host_port(address)
        except ValueError as error:
            raise ValueError(f"Invalid Tagged Address: {error}") from None
        return name, {"Address": host, "Port": port}
    return name, {"Address": address, "Port": 0}


def _register(args: Parsed) -> int:
    given = [
        flag for flag in ("id", "port", "address", "socket", "tag", "meta", "kind") if args[flag]
    ]
    if given and not args.rest and not args["name"]:
        raise UsageError(f"Service registration with -{given[0]} requires -name, too.")
    services = _services(args, named=args["name"], verb="registration")
    if not args.rest:
        found: dict[str, Any] = {field: args[flag] for flag, field in _TEXTS.items() if args[flag]}
        for flag, field in (("meta", "Meta"), ("tagged-address", "TaggedAddresses")):
            if args[flag]:
                found[field] = dict(args[flag])
        if args["tag"]:
            found["Tags"] = args["tag"]
        services = (found,)
    client = AgentClient.of(args)
    for service in services:
        name = service.get("Name", "")
        with failing_as(f'Error registering service "{name}"'):
            client.put("/v1/agent/service/register", body=json.dumps(service).encode())
        say(f"Registered service: {name}")
    return 0


def _deregister(args: Parsed) -> int:
    services = _services(args, named=args["id"], verb="deregistration")
    client = AgentClient.of(args)
    for service in services or ({"ID": args["id"]},):
        service_id = service.get("ID") or service.get("Name") or ""
        if not service_id:
            continue
        with failing_as(f'Error deregistering service "{service_id}"'):
            client.put(f"/v1/agent/service/deregister/{path_part(service_id)}")
        say(f"Deregistered service: {service_id}")
    return 0


def _services(args: Parsed, *, named: str, verb: str) -> tuple[Mapping[str, Any], ...]:
    """Definitions in the files that the command line names; none when it names a service itself."""
    if not args.rest and not named:
        ways = "argument or flags" if verb == "registration" else "argument or -id"
        raise UsageError(f"Service {verb} requires at least one {ways}.")
    if args.rest and named:
        raise UsageError(f"Service {verb} requires arguments or -id, not both.")
    if not args.rest:
        return ()
    from isthmus.config import load  # Most calls name no files.
    from isthmus.config.sources import ConfigPath

    try:
        config = load([ConfigPath(Path(path)) for path in args.rest], dev=True)
    except ConfigError as error:
        raise CommandFailed(format_mistakes(error, prefix="Error: ")) from None
    for warning in config.warnings:
        complain(warning)
    return config.services


REGISTER: Final = Command(
    "services register",
    "Register services with the agent: those of configuration files, or one that flags describe.",
    _register,
    (
        Flag("id", "Id of the service; its name by default.", placeholder="ID"),
        Flag("name", "Name of the service.", placeholder="NAME"),
        Flag("address", "Its address; the node's by default.", placeholder="ADDRESS"),
        Flag("port", "Its port.", whole_number, 0, placeholder="PORT"),
        Flag("socket", "Its unix socket, in place of address and port.", placeholder="PATH"),
        Flag("tag", "A tag. May be repeated.", repeated=True, placeholder="TAG"),
        Flag("meta", "Metadata. May be repeated.", _pair, repeated=True, placeholder="KEY=VALUE"),
        Flag(
            "tagged-address",
            "An address under a tag such as wan. May be repeated.",
            _tagged_address,
            repeated=True,
            placeholder="TAG=ADDRESS:PORT",
        ),
        Flag("kind", "Its kind, if it is no plain service.", placeholder="KIND"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="[FILE…]",
    count=None,
    examples=(
        "isthmus services register web.hcl db.json",
        "isthmus services register -name=web -port=8080 -tag=v1 -meta=version=2",
    ),
)
DEREGISTER: Final = Command(
    "services deregister",
    "Remove services from the agent: those of configuration files, or one by its id.",
    _deregister,
    (
        Flag("id", "Id of the service.", placeholder="ID"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="[FILE…]",
    count=None,
    examples=("isthmus services deregister -id=web",),
)
