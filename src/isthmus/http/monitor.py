"""Looking into a running agent: its log, its host, its stacks; and having it read its files again.

Source: protocol/http-api.md §6.3; cli-config-dns.md §2.5.
"""

from typing import Final

from isthmus.errors import RequestError
from isthmus.http.context import Context
from isthmus.http.request import Request
from isthmus.http.response import PLAIN, Response
from isthmus.http.routing import Route
from isthmus.units import parse_duration

PROFILE_SECONDS: Final = 30.0
"""How long a profile takes that says nothing of it; Go's number."""
PROFILE_SECONDS_MAX: Final = 600.0

_INDEX: Final = """\
What this agent is doing, as text:

  /debug/pprof/stacks             where every thread and every task is
  /debug/pprof/profile?seconds=30 where the time goes: a stack a line, innermost last, and how often
                                  it was seen, as flame graph programs take it
  /debug/pprof/memory             what the memory is used for: objects by type
"""


async def monitor(context: Context, request: Request) -> Response:
    """Log lines from now on, for as long as the client stays."""
    level = request.query.first("loglevel") or "INFO"
    response = Response(200, [PLAIN])
    response.stream = context.local.watch_log(level, as_json="logjson" in request.query)
    response.stream_size = None
    return response


async def host(context: Context, request: Request) -> Response:
    """The machine that the agent runs on."""
    return context.json(request, context.local.host())


async def reload(context: Context, _request: Request) -> Response:
    """Read the configuration again."""
    await context.local.reload()
    return Response()


async def debug(context: Context, request: Request) -> Response:
    """Stacks, profile or memory, with ``enable_debug`` only."""
    if not context.local.debug_enabled:
        return Response(401)
    match request.argument:
        case "":
            text = _INDEX
        case "stacks" | "goroutine":
            text = context.local.stacks()
        case "memory" | "heap":
            text = context.local.memory()
        case "profile":
            text = await context.local.profile(_seconds(request.query.first("seconds")))
        case _:
            return Response(404)
    return Response.text(200, text)


def _seconds(text: str) -> float:
    """Length of a profile: a number of seconds, or a duration."""
    if not text:
        return PROFILE_SECONDS
    try:
        seconds = float(text) if text.replace(".", "", 1).isdecimal() else _duration(text)
    except ValueError:
        raise RequestError(f'invalid "seconds": {text!r}', status=400) from None
    if not 0 < seconds <= PROFILE_SECONDS_MAX:
        bounds = f"seconds must be more than 0 and at most {PROFILE_SECONDS_MAX:g}"
        raise RequestError(bounds, status=400)
    return seconds


def _duration(text: str) -> float:
    return parse_duration(text).seconds


ROUTES: Final = (
    Route("/v1/agent/monitor", {"GET": monitor}),
    Route("/v1/agent/host", {"GET": host}),
    Route("/v1/agent/reload", {"PUT": reload}),
    Route("/debug/pprof/", {"GET": debug}),
)
