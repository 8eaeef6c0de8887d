"""A check that asks over HTTP: 2xx is passing, 429 a warning, everything else critical.

Source: Consul 1.10, agent/checks: no connection is kept, redirects are followed.
"""

import asyncio
import importlib
import ssl
from types import ModuleType
from typing import Any, Final

from isthmus.agent.checks.result import Result, Tail, critical, dial_failure
from isthmus.agent.checks.tls import CheckTls
from isthmus.model.agent import CheckDefinition
from isthmus.model.catalog import CRITICAL, PASSING, WARNING

USER_AGENT: Final = "Consul Health Check"
"""What services let through, count apart and keep out of their logs."""
REDIRECTS_MAX: Final = 10  # Go's.
_TOO_MANY_REQUESTS: Final = 429  # The one failure that is a warning.
_CHUNK_SIZE: Final = 64 * 1024


async def probe_http(
    definition: CheckDefinition, *, timeout: float, output_size_max: int, tls: CheckTls
) -> Result:
    """Ask once; the last bytes of the answer's body become the output."""
    aiohttp = await http_library()
    method = definition.method or "GET"
    body = Tail(output_size_max)
    try:
        async with (
            asyncio.timeout(timeout),
            one_request_session(aiohttp) as session,
            session.request(method, definition.http, **_options(definition, tls)) as answer,
        ):
            while data := await answer.content.read(_CHUNK_SIZE):
                body.add(data)
    except TimeoutError:
        waited = f"Client.Timeout exceeded after {timeout:g} s"
        return critical(f"{_asked(method, definition)}: context deadline exceeded ({waited})")
    except (OSError, ValueError, aiohttp.ClientError) as error:
        return critical(f"{_asked(method, definition)}: {failure(error)}")
    text = f"HTTP {method} {definition.http}: {answer.status} {answer.reason} Output: {body.text}"
    return Result(_status(answer.status), text)


def _asked(method: str, definition: CheckDefinition) -> str:
    """What was tried, as Go words it."""
    return f'{method.capitalize()} "{definition.http}"'


def _status(code: int) -> str:
    if 200 <= code < 300:
        return PASSING
    return WARNING if code == _TOO_MANY_REQUESTS else CRITICAL


def failure(error: Exception) -> str:
    """Why a request had no answer; of the HTTP client's errors the cause, and where it was."""
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
    host, port = getattr(error, "host", None), getattr(error, "port", None)
    if not isinstance(cause, OSError) or host is None:
        return str(error) or type(error).__name__
    if isinstance(cause, ssl.SSLError):
        reason = getattr(cause, "verify_message", "") or cause.strerror or str(cause)
        return f"cannot connect to {host}:{port}: {reason}"
    return dial_failure(cause, host, port)


async def http_library() -> ModuleType:
    """The HTTP client; it takes a while to load, and many agents have no such check."""
    return await asyncio.to_thread(importlib.import_module, "aiohttp")


def one_request_session(aiohttp: Any) -> Any:
    """A client for one request, which leaves neither connection nor cookie behind."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None),
        skip_auto_headers=("Content-Type",),
    )


def _options(definition: CheckDefinition, tls: CheckTls) -> dict[str, Any]:
    headers = [("User-Agent", USER_AGENT), ("Accept", "text/plain, text/*, */*")]
    given = [
        (name, value) for name, values in (definition.header or {}).items() for value in values
    ]
    names = {name.lower() for name, _ in given}
    headers = [pair for pair in headers if pair[0].lower() not in names] + given
    return {
        "headers": headers,
        "data": definition.body.encode() or None,
        "allow_redirects": not definition.disable_redirects,
        "max_redirects": REDIRECTS_MAX,
        "ssl": _context(definition, tls),
        "server_hostname": tls.server_name(definition.tls_server_name) or None,
    }


def _context(definition: CheckDefinition, tls: CheckTls) -> ssl.SSLContext | bool:
    """A redirect may lead to HTTPS, so a context is needed in any case."""
    return tls.context(skip_verify=definition.tls_skip_verify)
