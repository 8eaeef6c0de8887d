"""What configuration asks of the machine: its name and its network addresses.

Injected into `isthmus.config.load`, so that tests and the simulator have machines of their own.
"""

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_NLMSG_DONE: Final = 3
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST_DUMP: Final = 0x301
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_RECEIVE_SIZE: Final = 65536

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of one network interface.

    Attributes:
        interface: Name, like ``eth0``.
        address: The address.
        prefix_length: Bits of its network.
        default: Whether the interface has the default route.
    """

    interface: str
    address: IpAddress
    prefix_length: int = 24
    default: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The machine, as far as configuration depends on it.

    Attributes:
        hostname: Default of `node_name`.
        interfaces: Called when an address depends on them; may raise OSError.
    """

    hostname: str
    interfaces: Callable[[], list[InterfaceAddress]]

    @classmethod
    def of_this_machine(cls) -> "Surroundings":
        """Ask the kernel."""
        return cls(hostname=socket.gethostname(), interfaces=_system_addresses)


def _system_addresses() -> list[InterfaceAddress]:
    """Ask the kernel over netlink.

    Layout of the request: ``nlmsghdr(16) | ifaddrmsg(8)``.

    Source: RFC 3549 §2.3, rtnetlink(7).
    """
    request = struct.pack("=IHHII", 24, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + bytes(8)
    default, found = _default_interfaces(), list[InterfaceAddress]()
    names = dict(socket.if_nameindex())
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.settimeout(2.0)
        netlink.send(request)
        while True:
            data = netlink.recv(_RECEIVE_SIZE)
            for kind, body in _messages(data):
                if kind in {_NLMSG_DONE, _NLMSG_ERROR}:
                    return found
                if kind == _RTM_NEWADDR and (address := _address(body)) is not None:
                    prefix_length, index = struct.unpack_from("=xB2xI", body)
                    name = names.get(index, str(index))
                    found.append(InterfaceAddress(name, address, prefix_length, name in default))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + size]
        at += max((size + 3) & ~3, 16)


def _address(body: bytes) -> IpAddress | None:
    attributes, at = dict[int, bytes](), 8
    while at + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, at)
        attributes[kind] = body[at + 4 : at + size]
        at += max((size + 3) & ~3, 4)
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    return ipaddress.ip_address(raw) if raw and len(raw) in {4, 16} else None


def _default_interfaces() -> set[str]:
    try:
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return set()
    fields = [line.split() for line in lines]
    return {row[0] for row in fields if len(row) > 7 and row[1] == row[7] == "00000000"}
