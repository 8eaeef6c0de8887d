"""Watches in an agent's configuration: what is asked, and who is told of news.

The texts of errors are Consul's. Source: protocol/cli-config-dns.md §2.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from isthmus.model.watch_plan import InvalidWatch, WatchParameters, WatchPlan, read_plan
from isthmus.units import parse_duration

HTTP_TIMEOUT: Final = 10.0
"""Seconds that the answer to news sent over HTTP may take; Consul's default."""


@dataclass(frozen=True, slots=True)
class ProgramHandler:
    """A program that is run with the news on its standard input.

    Attributes:
        args: Program and arguments.
        script: Text for a shell instead; empty for none.
    """

    args: tuple[str, ...] = ()
    script: str = ""


@dataclass(frozen=True, slots=True)
class HttpHandler:
    """A URL that news are sent to.

    Attributes:
        url: Where to.
        method: How.
        timeout: Seconds until the answer must be there.
        headers: Names and values, besides those that are always sent.
        tls_skip_verify: Whether any certificate will do.
    """

    url: str
    method: str = "POST"
    timeout: float = HTTP_TIMEOUT
    headers: tuple[tuple[str, str], ...] = ()
    tls_skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class WatchDefinition:
    """A watch of an agent's configuration: what is asked, and who is told."""

    plan: WatchPlan
    handler: ProgramHandler | HttpHandler


def read_definition(values: Mapping[str, object]) -> WatchDefinition:
    """Read a watch as an agent's configuration has it.

    Raises:
        InvalidWatch: A parameter is missing or wrong.
    """
    parameters = WatchParameters(values)
    handler_type = parameters.text("handler_type") or "script"
    if handler_type not in {"script", "http"}:
        raise InvalidWatch(f"Handler type '{handler_type}' not recognized")
    kind = values.get("type")
    if isinstance(kind, str) and kind.startswith("connect_"):
        raise InvalidWatch(f"Watch type {kind} is not allowed in agent config")
    handlers = [name for name in ("handler", "args") if name in parameters]
    if len(handlers) + (handler_type == "http") > 1:
        raise InvalidWatch("Only one watch handler allowed")
    if not handlers and handler_type != "http":
        raise InvalidWatch("Must define a watch handler")
    handler = _http_handler(parameters) if handler_type == "http" else _program(parameters)
    plan = read_plan(parameters)
    parameters.finish()
    return WatchDefinition(plan, handler)


def _program(parameters: WatchParameters) -> ProgramHandler:
    if "handler" in parameters:
        script = parameters.take("handler")
        if not isinstance(script, str) or not script:
            raise InvalidWatch("Watch handler must be a string")
        return ProgramHandler(script=script)
    try:
        args = parameters.texts("args")
    except InvalidWatch:
        raise InvalidWatch("Watch args must be a list of strings") from None
    if not args or not args[0]:
        raise InvalidWatch("Watch args must name a program")
    return ProgramHandler(args)


def _http_handler(parameters: WatchParameters) -> HttpHandler:
    if "http_handler_config" not in parameters:
        raise InvalidWatch("Handler type 'http' requires 'http_handler_config' to be set")
    written = parameters.take("http_handler_config")
    if isinstance(written, list) and len(written) == 1:
        written = written[0]  # A block of HCL.
    if not isinstance(written, Mapping):
        raise InvalidWatch("Failed to parse 'http_handler_config': must be an object")
    values = WatchParameters({str(name).lower(): value for name, value in written.items()})
    try:
        url, method = values.text("path"), values.text("method") or "POST"
        if not url:
            raise InvalidWatch("Requires 'path' to be set")
        handler = HttpHandler(
            url,
            method,
            _timeout(values.text("timeout")),
            _headers(values.take("header")),
            values.truth("tls_skip_verify"),
        )
        values.finish()
    except InvalidWatch as error:
        raise InvalidWatch(f"Failed to parse 'http_handler_config': {error}") from None
    return handler


def _timeout(text: str) -> float:
    if not text:
        return HTTP_TIMEOUT
    try:
        seconds = parse_duration(text).seconds
    except ValueError as error:
        raise InvalidWatch(f"Failed to parse timeout: {error}") from None
    if seconds <= 0:
        raise InvalidWatch("Failed to parse timeout: must be longer than 0")
    return seconds


def _headers(written: object) -> tuple[tuple[str, str], ...]:
    if written is None:
        return ()
    if isinstance(written, list) and len(written) == 1:
        written = written[0]
    if not isinstance(written, Mapping):
        raise InvalidWatch("'header' must be an object of lists of strings")
    parameters = WatchParameters(written)
    return tuple((str(name), value) for name in written for value in parameters.texts(str(name)))
