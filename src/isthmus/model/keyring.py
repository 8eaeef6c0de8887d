"""The keys of gossip: what an operator asks of all pools, and what each pool answers.

Source: protocol/rpc.md §6, protocol/http-api.md §6.8, protocol/gossip.md §14.7.
"""

import base64
import binascii
from typing import Final

from isthmus.model.query import QueryMeta, QueryOptions
from isthmus.model.record import Record, Uint

LIST: Final = "list"
INSTALL: Final = "install"
USE: Final = "use"
REMOVE: Final = "remove"
OPERATIONS: Final = (LIST, INSTALL, USE, REMOVE)
"""What may be asked."""

RELAY_FACTOR_MAX: Final = 5
"""Most members that bring an answer back beside the one who gives it."""


KEY_SIZES: Final = (16, 24, 32)
"""Bytes a gossip key may have."""


def decode_key(text: str) -> bytes:
    """Read a gossip key from its base64.

    Raises:
        ValueError: It is no base64, or has another length; the text never shows the key.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("illegal base64 data") from None
    if len(key) not in KEY_SIZES:
        raise ValueError(f"it has {len(key)} bytes, not 16, 24 or 32")
    return key


class KeyringRequest(QueryOptions, frozen=True, kw_only=True):
    """Do something with the keys of pools.

    Attributes:
        datacenter: Whose servers shall answer; empty for those that are asked.
        forwarded: A server asks on behalf of another: only the LAN pool is meant.
        key: In base64; empty to list.
        local_only: Only the LAN pool of our datacenter; to list only.
        operation: One of `OPERATIONS`.
        relay_factor: Members that each answer is relayed through as well.
    """

    datacenter: str = ""
    forwarded: bool = False
    key: str = ""
    local_only: bool = False
    operation: str = ""
    relay_factor: Uint = 0


class KeyringResponse(Record, frozen=True, kw_only=True):
    """What one pool answered, or why one datacenter did not.

    Attributes:
        wan: The WAN pool's answer; else the LAN pool's of `datacenter`.
        messages: What members said, by name; of a datacenter that did not answer, by its name.
        keys: In base64, each with the number of members that have it.
        primary_keys: The same, of members that encrypt with it.
        num_nodes: Members asked.
        error: Why it did not succeed; empty when it did.
    """

    json_omit_empty = frozenset({"messages", "error"})

    wan: bool = False
    datacenter: str = ""
    segment: str = ""
    messages: dict[str, str] | None = None
    keys: dict[str, int] | None = None
    primary_keys: dict[str, int] | None = None
    num_nodes: int = 0
    error: str = ""

    @property
    def pool(self) -> str:
        """Its pool, as operators read it."""
        return "WAN" if self.wan else f"{self.datacenter} (LAN)"


class KeyringResponses(QueryMeta, frozen=True, kw_only=True):
    """Reply of ``Internal.KeyringOperation``."""

    responses: tuple[KeyringResponse, ...] | None = None
