"""The keyring file: what counts at the start, what a broken one says, what stays."""

import asyncio
import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import ConfigError
from isthmus.net.keyring_file import KeyringFile, format_keyring, parse_keyring
from support.memory_files import MemoryFiles

A, B, C = bytes(16), bytes(24), bytes(32)
PATH = Path("/data/serf/local.keyring")


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


async def test_first_start_makes_the_file_of_the_configured_keys() -> None:
    files = MemoryFiles()
    assert await KeyringFile(PATH, files).load([A]) == (A,)
    assert json.loads(files.contents[PATH]) == [text(A)]


async def test_file_counts_instead_of_the_configured_key() -> None:
    """protocol/gossip.md §14.7: used in preference to the configured value once present."""
    files = MemoryFiles()
    files.contents[PATH] = json.dumps([text(B), text(C)]).encode()
    assert await KeyringFile(PATH, files).load([A]) == (B, C)
    assert await KeyringFile(PATH, files).load([]) == (B, C)


async def test_pool_without_keys_gets_no_file() -> None:
    files = MemoryFiles()
    assert await KeyringFile(PATH, files).load([]) == ()
    assert files.contents == {}


async def test_keys_that_are_saved_last_stay() -> None:
    files = MemoryFiles()
    ring = KeyringFile(PATH, files)
    await asyncio.gather(ring.save([A]), ring.save([A, B]), ring.save([B, A]))
    assert parse_keyring(files.contents[PATH]) == (B, A)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value in line 1"),
        (b"\xff\xfe\x00", "it is no text"),
        (b"{}", "it is not a list of texts"),
        (b"[7]", "it is not a list of texts"),
        (b"[]", "it holds no key"),
        (b'["?"]', "a key is not base64"),
        (b'["AAAA"]', "key size must be 16, 24 or 32 bytes"),
        (b"[" * 60_000, "nested too deeply"),
    ],
)
async def test_broken_file_is_named_with_what_to_do(content: bytes, why: str) -> None:
    files = MemoryFiles()
    files.contents[PATH] = content
    with pytest.raises(ConfigError) as caught:
        await KeyringFile(PATH, files).load([A])
    said = str(caught.value)
    assert said.startswith(f"{PATH}: not a keyring: ")
    assert why in said
    assert said.endswith("restore it, or remove it to start with the configured key")
    assert files.contents[PATH] == content


async def test_file_that_can_not_be_made_is_named() -> None:
    files = MemoryFiles()
    files.problem = PermissionError(13, "Permission denied")
    with pytest.raises(ConfigError, match=r"local\.keyring: .* can not be used: Permission denied"):
        await KeyringFile(PATH, files).load([A])


@given(st.lists(st.sampled_from([16, 24, 32]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
                min_size=1, max_size=8, unique=True))  # fmt: skip
def test_keys_come_back_in_their_order(keys: list[bytes]) -> None:
    assert parse_keyring(format_keyring(keys)) == tuple(keys)


@given(st.binary(max_size=60))
def test_any_file_is_keys_or_a_clear_error(data: bytes) -> None:
    try:
        keys = parse_keyring(data)
    except ValueError:
        return
    assert keys
