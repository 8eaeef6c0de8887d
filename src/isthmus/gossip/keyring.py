"""Encryption keys of a pool, several at once so that they can be changed without a break.

Source: protocol/gossip.md §1.6.
"""

from collections.abc import Iterable
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from isthmus.errors import InvalidRequest

KEY_SIZES: Final = (16, 24, 32)
KEY_COUNT_MAX: Final = 64
"""Each packet that nobody encrypted for us is tried with every key."""


class Keyring:
    """Ordered keys: the first one encrypts, all decrypt.

    Args:
        keys: 16, 24 or 32 bytes each, primary first; none: the pool is not encrypted.

    Raises:
        InvalidRequest: A key has another length, or there are too many.
    """

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._ciphers: dict[bytes, AESGCM] = {}
        self.ciphers: list[AESGCM] = []
        """One per key, in order; always this list, so that whoever holds it sees every change."""
        for key in keys:
            self.add(key)

    def __bool__(self) -> bool:
        return bool(self.ciphers)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys, primary first."""
        return tuple(self._ciphers)

    def add(self, key: bytes) -> None:
        """Install a key behind the others; one that is there stays where it is.

        Raises:
            InvalidRequest: Wrong length, or too many keys; nothing changed.
        """
        if len(key) not in KEY_SIZES:
            raise InvalidRequest("key size must be 16, 24 or 32 bytes")
        if key not in self._ciphers and len(self._ciphers) == KEY_COUNT_MAX:
            raise InvalidRequest(f"keyring holds {KEY_COUNT_MAX} keys already")
        self._set({**self._ciphers, key: self._ciphers.get(key) or AESGCM(key)})

    def use(self, key: bytes) -> None:
        """Make an installed key the primary one.

        Raises:
            InvalidRequest: It is not installed; nothing changed.
        """
        if key not in self._ciphers:
            raise InvalidRequest("Requested key is not in the keyring")
        self._set({key: self._ciphers[key], **self._ciphers})

    def remove(self, key: bytes) -> None:
        """Forget a key; one that is not installed is silently fine.

        Raises:
            InvalidRequest: It is the primary key; nothing changed.
        """
        if self._ciphers and key == self.keys[0]:
            raise InvalidRequest("Removing the primary key is not allowed")
        self._set({kept: cipher for kept, cipher in self._ciphers.items() if kept != key})

    def _set(self, ciphers: dict[bytes, AESGCM]) -> None:
        self._ciphers = ciphers
        self.ciphers[:] = ciphers.values()
