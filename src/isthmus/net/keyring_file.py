"""The file that keeps a pool's encryption keys, so that changes made through the pool last.

It is a JSON list of keys in base64, the primary one first, as Consul and serf keep it.

Source: protocol/gossip.md §13.5, §14.7.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from isthmus.errors import ConfigError, InvalidRequest, Mistake
from isthmus.gossip.keyring import Keyring
from isthmus.net.files import Files

KEYRING_SIZE_MAX: Final = 64 * 1024
"""Bytes of a keyring file that we read; many times what our own most keys take."""


class KeyringFile:
    """One pool's file.

    Args:
        path: Where it is.
        files: The place for files.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self._path, self._files = path, files
        self._writing = asyncio.Lock()  # Waiters come in their order, so the newest keys stay.

    async def load(self, configured: Sequence[bytes]) -> tuple[bytes, ...]:
        """The keys to start with: the file's; if there is none, it is made of `configured`.

        Raises:
            ConfigError: The file can not be read, used or made.
        """
        try:
            data = await self._files.read(self._path, size_max=KEYRING_SIZE_MAX)
            if data is not None:
                return parse_keyring(data)
            if configured:
                await self.save(configured)
        except OSError as error:
            why = error.strerror or str(error)
            remedy = "make it readable and writable for the user that the agent runs as"
            raise self._mistake(f"the keyring file can not be used: {why}", remedy) from error
        except ValueError as error:
            remedy = (
                "it holds a JSON list of base64 keys, the primary one first; restore it, or remove"
                " it to start with the configured key"
            )
            raise self._mistake(f"not a keyring: {error}", remedy) from error
        return tuple(configured)

    async def save(self, keys: Sequence[bytes]) -> None:
        """Replace the keys; calls that overlap are carried out in their order.

        Raises:
            OSError: The file still holds the keys from before.
        """
        async with self._writing:
            await self._files.replace(self._path, format_keyring(keys))

    def _mistake(self, text: str, remedy: str) -> ConfigError:
        return ConfigError([Mistake(str(self._path), "", text, remedy)])


def parse_keyring(data: bytes) -> tuple[bytes, ...]:
    """Keys of a keyring file.

    Raises:
        ValueError: It is none, or holds no key.
    """
    try:
        texts = json.loads(data)
    except UnicodeDecodeError:
        raise ValueError("it is no text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("it is not a list of texts")
    if not texts:
        raise ValueError("it holds no key")
    try:
        return Keyring(base64.b64decode(text, validate=True) for text in texts).keys
    except binascii.Error as error:
        raise ValueError(f"a key is not base64 ({error})") from None
    except InvalidRequest as error:
        raise ValueError(str(error)) from None


def format_keyring(keys: Sequence[bytes]) -> bytes:
    """A keyring file of these keys."""
    texts = [base64.b64encode(key).decode() for key in keys]
    return json.dumps(texts, indent=2).encode()
