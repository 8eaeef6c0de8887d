"""A UDP port on every address of the host, which answers from the address that was asked.

The system would choose the address that a route suggests, and resolvers drop answers that come
from elsewhere (RFC 2181 §4.1). So each datagram says where it went (``IP_PKTINFO``,
``IPV6_PKTINFO``), and its answer is sent from there.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

DATAGRAMS_PER_WAKE: Final = 64
"""Most datagrams read before others get their turn."""
WILDCARDS: Final = frozenset({"0.0.0.0", "::"})
"""Addresses that stand for all."""

_DATAGRAM_SIZE_MAX: Final = 65535
_EXTRA_SIZE: Final = 128
_IP_PKTINFO: Final = 8  # Linux; the socket module has no name for it before 3.14.
_PKTINFO: Final = struct.Struct("=I4s4s")
_Extra = list[tuple[int, int, bytes]]

Receiver = Callable[[bytes, str, Any, "AnyAddressPort"], None]
"""Is given a datagram, its client's address, where to answer to, and the port."""


class AnyAddressPort:
    """A UDP port on all addresses.

    Args:
        host: One of `WILDCARDS`.
        port: Its number; 0 for any free one.
        receive: Is given what comes.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, host: str, port: int, receive: Receiver) -> None:
        self._receive, self._loop = receive, asyncio.get_running_loop()
        six = ":" in host
        self._sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._sock.setblocking(False)
            if six:
                self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                self._sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            self._sock.bind((host, port))
        except BaseException:
            self._sock.close()
            raise
        self._loop.add_reader(self._sock.fileno(), self._on_readable)

    @property
    def port(self) -> int:
        """Its number."""
        return int(self._sock.getsockname()[1])

    def sendto(self, data: bytes, where: Any) -> None:
        """Answer; what does not go out at once is lost."""
        address, extra = where
        if self._sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._sock.sendmsg([data], extra, 0, address)

    def close(self) -> None:
        """Close it."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _on_readable(self) -> None:
        for _ in range(DATAGRAMS_PER_WAKE):
            if self._sock.fileno() < 0:
                return
            try:
                data, extra, _, address = self._sock.recvmsg(_DATAGRAM_SIZE_MAX, _EXTRA_SIZE)
            except OSError:  # Also that there is none.
                return
            self._receive(data, address[0], (address, _answer_from(extra)), self)


def _answer_from(extra: _Extra) -> _Extra:
    """What to send along with an answer, so that it comes from where the question went."""
    for level, kind, data in extra:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            _, local, _ = _PKTINFO.unpack(data[: _PKTINFO.size])
            return [(level, kind, _PKTINFO.pack(0, local, bytes(4)))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return [(level, kind, data)]
    return []
