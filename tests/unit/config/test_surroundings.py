"""What the kernel says of the machine's addresses, and how its messages are read."""

import ipaddress
import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from isthmus.config.surroundings import InterfaceAddress, Surroundings, _address, _messages


def attribute(kind: int, value: bytes) -> bytes:
    """Layout: ``size:u16 | kind:u16 | value``, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def address_message(*attributes: tuple[int, bytes]) -> bytes:
    """Body of RTM_NEWADDR: eight bytes about the interface, then attributes."""
    return bytes(8) + b"".join(attribute(kind, value) for kind, value in attributes)


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def test_name_is_that_of_the_host() -> None:
    assert Surroundings.of_this_machine().hostname == socket.gethostname()


def test_loopback_is_found_with_its_network() -> None:
    found = Surroundings.of_this_machine().interfaces()
    loopback = ipaddress.ip_address("127.0.0.1")
    assert InterfaceAddress("lo", loopback, 8) in found
    assert {one.interface for one in found} <= {name for _, name in socket.if_nameindex()}


def test_own_address_comes_before_that_of_the_other_end() -> None:
    """On a link between two points IFA_ADDRESS (1) is the other end, IFA_LOCAL (2) is ours."""
    body = address_message((1, packed("10.0.0.2")), (2, packed("10.0.0.1")))
    assert _address(body) == ipaddress.ip_address("10.0.0.1")


def test_ipv6_has_one_address_and_unknown_attributes_are_passed_over() -> None:
    body = address_message((3, b"eth0\0"), (8, bytes(4)), (1, packed("fd00::5")), (6, bytes(16)))
    assert _address(body) == ipaddress.ip_address("fd00::5")


def test_message_without_a_usable_address_is_none() -> None:
    assert _address(address_message((3, b"eth0\0"))) is None
    assert _address(address_message((1, b"\x0a\0\0"))) is None
    assert _address(bytes(8)) is None


def test_messages_follow_each_other_on_boundaries_of_four_bytes() -> None:
    def message(kind: int, body: bytes) -> bytes:
        head = struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0)
        return head + body + bytes(-len(body) % 4)

    data = message(20, b"12345") + message(20, b"") + message(3, b"1234")
    assert list(_messages(data)) == [(20, b"12345"), (20, b""), (3, b"1234")]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_an_end(data: bytes) -> None:
    for _, body in _messages(data):
        assert len(body) <= len(data)
    found = _address(data)
    assert found is None or found.version in {4, 6}
