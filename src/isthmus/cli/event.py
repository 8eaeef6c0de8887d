"""``isthmus event``: fire a user event.

Source: protocol/cli-config-dns.md §1.2.
"""

import json
from typing import Final

from isthmus.cli.client import (
    CLIENT_FLAGS,
    QUERY_FLAGS,
    AgentClient,
    RequestFailed,
    failing_as,
    path_part,
)
from isthmus.cli.command import Command, say
from isthmus.cli.flags import Flag, Parsed, UsageError

_FILTERS: Final = ("node", "service", "tag")


def _event(args: Parsed) -> int:
    if not args["name"]:
        raise UsageError("Event name must be specified")
    if len(args.rest) > 1:
        raise UsageError("Too many command line arguments.")
    if args["tag"] and not args["service"]:
        raise UsageError("Cannot provide tag filter without service filter.")
    payload = args.rest[0].encode(errors="surrogateescape") if args.rest else None
    query = {name: args[name] for name in _FILTERS if args[name]}
    with failing_as("Error firing event"):
        answer = AgentClient.of(args).put(
            f"/v1/event/fire/{path_part(args['name'])}", query, payload
        )
        try:
            event_id = json.loads(answer)["ID"]
        except (ValueError, KeyError, TypeError) as error:
            raise RequestFailed(f"the answer has no event id: {error!r}") from error
    say(f"Event ID: {event_id}")
    return 0


EVENT: Final = Command(
    "event",
    "Tell agents of a datacenter an event, with a payload of some 400 bytes at the most.",
    _event,
    (
        Flag("name", "Name of the event; required.", placeholder="NAME"),
        Flag("node", "Only agents whose node name matches.", placeholder="REGEXP"),
        Flag("service", "Only agents with a service that matches.", placeholder="REGEXP"),
        Flag("tag", "Only if that service has a tag that matches.", placeholder="REGEXP"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="[PAYLOAD]",
    count=None,
    examples=("isthmus event -name=deploy -service='^web$' -datacenter=dc2 v1.2.3",),
)
