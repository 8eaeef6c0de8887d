"""Host names of endpoints, resolved off the loop and remembered for a short time."""

import functools
import logging
import queue
import socket
import threading
from collections.abc import Callable
from typing import Final

from isthmus.gateway.loop import Loop

_log = logging.getLogger(__name__)

NAME_TTL: Final = 10.0
"""Seconds that an answer is used without asking again (Envoy's refresh rate in Consul)."""
THREADS_MAX: Final = 4
NAMES_MAX: Final = 1_024
"""Names remembered; beyond that the memory starts afresh."""

Answer = Callable[[list[str]], None]
"""Called with addresses in order of preference; with none when the name does not resolve."""
Lookup = Callable[[str], list[str]]


def system_lookup(host: str) -> list[str]:
    """Addresses of a host name as the system resolves it; blocks.

    Raises:
        OSError: It does not resolve.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@functools.lru_cache(NAMES_MAX)
def is_address(host: str) -> bool:
    """Whether `host` is an IP address rather than a name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


class Resolver:
    """Resolves host names in threads of its own, which start with the first name.

    An answer that is out of date still serves when asking again fails. Names asked for while
    the same name is on its way share its answer.

    Args:
        loop: Loop on whose thread the answers are given.
        lookup: Blocking function that resolves one name.
    """

    def __init__(self, loop: Loop, lookup: Lookup = system_lookup) -> None:
        self._loop, self._lookup = loop, lookup
        self._known: dict[str, tuple[list[str], float]] = {}
        self._waiting: dict[str, list[Answer]] = {}
        self._names: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads = 0

    def resolve(self, host: str, answer: Answer) -> None:
        """Resolve a name or an address; `answer` may be called before this returns."""
        if is_address(host):
            answer([host])
            return
        addresses, until = self._known.get(host, ([], 0.0))
        if self._loop.now < until:
            answer(addresses)
            return
        waiting = self._waiting.setdefault(host, [])
        waiting.append(answer)
        if len(waiting) == 1:
            self._names.put(host)
            if self._threads < min(THREADS_MAX, len(self._waiting)):
                self._threads += 1
                threading.Thread(target=self._work, name="resolver", daemon=True).start()

    def _work(self) -> None:
        while True:
            host = self._names.get()
            try:
                addresses = self._lookup(host)
            except OSError as error:
                _log.warning("host name does not resolve", extra={"peer": host, "error": error})
                addresses = []
            self._loop.call_from_thread(functools.partial(self._tell, host, addresses))

    def _tell(self, host: str, addresses: list[str]) -> None:
        if not addresses:
            addresses = self._known.get(host, ([], 0.0))[0]
        elif len(self._known) >= NAMES_MAX:
            self._known.clear()
        if addresses:
            self._known[host] = addresses, self._loop.now + NAME_TTL
        for answer in self._waiting.pop(host, []):
            answer(addresses)
