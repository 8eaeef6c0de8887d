"""A unix socket's file: whose it is, and what becomes of the one that was there."""

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from isthmus.http.unix_socket import SocketOwner, UnixSocket

DEADLINE = 10.0


class Greeter(asyncio.Protocol):
    """Says hello."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


async def opened(path: Path, owner: SocketOwner | None = None) -> UnixSocket:
    return await UnixSocket.open(str(path), Greeter, owner=owner or SocketOwner())


async def greeting(path: Path) -> bytes:
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_unix_connection(str(path))
        text = await reader.read()
        writer.close()
        return text


async def test_socket_is_listened_on_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listening = await opened(path, SocketOwner(mode=0o640))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert await greeting(path) == b"hello"
    listening.close()
    assert not path.exists()


async def test_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listening = await opened(path)
    assert await greeting(path) == b"hello"
    listening.close()


async def test_socket_that_is_in_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = await opened(path)
    with pytest.raises(OSError, match="another program listens on") as refused:
        await opened(path)
    assert refused.value.errno == errno.EADDRINUSE
    assert await greeting(path) == b"hello"
    first.close()


async def test_anything_else_at_the_path_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(OSError, match="is no socket"):
        await opened(path)
    assert path.read_text() == "precious"


async def test_file_that_took_the_place_meanwhile_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = await opened(path)
    path.unlink()
    second = await opened(path)
    first.close()
    assert await greeting(path) == b"hello"
    second.close()
    second.close()  # It is gone: nothing is to be done.


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (SocketOwner(user="no-such-user"), "there is no user 'no-such-user'"),
        (SocketOwner(group="no-such-group"), "there is no group 'no-such-group'"),
    ],
)
async def test_unknown_owner_leaves_no_file(tmp_path: Path, owner: SocketOwner, words: str) -> None:
    with pytest.raises(OSError, match=words):
        await opened(tmp_path / "s", owner)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
async def test_owner_by_number(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listening = await opened(path, SocketOwner(user="12345", group="54321"))
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)
    listening.close()


async def test_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await opened(tmp_path / "none" / "s")
