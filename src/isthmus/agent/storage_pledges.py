"""What we promised to servers that want to form a storage cluster with us; on the disk first."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from isthmus.agent.storage_files import (
    PROMISE_FILE,
    StorageNotes,
    promises_as_dict,
    promises_of,
)
from isthmus.agent.storage_peers import StorageKeeperConfig
from isthmus.errors import InvalidRequest
from isthmus.model.storage import StorageMember
from isthmus.server.formation import FORM_TIME, Promise, Promises


class Pledges:
    """Our promises: see `server.formation`.

    Args:
        config: Who we are.
        notes: Where they are kept.
        wall: Reads the calendar clock.
        living: The other living servers by server id.
    """

    def __init__(
        self,
        config: StorageKeeperConfig,
        notes: StorageNotes,
        *,
        wall: Callable[[], datetime],
        living: Callable[[], Mapping[str, object]],
    ) -> None:
        self._config, self._notes, self._wall, self._living = config, notes, wall, living
        self._promises = Promises()

    @property
    def token(self) -> str:
        """Of the attempt that we promised ourselves to; empty for none."""
        return self._promises.token

    async def open(self) -> None:
        """Know what we promised in earlier lives.

        Raises:
            Unavailable: The file cannot be read; the text names it.
        """
        noted = await self._notes.read(PROMISE_FILE)
        if noted is not None:
            self._promises = promises_of(noted)

    async def give(self, token: str, coordinator: str, members: Sequence[StorageMember]) -> Promise:
        """Promise ourselves to an attempt.

        Raises:
            InvalidRequest: An earlier promise is in the way; the text says what to do about it.
        """
        servers = tuple(member.server_id for member in members)
        promise = Promise(token, coordinator, self._wall().timestamp(), servers)
        obstacle = self._promises.obstacle(promise)
        if obstacle is not None:
            raise InvalidRequest(self._why_not(obstacle))
        await self._keep(self._promises.adding(promise))
        return promise

    def check(self, promise: Promise) -> None:
        """See whether an attempt of ours, which all have promised to, may still be carried out.

        Raises:
            InvalidRequest: Not any more.
        """
        if self._promises.token != promise.token:
            raise InvalidRequest("this server promised itself to another attempt meanwhile")
        if not 0 <= self._wall().timestamp() - promise.made_at <= FORM_TIME:
            raise InvalidRequest("the promises took too long")

    async def release(self, token: str) -> None:
        """An attempt was given up."""
        await self._keep(self._promises.without(token))

    async def fulfil(self) -> None:
        """We are in a cluster: nothing that was promised counts any more."""
        await self._keep(Promises())

    async def _keep(self, promises: Promises) -> None:
        if promises != self._promises:
            await self._notes.write(PROMISE_FILE, promises_as_dict(promises))
        self._promises = promises

    def _why_not(self, obstacle: Promise) -> str:
        """Why a promise cannot be made; with what an operator can do if that lasts."""
        own, living = self._config.member, self._living()
        away = [
            server
            for server in obstacle.members
            if server not in living and server != own.server_id
        ]
        text = f"{own.node} has promised itself to another attempt"
        if not away:
            return text
        return (
            f"{text}, which servers that are away now may have finished without it: start "
            f"{', '.join(away)}; if they are gone for good, stop {own.node} and "
            f"remove {self._config.directory / PROMISE_FILE} there"
        )
