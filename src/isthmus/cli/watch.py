"""``isthmus watch``: print what is there, or run a program whenever it changes.

Source: protocol/cli-config-dns.md §1.2.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, RequestFailed, failing_as
from isthmus.cli.command import Command, CommandFailed, complain
from isthmus.cli.flags import Flag, Parsed, UsageError, parse_bool, switch
from isthmus.model.watch_plan import (
    InvalidWatch,
    WatchAnswer,
    WatchFailed,
    WatchNews,
    WatchParameters,
    WatchPlan,
    WatchProgress,
    read_plan,
)

WAIT: Final = "60s"
"""How long one question may stay open; shorter than what a client waits for an answer."""
END_TIMEOUT: Final = 5.0
"""Seconds that a handler may take to end when we are told to."""

_PARAMETERS: Final = ("type", "key", "prefix", "service", "state", "name")
_AGENT_ONLY: Final = ("connect_", "agent_")


def _watch(args: Parsed) -> int:
    try:
        plan = read_plan_of(args)
    except InvalidWatch as error:
        if not args["type"]:
            raise UsageError(str(error)) from None
        raise CommandFailed(str(error)) from None
    if plan.type.startswith(_AGENT_ONLY):
        raise CommandFailed(f"Type {plan.type} is not supported in the CLI tool")
    client = AgentClient.of(args)
    with failing_as("Error querying Consul agent"):
        client.request("GET", "/v1/status/leader")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _follow(client, WatchProgress(plan), args.rest, shell=args["shell"])
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def read_plan_of(args: Parsed) -> WatchPlan:
    """What the command line asks to watch.

    Raises:
        InvalidWatch: A parameter is missing or wrong.
        CommandFailed: ``-passingonly`` is neither true nor false.
    """
    values: dict[str, object] = {name: args[name] for name in _PARAMETERS if args[name]}
    if args["datacenter"]:
        values["datacenter"] = args["datacenter"]
    if args["tag"]:
        values["tag"] = args["tag"]
    if args["stale"]:
        values["stale"] = True
    if text := args["passingonly"]:
        try:
            values["passingonly"] = parse_bool(text)
        except ValueError as error:
            raise CommandFailed(f"Failed to parse passingonly flag: {error}") from None
    parameters = WatchParameters(values)
    plan = read_plan(parameters)
    parameters.finish()
    return plan


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _follow(
    client: AgentClient, progress: WatchProgress, handler: Sequence[str], *, shell: bool
) -> int:
    """Ask until there is nothing more to do; the exit code."""
    while True:
        try:
            status, headers, body = client.ask(progress.target(wait=WAIT))
            answer = WatchAnswer(status, body, headers.get("X-Consul-Index", ""))
            news = progress.receive_answer(answer)
        except (RequestFailed, WatchFailed) as error:
            pause = progress.fail()
            complain(f"Watch errored, retry in {pause:g} s: {error}")
            time.sleep(pause)
            continue
        if news is None:
            continue
        if not handler:
            sys.stdout.buffer.write(news.encode(indent=True))
            return 0
        if not run_handler(handler, news, shell=shell):
            return 1


def run_handler(handler: Sequence[str], news: WatchNews, *, shell: bool) -> bool:
    """Run the operator's program with the data on its standard input; whether it went well.

    When we are interrupted it is told the same, and killed if it does not end soon.

    Raises:
        KeyboardInterrupt: We were interrupted; the program has ended.
    """
    command = [os.environ.get("SHELL") or "/bin/sh", "-c", " ".join(handler)]
    environment = {**os.environ, "CONSUL_INDEX": news.index}
    try:
        process = subprocess.Popen(
            command if shell else list(handler),
            stdin=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
    except OSError as error:
        complain(f"Error starting handler: {handler[0]}: {error.strerror or error}")
        return False
    except ValueError as error:
        complain(f"Error starting handler: {error}")
        return False
    try:
        process.communicate(news.encode())
    except KeyboardInterrupt:
        _end(process)
        raise
    if process.returncode:
        complain(f"Error executing handler: {_reason(process.returncode)}")
        return False
    return True


def _reason(code: int) -> str:
    """Why a program counts as failed, in Go's words."""
    if code > 0:
        return f"exit status {code}"
    return f"signal: {signal.strsignal(-code) or -code}".lower()


def _end(process: "subprocess.Popen[Any]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(END_TIMEOUT)
        except ProcessLookupError:
            process.wait()
        except subprocess.TimeoutExpired:
            continue
        return


WATCH: Final = Command(
    "watch",
    "Print what is there, or run a command with it now and whenever it changes.",
    _watch,
    (
        Flag(
            "type",
            "key, keyprefix, services, nodes, service, checks or event; required.",
            placeholder="TYPE",
        ),
        Flag("key", "Key to watch; for key.", placeholder="KEY"),
        Flag("prefix", "Prefix of keys to watch; for keyprefix.", placeholder="PREFIX"),
        Flag("service", "Service to watch; for service and checks.", placeholder="NAME"),
        Flag(
            "tag",
            "Only instances with this tag; for service. May be repeated.",
            repeated=True,
            placeholder="TAG",
        ),
        Flag("passingonly", "true: only passing instances; for service.", placeholder="BOOL"),
        Flag("state", "Only checks in this state; for checks.", placeholder="STATE"),
        Flag("name", "Only events of this name; for event.", placeholder="NAME"),
        switch("shell", "Run the command in a shell, $SHELL or /bin/sh.", default=True),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="[COMMAND…]",
    count=None,
    examples=(
        "isthmus watch -type=service -service=web -passingonly=true",
        "isthmus watch -type=key -key=config/web 'jq -r .Value | base64 -d > web.conf'",
        "isthmus watch -type=checks -state=critical -shell=false /usr/local/bin/page",
    ),
)
