"""Which servers a call to another datacenter is tried on, and when it is given up.

Source: protocol/rpc.md §7. Better than Consul: every server of the datacenter is tried, the nearest
first, and reads are repeated when a connection breaks under them.
"""

import math
from collections.abc import Callable
from typing import Final

from isthmus.federation.router import Router, ServerInfo

ATTEMPTS_MAX: Final = 3
"""Attempts, unless the datacenter has more servers."""


class CallAttempts:
    """The attempts of one call.

    Args:
        router: Knows the servers, and is told which one failed.
        dc: Datacenter that is called.
        repeatable: Whether the call may be made twice: a read.
        now: Seconds on the driver's monotonic clock.
        far: Seconds to a member of the WAN pool and back; infinite when that is unknown.
    """

    def __init__(
        self,
        router: Router,
        dc: str,
        *,
        repeatable: bool,
        now: float,
        far: Callable[[str], float] = lambda name: math.inf,
    ) -> None:
        self._router, self._repeatable = router, repeatable
        self._servers = router.in_order(dc, now=now, far=far, repeatable=repeatable)
        self._count = 0
        self._dial_failed = self._may_be_done = False

    def next(self) -> ServerInfo | None:
        """Server to try now; None: give up, or there never was one."""
        count = len(self._servers)
        if not count or self._may_be_done or self._count >= max(ATTEMPTS_MAX, count):
            return None
        if self._dial_failed and self._count >= count:
            return None  # Every server was dialled once; the pool has tried every gateway.
        server = self._servers[self._count % count]
        self._count += 1
        return server

    def answered(self, server: ServerInfo) -> None:
        """It carried the call out."""
        self._router.answered(server)

    def dial_failed(self, server: ServerInfo, *, now: float) -> None:
        """There was no connection to it: the call did not take effect."""
        self._dial_failed = True
        self._router.failed(server, now=now)

    def connection_lost(self, server: ServerInfo, *, now: float) -> None:
        """The connection broke: the call may have taken effect."""
        self._dial_failed = False
        self._may_be_done = not self._repeatable
        self._router.failed(server, now=now)
