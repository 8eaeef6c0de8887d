"""``isthmus federation status``: how the federation fares, as one server sees it."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, failing_as
from isthmus.cli.command import Command, CommandFailed, say
from isthmus.cli.flags import Flag, Parsed, switch
from isthmus.cli.tables import format_table
from isthmus.errors import STEPS
from isthmus.model.timestamp import Timestamp
from isthmus.units import parse_duration

WATCH_INTERVAL: Final = 1.0
"""Seconds between two looks with ``-watch``."""
_ERROR_SIZE_MAX: Final = 100
_CLEAR: Final = "\x1b[H\x1b[2J"
_ZERO: Final = "0001-01-01T00:00:00Z"


def _format(text: str) -> str:
    if text not in {"table", "json"}:
        raise ValueError("must be table or json")
    return text


def _status(args: Parsed) -> int:
    client = AgentClient.of(args)
    if not args["watch"]:
        return _show(client, args["format"])
    watch(lambda: _show(client, args["format"]), pause=time.sleep)
    return 0


def watch(show: Callable[[], object], *, pause: Callable[[float], object]) -> None:
    """Show again and again, on a terminal in place, until interrupted.

    Args:
        show: Prints the state of things.
        pause: Waits that many seconds.
    """
    while True:
        if sys.stdout.isatty():
            sys.stdout.write(_CLEAR)
        try:
            show()
        except CommandFailed as error:
            say(str(error))  # The agent may come back.
        sys.stdout.flush()
        pause(WATCH_INTERVAL)


def _show(client: AgentClient, form: str) -> int:
    with failing_as("Error reading the federation's status"):
        report = client.get_object("/v1/isthmus/federation")
    if not report:
        raise CommandFailed(
            "This agent is no isthmus agent and does not tell its status.\n"
            "What any agent tells is shown by: isthmus federation list, isthmus members -wan,"
            " isthmus federation doctor"
        )
    say(json.dumps(report, indent=4) if form == "json" else format_status(report))
    return 0


def format_status(report: dict[str, Any]) -> str:
    """Lay out a report (``GET /v1/isthmus/federation``)."""
    now = Timestamp.parse(report["Time"])
    role = "leader" if report["Leader"] else "follower"
    primary = report["PrimaryDatacenter"]
    lines = [
        f"Datacenter {report['Datacenter']}, primary {primary}, seen by {report['NodeName']}"
        f" ({role}) at {report['Time'].partition('.')[0].removesuffix('Z')}Z"
    ]
    if not report["MeshGatewaysInUse"]:
        lines.append("Federation through mesh gateways is off")
    if report["WayToPrimary"]:
        lines.append(f"Primary dialled through {report['WayToPrimary']}: {report['WayReason']}")
        lines.append(f"Replication: {_replication(report['Replication'], now)}")
    tables = [
        [
            ["Datacenter", "Servers", "Gateways", "State Age", "Index", "Clock", "Reached"],
            *(_datacenter_row(one, report, now) for one in report["Datacenters"]),
        ],
        [
            ["Gateway", "Role", "Dials", "Failed", "Last Used", "Dial Time", "Last Error"],
            *(_gateway_row(one, now) for one in report["Gateways"]),
        ],
        [
            ["Member", "Address", "Status", "Build"],
            *(
                [one["Name"], one["Address"], one["Status"], one["Build"]]
                for one in report["Members"]
            ),
        ],
    ]
    return "\n\n".join(["\n".join(lines), *(format_table(rows) for rows in tables if rows[1:])])


def _replication(status: dict[str, Any], now: Timestamp) -> str:
    if not status["Running"]:
        return "not done by this server"
    text = f"index {status['Index']} of {status['PrimaryIndex']}, latest answer "
    text += _ago(status["LastSuccess"], now, never="never")
    if status["Failures"]:
        text += f", {status['Failures']} failures since: {_short(status['LastError'])}"
    return text


def _datacenter_row(one: dict[str, Any], report: dict[str, Any], now: Timestamp) -> list[str]:
    name = one["Datacenter"] + (" (primary)" if one["Primary"] else "")
    if one["Datacenter"] == report["Datacenter"]:
        reached = "-"
    elif one["FailingSince"] == _ZERO:
        reached = "yes" if one["ServersAlive"] else "no server alive"
    else:
        step = STEPS.get(one["FailedStep"], one["FailedStep"])
        reached = f"no, for {_length(one['FailingSince'], now)}: {step}"
    clock = f"{_seconds(one['ClockDifference']):+z.1f}s" if one["ClockKnown"] else "-"
    return [
        name,
        f"{one['ServersAlive']}/{one['Servers']}",
        f"{one['GatewaysUsable']}/{one['Gateways']}",
        "-" if one["UpdatedAt"] == _ZERO else _span(_seconds(one["StateAge"])),
        str(one["PrimaryModifyIndex"]),
        clock,
        reached,
    ]


def _gateway_row(one: dict[str, Any], now: Timestamp) -> list[str]:
    failing = one["FailingSince"] != _ZERO
    error = _short(one["LastError"]) if failing else ""
    if one["LastError"] and not failing:
        error = f"({_ago(one['LastErrorAt'], now)}: {_short(one['LastError'])})"
    return [
        one["Address"],
        one["Role"] or "-",
        str(one["Attempts"]),
        str(one["Failures"]),
        _ago(one["LastUsed"], now, never="never"),
        f"{_seconds(one['DialTime']) * 1000:.1f}ms" if _seconds(one["DialTime"]) else "-",
        error or "-",
    ]


def _seconds(text: str) -> float:
    return parse_duration(text).seconds


def _length(date: str, now: Timestamp) -> str:
    then = Timestamp.parse(date)
    return _span(now.seconds - then.seconds)


def _ago(date: str, now: Timestamp, *, never: str = "") -> str:
    return never if date == _ZERO else f"{_length(date, now)} ago"


def _span(seconds: float) -> str:
    """A length of time, as short as it can be read: ``12s``, ``3m``, ``5h``, ``2d``."""
    sign, length = ("-" if seconds <= -1 else ""), abs(int(seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if length >= 2 * size:
            return f"{sign}{length // size}{unit}"
    return f"{sign}{length}s"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _ERROR_SIZE_MAX else f"{text[: _ERROR_SIZE_MAX - 1]}…"


STATUS: Final = Command(
    "federation status",
    "Show how the federation fares: datacenters, gateways, members, replication.",
    _status,
    (
        switch("watch", "Show it again every second, until interrupted."),
        Flag("format", "table or json.", _format, "table", placeholder="FORMAT"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    examples=("isthmus federation status -watch", "isthmus federation status -datacenter dc2"),
)
