"""The gateway's TCP sockets: the interpreter's bare ones, and the options they get.

`socket.socket` wraps the bare type in Python code that costs as much per accepted connection as
a system call does.
"""

import _socket
import contextlib
import errno
import socket
import struct
from typing import Final, TypeAlias

Socket: TypeAlias = _socket.socket

_KEEPALIVE_IDLE: Final = 60
_KEEPALIVE_INTERVAL: Final = 15
_KEEPALIVE_COUNT: Final = 4
_DISCARD: Final = struct.pack("ii", 1, 0)
_CONNECTING: Final = {0, errno.EINPROGRESS}


def set_options(sock: Socket) -> None:
    """Send at once, and notice within two minutes when the peer's machine is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)


def reset_on_close(sock: Socket) -> None:
    """Let the coming close of a socket be a reset instead of an orderly end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)


def accept(listener: Socket) -> Socket:
    """Accept a waiting connection; what it returns does not block.

    Raises:
        BlockingIOError: None is waiting.
        OSError: That connection is gone, or the process is out of descriptors.
    """
    descriptor, _ = listener._accept()  # type: ignore[attr-defined]
    sock = Socket(listener.family, socket.SOCK_STREAM, 0, descriptor)
    sock.setblocking(False)
    return sock


def connect(address: str, port: int) -> Socket | None:
    """Begin to connect to an IP address; None when that failed at once.

    Raises:
        OSError: The process is out of descriptors.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = Socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    set_options(sock)
    with contextlib.suppress(OSError):  # Raised only for an address of an unknown scope.
        if sock.connect_ex((address, port)) in _CONNECTING:
            return sock
    sock.close()
    return None
