"""A unix socket that is listened on: who may open it, and what is left of an earlier run."""

import asyncio
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_BACKLOG: Final = 128


@dataclass(frozen=True, slots=True)
class SocketOwner:
    """Whom a socket's file belongs to. A client needs the right to write to it.

    Attributes:
        user: A name or a number; empty: who runs the agent.
        group: The same for the group.
        mode: Permissions; None: what the umask leaves.
    """

    user: str = ""
    group: str = ""
    mode: int | None = None

    def apply(self, path: str) -> None:
        """Give a file its owner and its permissions.

        Raises:
            OSError: We may not, or there is no such user or group.
        """
        user = _number(self.user, "user", lambda name: pwd.getpwnam(name).pw_uid)
        group = _number(self.group, "group", lambda name: grp.getgrnam(name).gr_gid)
        if (user, group) != (-1, -1):
            os.chown(path, user, group)
        if self.mode is not None:
            os.chmod(path, self.mode)


class UnixSocket:
    """A socket that is listened on; made by `open`.

    Args:
        server: Accepts.
        path: Of its file.
        inode: Of its file, so that another's is never removed.
    """

    def __init__(self, server: asyncio.Server, path: str, inode: int) -> None:
        self._server, self._path, self._inode = server, path, inode

    @classmethod
    async def open(
        cls, path: str, factory: Callable[[], asyncio.Protocol], *, owner: SocketOwner
    ) -> "UnixSocket":
        """Listen at a path; a socket there that nobody listens on any more is replaced.

        Nobody can connect before the file has its owner and permissions.

        Args:
            path: Of the file.
            factory: Makes the protocol of a connection.
            owner: Who may connect.

        Raises:
            OSError: It cannot be opened; what is at that path stays.
        """
        _remove_stale(path)
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.setblocking(False)
            listening.bind(path)
            inode = os.stat(path).st_ino
        except BaseException:
            listening.close()
            raise
        try:
            owner.apply(path)
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(factory, sock=listening, backlog=_BACKLOG)
        except BaseException:
            listening.close()
            os.unlink(path)
            raise
        return cls(server, path, inode)

    def close(self) -> None:
        """Stop accepting, and remove the file if it is still ours."""
        self._server.close()
        try:
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        except FileNotFoundError:
            return


def _remove_stale(path: str) -> None:
    """Remove the socket of an earlier run.

    Raises:
        OSError: Somebody listens there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, f"{path} is there and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # Its listener is busy.
    raise OSError(errno.EADDRINUSE, f"another program listens on {path}")


def _number(text: str, what: str, find: Callable[[str], int]) -> int:
    """Number of a user or group; -1, which changes nothing, for none.

    Raises:
        OSError: There is none of that name.
    """
    if not text:
        return -1
    if text.isdecimal():
        return int(text)
    try:
        return find(text)
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no {what} {text!r} on this host") from None
