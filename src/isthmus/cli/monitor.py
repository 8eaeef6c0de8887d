"""``isthmus monitor``: an agent's log, as it is written.

Source: protocol/cli-config-dns.md §1.2.
"""

import sys
from typing import Final

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, failing_as
from isthmus.cli.command import Command, CommandFailed
from isthmus.cli.flags import Flag, Parsed, switch

_ENDED: Final = "The agent ended the stream of its log: it has probably stopped."


def _monitor(args: Parsed) -> int:
    query = {"loglevel": args["log-level"]} | ({"logjson": ""} if args["log-json"] else {})
    with failing_as("Error starting monitor"):
        stream = AgentClient.of(args).stream("/v1/agent/monitor", query)
    try:
        for line in stream:
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 0
    raise CommandFailed(_ENDED)


MONITOR: Final = Command(
    "monitor",
    "Show an agent's log from now on, until interrupted.",
    _monitor,
    (
        Flag("log-level", "trace, debug, info, warn or err.", default="INFO", placeholder="LEVEL"),
        switch("log-json", "One JSON object a line."),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    examples=("isthmus monitor -log-level=debug",),
)
