"""The other servers of our datacenter, as a server meets them that has yet to find its storage."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isthmus.errors import IsthmusError, RequestError
from isthmus.model.reminders import Reminders
from isthmus.model.storage import STATUS, StorageMember, StorageReply, StorageRequest
from isthmus.net.client import ServerTarget
from isthmus.server.forward import RemoteCaller

logger = logging.getLogger(__name__)

METHOD: Final = "Isthmus.Storage"
CALL_TIMEOUT: Final = 5.0
_WARNING_INTERVAL: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageKeeperConfig:
    """Who we are.

    Attributes:
        datacenter: Our datacenter.
        member: Us, as a member of the cluster.
        peer_host: IP address in `member.peer_url`.
        expect: How many servers make up a new datacenter; 0: we only join.
        directory: Where the keeper's files are.
    """

    datacenter: str
    member: StorageMember
    peer_host: str
    expect: int
    directory: Path


class StoragePeers:
    """Calls the other servers, and says now and then what is wrong with them.

    Args:
        servers: The other living servers of our datacenter by server id.
        caller: Calls them.
    """

    def __init__(
        self, servers: Callable[[], Mapping[str, ServerTarget]], caller: RemoteCaller
    ) -> None:
        self._servers, self._caller = servers, caller
        self._warnings = Reminders(_WARNING_INTERVAL)

    def known(self) -> Mapping[str, ServerTarget]:
        """Those that live, by server id."""
        return self._servers()

    async def call(self, target: ServerTarget, request: StorageRequest) -> StorageReply:
        """Ask a server for a step.

        Raises:
            RequestError: It refuses; the text says why.
            IsthmusError: It cannot be asked now.
        """
        reply: StorageReply = await self._caller.call(
            target, METHOD, request, StorageReply, timeout=CALL_TIMEOUT
        )
        return reply

    async def ask(self, target: ServerTarget) -> StorageReply | None:
        """What a server says of itself; None when it does not answer."""
        try:
            return await self.call(target, StorageRequest(operation=STATUS))
        except RequestError as error:  # It keeps its data otherwise, or is no isthmus at all.
            self.warn(f"server {target.node} has no part in the storage: {error}")
            return None
        except IsthmusError as error:
            logger.debug("server %s does not say whether it has data: %s", target.node, error)
            return None

    async def ask_all(self) -> dict[str, StorageReply | None]:
        """As `ask`, all at once, by server id."""
        servers = dict(self._servers())
        answers = await asyncio.gather(*(self.ask(target) for target in servers.values()))
        return dict(zip(servers, answers, strict=True))

    def warn(self, text: str, *, level: int = logging.WARNING) -> None:
        """Log once in a while."""
        if self._warnings.due(text, now=asyncio.get_running_loop().time()):
            logger.log(level, "%s", text)
