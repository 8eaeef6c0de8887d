"""A UDP socket that hears of refusals: which of our packets came back as "nobody listens there".

asyncio's own transport reads one datagram each time round the loop, and loses to whom a refused
packet had been sent. This one reads what is there, a bounded number at a time, and asks the kernel
for the errors that ICMP brought (``IP_RECVERR``).
"""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from isthmus.net.network import DatagramRefused

DATAGRAMS_PER_WAKE: Final = 64
"""Most datagrams read before the loop's timers get their turn."""
ERRORS_PER_WAKE: Final = 64
"""Most errors fetched at a time."""
SEND_ATTEMPTS: Final = 4
"""A send may fail with the error of an earlier one; so often it is tried again."""

_DATAGRAM_SIZE_MAX: Final = 65535
_IP_RECVERR: Final = 11  # Linux; the socket module has no names for them before 3.14.
_IPV6_RECVERR: Final = 25
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")
_FROM_ICMP: Final = {2, 3}  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6


async def open_datagrams(
    factory: Callable[[], asyncio.DatagramProtocol], host: str, port: int
) -> asyncio.DatagramTransport:
    """Bind a UDP socket and run a protocol on it, on this loop.

    Args:
        factory: Makes the protocol.
        host: Address or name to bind to.
        port: Port; 0: a free one.

    Raises:
        OSError: The address is not ours, or the port is taken.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return DatagramSocket(sock, factory(), loop)


class DatagramSocket(asyncio.DatagramTransport):
    """A bound UDP socket. Made by `open_datagrams`.

    What does not go out at once is lost, and the protocol's `error_received` says so.

    Args:
        sock: Bound and not blocking.
        protocol: Gets what arrives.
        loop: The running loop.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self._sock, self._protocol, self._loop = sock, protocol, loop
        self._closed = False
        self._hears_refusals = _ask_for_errors(sock)
        protocol.connection_made(self)
        loop.add_reader(sock.fileno(), self._on_readable)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send to an address, now or never."""
        if self._closed:
            return
        for _ in range(SEND_ATTEMPTS):
            try:
                self._sock.sendto(data, addr)
            except OSError as error:
                # Possibly that of an earlier packet, which the kernel tells at the next call.
                if not self._fetch_errors():
                    self._protocol.error_received(error)
                    return
            else:
                return
        self._protocol.error_received(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))

    def close(self) -> None:
        """Close it; nothing waits to be sent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """Close it."""
        self.close()

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def _on_readable(self) -> None:
        """Pass on what arrived, as far as one turn of the loop goes."""
        for _ in range(DATAGRAMS_PER_WAKE):
            if self._closed:
                return
            try:
                data, source = self._sock.recvfrom(_DATAGRAM_SIZE_MAX)
            except BlockingIOError:
                self._fetch_errors()  # The kernel wakes us until they are fetched.
                return
            except OSError as error:
                if not self._fetch_errors():
                    self._protocol.error_received(error)
                    return
            else:
                self._protocol.datagram_received(data, source)

    def _fetch_errors(self) -> bool:
        """Take errors off the socket, tell of refusals soon; whether there were any."""
        if not self._hears_refusals:
            return False
        for count in range(ERRORS_PER_WAKE):
            try:
                _, extra, _, target = self._sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return count > 0
            if target and any(_is_refusal(data) for _, _, data in extra):
                self._loop.call_soon(self._tell_refusal, target)
        return True

    def _tell_refusal(self, target: tuple[Any, ...]) -> None:
        if not self._closed:
            self._protocol.error_received(DatagramRefused(target[0], target[1]))


def _ask_for_errors(sock: socket.socket) -> bool:
    """Ask the kernel to keep the errors of sent packets; whether it can."""
    if not hasattr(socket, "MSG_ERRQUEUE"):
        return False
    option = (
        (socket.IPPROTO_IPV6, _IPV6_RECVERR)
        if sock.family == socket.AF_INET6
        else (socket.IPPROTO_IP, _IP_RECVERR)
    )
    try:
        sock.setsockopt(*option, 1)
    except OSError:
        return False
    return True


def _is_refusal(extra: bytes) -> bool:
    """Whether this is an error of "port unreachable", told by the other side."""
    if len(extra) < _EXTENDED_ERROR.size:
        return False
    number, origin, *_ = _EXTENDED_ERROR.unpack_from(extra)
    return number == errno.ECONNREFUSED and origin in _FROM_ICMP
