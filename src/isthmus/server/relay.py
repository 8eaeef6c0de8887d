"""Calls that only the leader may answer, made to a server that need not be it.

While there is no leader they wait, as in Consul for 7 s, since a new one is elected soon.
A read is repeated when its connection breaks; a write only while it surely did not take effect.
Source: protocol/rpc.md §7.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

from isthmus.errors import (
    NO_LEADER,
    ConnectionLost,
    DialFailed,
    IsthmusError,
    NoLeader,
    ProtocolError,
    RemoteError,
)
from isthmus.model.methods import METHODS
from isthmus.names import split_host_port
from isthmus.net.client import ServerTarget
from isthmus.server.forward import HOLD_TIME, RemoteCaller, call_timeout
from isthmus.server.leader_search import LeaderSearch
from isthmus.server.replica import CONFIRMED_MAX, Replica
from isthmus.store.engine import LeaderInfo

RETRY_MIN: Final = 0.02
RETRY_MAX: Final = 0.2
"""Seconds between two attempts; a change of leadership is an attempt at once."""


class _Again(Exception):
    """Not answered, and nothing took effect."""

    def __init__(self, failure: IsthmusError) -> None:
        self.failure = failure


class LeaderRelay:
    """Has the leader answer, wherever it is.

    Args:
        replica: Knows who leads.
        caller: Calls another server; None: there is no other.
        search: Finds who leads when the replica has not heard of it lately.
        dc: Our datacenter.
        server_id: Us, as the leader's key would say.
        rng: Source of jitter.
        hold_time: Seconds for which calls are held.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        caller: RemoteCaller | None,
        search: LeaderSearch,
        dc: str,
        server_id: str,
        rng: Random,
        hold_time: float = HOLD_TIME,
    ) -> None:
        self._replica, self._caller, self._search = replica, caller, search
        self._dc, self._own_id, self._rng = dc, server_id, rng
        self._hold_time = hold_time
        self._closed = False

    async def call(
        self, method: str, request: Any, answer: Callable[[], Awaitable[object]]
    ) -> object:
        """Answer here if we lead, else have the leader answer.

        Args:
            method: Name on the wire.
            request: Its argument.
            answer: Answers it here.

        Raises:
            NoLeader: There was none for as long as calls are held.
            RemoteError: The leader's own error.
            DialFailed: The leader could not be reached for as long.
            ConnectionLost: The connection to the leader broke; a write may have taken effect.
        """
        clock = asyncio.get_running_loop()
        deadline = clock.time() + self._hold_time
        wait = RETRY_MIN
        while True:
            try:
                return await self._attempt(method, request, answer)
            except _Again as error:
                failure = error.failure
            left = deadline - clock.time()
            if left <= 0 or self._closed:
                raise failure
            wait = min(RETRY_MAX, wait * 2)
            await self._replica.leader_changed(min(left, self._rng.uniform(wait / 2, wait)))

    async def _attempt(
        self, method: str, request: Any, answer: Callable[[], Awaitable[object]]
    ) -> object:
        read = METHODS[method].read
        if self._replica.is_leader and (not read or self._replica.is_sure()):
            try:
                return await answer()
            except NoLeader as error:
                raise _Again(error) from error
        target = await self._find_leader()
        if target is None or self._caller is None:
            raise _Again(NoLeader())
        try:
            return await self._caller.call(
                target,
                method,
                request,
                METHODS[method].reply,
                timeout=call_timeout(request),
                repeatable=read,
            )
        except RemoteError as error:
            if str(error) == NO_LEADER:
                raise _Again(NoLeader()) from error
            raise
        except DialFailed as error:
            raise _Again(error) from error
        except (ConnectionLost, ProtocolError) as error:
            if read:
                raise _Again(error) from error
            raise

    async def _find_leader(self) -> ServerTarget | None:
        """Another server that leads: as our storage says, or the others if it says nothing."""
        leader = self._replica.leader
        replica = self._replica
        other = leader is not None and leader.server_id != self._own_id
        target = self._target(leader) if other and leader is not None else None
        hears = replica.is_loaded and replica.last_contact <= CONFIRMED_MAX
        if self._caller is None or (other and hears):
            return target
        return await self._search.find() or target

    def _target(self, leader: LeaderInfo) -> ServerTarget:
        host, port = split_host_port(leader.address)
        return ServerTarget(self._dc, leader.node, host, port)

    def close(self) -> None:
        """Hold no calls any more."""
        self._closed = True
