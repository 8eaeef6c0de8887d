"""Running health checks: TCP, HTTP and TTL.

Source: protocol/http-api.md §6.3. A check of another kind is refused at registration, never
silently left critical.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from random import Random
from typing import Final
from urllib.parse import urlsplit

from isthmus.errors import InvalidRequest
from isthmus.model.agent import CheckDefinition
from isthmus.model.catalog import CRITICAL, PASSING, WARNING
from isthmus.names import split_host_port
from isthmus.units import SECOND

logger = logging.getLogger(__name__)

TIMEOUT_DEFAULT: Final = 10.0  # Consul's, of TCP and HTTP checks.
OUTPUT_SIZE_MAX: Final = 4096  # Consul's check_output_max_size.
_TOO_MANY_REQUESTS: Final = 429  # The one failure that is a warning.

Report = Callable[[str, str, str], None]
"""Takes check id, status, output."""


def refuse_unknown_kind(definition: CheckDefinition) -> None:
    """Refuse a check that this release cannot run.

    Raises:
        InvalidRequest: Names the kind and the ones that there are.
    """
    kinds = {
        "script": definition.script_args,
        "docker": definition.docker_container_id,
        "gRPC": definition.grpc,
        "HTTP/2 ping": definition.h2ping,
        "alias": definition.alias_service or definition.alias_node,
    }
    for kind, value in kinds.items():
        if value:
            raise InvalidRequest(
                f"Invalid check: {kind} checks are not supported by this release, "
                "use a TCP, HTTP or TTL check"
            )


class CheckRunner:
    """Runs one check at its interval, or waits for its TTL to run out.

    Args:
        check_id: Reported with every result.
        definition: What to do; TCP, HTTP or TTL.
        report: Takes the results.
        deregister: Called when the check was critical for as long as the definition says.
        rng: Spreads first runs over the interval.
        at_once: Run right away instead of somewhere within the first interval.
    """

    def __init__(
        self,
        check_id: str,
        definition: CheckDefinition,
        *,
        report: Report,
        deregister: Callable[[], None],
        rng: Random,
        at_once: bool = True,
    ) -> None:
        self._id, self._definition, self._report = check_id, definition, report
        self._deregister, self._rng, self._at_once = deregister, rng, at_once
        self._heard = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None  # Runs while the check is critical.

    def heard(self, status: str, output: str) -> None:
        """Take a result that a TTL check's owner sends.

        Raises:
            InvalidRequest: It is no TTL check.
        """
        if not self._definition.ttl:
            raise InvalidRequest(f'CheckID "{self._id}" does not have associated TTL', status=500)
        self._tell(status, output)
        self._heard.set()

    async def run(self) -> None:
        """Check until cancelled."""
        try:
            await self._run()
        finally:
            self._stop_expiry()

    async def _run(self) -> None:
        if self._definition.ttl:
            await self._wait_for_owner()
        interval = self._definition.interval / SECOND
        if not self._at_once:
            await asyncio.sleep(self._rng.random() * interval)
        while True:
            self._tell(*await self._probe())
            await asyncio.sleep(interval)

    async def _wait_for_owner(self) -> None:
        ttl = self._definition.ttl / SECOND
        while True:
            self._heard.clear()
            try:
                async with asyncio.timeout(ttl):
                    await self._heard.wait()
            except TimeoutError:
                self._tell(CRITICAL, "TTL expired")

    def _tell(self, status: str, output: str) -> None:
        self._report(
            self._id, status, output[: self._definition.output_max_size or OUTPUT_SIZE_MAX]
        )
        if status != CRITICAL:
            self._stop_expiry()
            return
        limit = self._definition.deregister_critical_service_after / SECOND
        if limit > 0 and self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(limit, self._expire, limit)

    def _expire(self, limit: float) -> None:
        logger.info("check %s was critical for %g s: its service goes", self._id, limit)
        self._deregister()

    def _stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    async def _probe(self) -> tuple[str, str]:
        timeout = self._definition.timeout / SECOND or TIMEOUT_DEFAULT
        if self._definition.tcp:
            return await _probe_tcp(self._definition.tcp, timeout)
        return await asyncio.to_thread(partial(_probe_http, self._definition, timeout))


async def _probe_tcp(address: str, timeout: float) -> tuple[str, str]:
    try:
        host, port = split_host_port(address)
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, ValueError) as error:
        return CRITICAL, f"TCP connect {address}: {str(error) or 'timed out'}"
    writer.close()
    return PASSING, f"TCP connect {address}: Success"


def _probe_http(definition: CheckDefinition, timeout: float) -> tuple[str, str]:
    method = definition.method or "GET"
    try:
        return _exchange(definition, method, timeout)
    except (OSError, HTTPException, ValueError) as error:
        return CRITICAL, f"{method} {definition.http}: {str(error) or 'timed out'}"


def _exchange(definition: CheckDefinition, method: str, timeout: float) -> tuple[str, str]:
    """Ask once.

    Raises:
        OSError, HTTPException, ValueError: There is no answer, or the URL cannot be used.
    """
    url = urlsplit(definition.http)
    connection: HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context()
        if definition.tls_skip_verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection(url.hostname or "", url.port, timeout=timeout, context=context)
    else:
        connection = HTTPConnection(url.hostname or "", url.port, timeout=timeout)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    headers = {"User-Agent": "isthmus health check", "Accept": "text/plain, text/*, */*"}
    headers |= {name: ", ".join(values) for name, values in (definition.header or {}).items()}
    try:
        connection.request(method, path, definition.body.encode() or None, headers)
        answer = connection.getresponse()
        body = answer.read(OUTPUT_SIZE_MAX).decode(errors="replace")
    finally:
        connection.close()
    output = f"HTTP {method} {definition.http}: {answer.status} {answer.reason} Output: {body}"
    if 200 <= answer.status < 300:
        return PASSING, output
    return WARNING if answer.status == _TOO_MANY_REQUESTS else CRITICAL, output
