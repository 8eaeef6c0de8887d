"""Our gossip pools as servers ask them: events for the LAN pool, keys of both; and where keys lie.

Source: protocol/gossip.md §14.6, §14.7.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from isthmus.config.model import AgentConfig
from isthmus.errors import InvalidRequest, RequestError, Unavailable
from isthmus.model.keyring import (
    INSTALL,
    LIST,
    REMOVE,
    USE,
    KeyringRequest,
    KeyringResponse,
    decode_key,
)
from isthmus.net.gossip import KeyOperation, KeyResult
from isthmus.net.keyring_file import KEYRING_SIZE_MAX, parse_keyring

_FOLDER: Final = "serf"
_FILES: Final = {False: "local", True: "remote"}
_OPERATIONS: Final = {
    LIST: KeyOperation.LIST,
    INSTALL: KeyOperation.INSTALL,
    USE: KeyOperation.USE,
    REMOVE: KeyOperation.REMOVE,
}


class Pool(Protocol):
    """What is needed of a gossip pool."""

    async def user_event(self, name: str, payload: bytes, *, coalesce: bool = False) -> int:
        """Tell all members an event."""

    async def keys(
        self, operation: KeyOperation, key: bytes = b"", *, relay_factor: int = 0
    ) -> KeyResult:
        """Let all members do something to their keyrings."""


class ServerPools:
    """The pools of a server (`server.endpoints.GossipPools`).

    Args:
        dc: Our datacenter.
        lan: Its pool; None while we start.
        wan: The pool of all servers; None while we start, or when we are not in it.
    """

    def __init__(
        self, dc: str, *, lan: Callable[[], Pool | None], wan: Callable[[], Pool | None]
    ) -> None:
        self._dc, self._lan, self._wan = dc, lan, wan

    async def fire(self, name: str, payload: bytes) -> None:
        """Tell the agents of our datacenter an event.

        Raises:
            RequestError: It is too long; nothing was sent.
            Unavailable: We are starting or stopping.
        """
        try:
            await self._lan_pool().user_event(name, payload)
        except InvalidRequest as error:
            raise RequestError(str(error)) from error  # Consul answers 500.

    async def keys(self, request: KeyringRequest, *, wan: bool) -> KeyringResponse | None:
        """Have a pool's members do something with their keys; None: we are not in that pool.

        Raises:
            Unavailable: We are starting or stopping, or too much is asked at the same time.
        """
        pool = self._wan() if wan else self._lan_pool()
        if pool is None:
            return None
        result = await pool.keys(
            _OPERATIONS[request.operation],
            b"" if request.operation == LIST else decode_key(request.key),
            relay_factor=request.relay_factor,
        )
        return KeyringResponse(
            wan=wan,
            datacenter=self._dc,
            messages=dict(sorted(result.messages.items())),
            keys=dict(sorted(result.keys.items())),
            primary_keys=dict(sorted(result.primary_keys.items())),
            num_nodes=result.member_count,
            error=result.error,
        )

    def _lan_pool(self) -> Pool:
        pool = self._lan()
        if pool is None:
            raise Unavailable("this server is in no gossip pool now")
        return pool


def keyring_file(config: AgentConfig, *, wan: bool) -> Path | None:
    """Where a pool's keys are kept; None: nowhere."""
    if config.data_dir is None or config.gossip.disable_keyring_file:
        return None
    return config.data_dir / _FOLDER / f"{_FILES[wan]}.keyring"


def snapshot_file(config: AgentConfig, *, wan: bool) -> Path | None:
    """Where a pool's members and times are kept; None: nowhere."""
    if config.data_dir is None or config.dev:
        return None
    return config.data_dir / _FOLDER / f"{_FILES[wan]}.snapshot"


def keyring_warnings(config: AgentConfig) -> Iterator[str]:
    """What to say of keyrings that lack the key that `encrypt` names.

    A keyring counts once it exists: `encrypt` was for the first start. Other faults of the file
    are for the pool to find.
    """
    for pool, wan in (("LAN", False), ("WAN", True)):
        path = keyring_file(config, wan=wan)
        if path is None or not config.gossip.encrypt:
            continue
        try:
            with path.open("rb") as file:
                keys = parse_keyring(file.read(KEYRING_SIZE_MAX))
        except (OSError, ValueError):
            continue
        if decode_key(config.gossip.encrypt) not in keys:
            yield (
                f"encrypt names a key that the {pool} keyring lacks, and the keyring counts: "
                f"{path}; install the key with: isthmus keyring -install"
            )
