"""Who leads, as the other servers say, while our own storage does not tell us.

A server whose etcd is paused, cut off, or not let in yet hears nothing of the leadership; the
server that leads is reached over RPC all the same, and every commit of it is fenced.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from isthmus.errors import IsthmusError
from isthmus.model.query import DatacenterRequest
from isthmus.names import split_host_port
from isthmus.net.client import ServerTarget
from isthmus.server.forward import RemoteCaller
from isthmus.server.operator import LanServer

ASK_TIMEOUT: Final = 1.0
"""Seconds in which a server tells who leads: it never has to wait for that."""
FOUND_TIME: Final = 0.2
"""Seconds for which an answer, also that nobody is known, is good enough for the next caller."""


class LeaderSearch:
    """Asks the other servers of our datacenter which of them leads.

    Args:
        caller: Calls them; None: there is no other.
        servers: All servers of the LAN pool, as of now.
        own_id: Us, who are not asked.
        dc: Our datacenter.
    """

    def __init__(
        self,
        caller: RemoteCaller | None,
        *,
        servers: Callable[[], Sequence[LanServer]],
        own_id: str,
        dc: str,
    ) -> None:
        self._caller, self._servers, self._own_id, self._dc = caller, servers, own_id, dc
        self._asking: asyncio.Task[ServerTarget | None] | None = None
        self._asked_at = float("-inf")

    async def find(self) -> ServerTarget | None:
        """The server that says of itself that it leads; None when none of them does.

        Callers at the same time share one round of questions.
        """
        loop = asyncio.get_running_loop()
        asking = self._asking
        if asking is None or (asking.done() and loop.time() - self._asked_at >= FOUND_TIME):
            asking = self._asking = loop.create_task(self._ask_all())
        return await asyncio.shield(asking)

    async def _ask_all(self) -> ServerTarget | None:
        asked = [
            asyncio.ensure_future(self._ask(server))
            for server in self._servers()
            if server.alive and server.server_id != self._own_id
        ]
        try:
            for answer in asyncio.as_completed(asked):
                found = await answer
                if found is not None:
                    return found
        finally:
            self._asked_at = asyncio.get_running_loop().time()
            for question in asked:
                question.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return None

    async def _ask(self, server: LanServer) -> ServerTarget | None:
        """The server itself, if it says that it leads."""
        assert self._caller is not None
        host, port = split_host_port(server.address)
        target = ServerTarget(self._dc, server.node, host, port)
        request = DatacenterRequest(datacenter=self._dc, allow_stale=True)
        try:
            named = await self._caller.call(
                target, "Status.Leader", request, str, timeout=ASK_TIMEOUT
            )
        except IsthmusError:
            return None
        return target if named == server.address else None

    async def close(self) -> None:
        """Ask no more; who waits for an answer gets none."""
        if self._asking is not None and not self._asking.done():
            self._asking.cancel()
            await asyncio.wait({self._asking})
