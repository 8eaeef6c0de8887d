"""Names that are not ours: asked of other servers, one after the other until one answers."""

import asyncio
import logging
from collections.abc import Sequence
from random import Random
from typing import Final

import dns.asyncquery
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
from dns.exception import DNSException

from isthmus.dns import records
from isthmus.dns.records import Record
from isthmus.dns.request import UDP_SIZE_MAX, Request
from isthmus.errors import Unavailable

logger = logging.getLogger(__name__)

RECURSIONS_MAX: Final = 512
"""Questions that recursors are asked at a time."""
RECORDS_MAX: Final = 32
"""Records that are taken from an answer about a host name."""

_ANSWERED: Final = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})
_TAKEN: Final = {records.A, records.AAAA, records.CNAME}


class Recursor:
    """Asks the operator's recursors.

    Args:
        addresses: Hosts and ports, in order.
        timeout: Seconds that each has.
        rng: Source of ids.
    """

    def __init__(
        self, addresses: Sequence[tuple[str, int]], *, timeout: float, rng: Random
    ) -> None:
        self._addresses, self._timeout, self._rng = addresses, timeout, rng
        self._running = 0

    async def forward(self, request: Request, *, tcp: bool) -> bytes:
        """What the first that knows answers to a request, with the request's id.

        Args:
            request: As it came.
            tcp: How it came, and is passed on.

        Raises:
            Unavailable: None answered, or too many questions are under way.
        """
        message = dns.message.from_wire(request.data, ignore_trailing=True)
        reply = await self._ask(message, tcp=tcp)
        reply.id = int.from_bytes(request.id, "big")
        return reply.to_wire(max_size=65535 if tcp else UDP_SIZE_MAX)

    async def addresses_of(self, host: str, *, six: bool = False) -> list[Record]:
        """Addresses of a host name and the names on the way to them; none if it cannot be found.

        Args:
            host: Its name.
            six: Whether IPv6 addresses are wanted.
        """
        kind = dns.rdatatype.AAAA if six else dns.rdatatype.A
        try:
            question = dns.message.make_query(dns.name.from_text(host), kind)
            reply = await self._ask(question, tcp=False)
            return _taken(reply)
        except (Unavailable, DNSException) as error:
            logger.debug("host name %s was not found: %s", host, error)
            return []

    async def _ask(self, message: dns.message.Message, *, tcp: bool) -> dns.message.Message:
        if self._running >= RECURSIONS_MAX:
            raise Unavailable(f"{self._running} questions wait for recursors already")
        self._running += 1
        try:
            return await self._ask_each(message, tcp=tcp)
        finally:
            self._running -= 1

    async def _ask_each(self, message: dns.message.Message, *, tcp: bool) -> dns.message.Message:
        problem = "no recursors are configured"
        for host, port in self._addresses:
            message.id = self._rng.getrandbits(16)
            try:
                async with asyncio.timeout(self._timeout):
                    if tcp:
                        reply = await dns.asyncquery.tcp(message, host, port=port)
                    else:
                        reply = await dns.asyncquery.udp(
                            message, host, port=port, ignore_unexpected=True, ignore_errors=True
                        )
            except (DNSException, OSError, EOFError, TimeoutError) as error:
                problem = f"{host} port {port}: {str(error) or 'no answer in time'}"
                logger.debug("recursor failed: %s", problem)
                continue
            if reply.rcode() in _ANSWERED:
                return reply
            problem = f"{host} port {port}: {dns.rcode.to_text(reply.rcode())}"
        raise Unavailable(f"no recursor answered; the last: {problem}")


def _taken(reply: dns.message.Message) -> list[Record]:
    found = []
    for rrset in reply.answer:
        kind = int(rrset.rdtype)
        if kind not in _TAKEN:
            continue
        owner = rrset.name.to_wire() or b""
        for rdata in rrset:
            data = rdata.to_wire() or b""
            target = data if kind == records.CNAME else b""
            found.append(records.foreign(owner, kind, rrset.ttl, data, target))
    return found[:RECORDS_MAX]
