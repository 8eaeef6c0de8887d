"""Answers come from the address that was asked; only real sockets show that."""

import asyncio
import socket
from typing import Any

import pytest

from isthmus.dns.datagrams import AnyAddressPort

DEADLINE = 20.0


def has_six() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def echo(data: bytes, client: str, where: Any, port: AnyAddressPort) -> None:
    port.sendto(client.encode() + b" " + data, where)


async def ask(family: int, own: str, asked: str, port: int) -> tuple[bytes, str]:
    """What is answered, and from where."""
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((own, 0))
        async with asyncio.timeout(DEADLINE):
            await loop.sock_sendto(sock, b"hello", (asked, port))
            data, source = await loop.sock_recvfrom(sock, 100)
    return data, str(source[0])


@pytest.mark.parametrize("asked", ["127.0.0.1", "127.86.3.7", "127.86.3.8"])
async def test_answer_comes_from_the_address_that_was_asked(asked: str) -> None:
    port = AnyAddressPort("0.0.0.0", 0, echo)
    try:
        found = await ask(socket.AF_INET, "127.86.3.9", asked, port.port)
        assert found == (b"127.86.3.9 hello", asked)
    finally:
        port.close()


@pytest.mark.skipif(not has_six(), reason="this host has no IPv6")
async def test_answer_comes_from_the_address_of_the_other_family_too() -> None:
    port = AnyAddressPort("::", 0, echo)
    try:
        assert await ask(socket.AF_INET6, "::1", "::1", port.port) == (b"::1 hello", "::1")
        data, source = await ask(socket.AF_INET, "127.86.3.9", "127.86.3.7", port.port)
        assert (data, source) == (b"::ffff:127.86.3.9 hello", "127.86.3.7")
    finally:
        port.close()


async def test_closed_port_is_silent() -> None:
    port = AnyAddressPort("0.0.0.0", 0, echo)
    number = port.port
    port.close()
    port.close()
    port.sendto(b"late", (("127.0.0.1", number), []))
    again = AnyAddressPort("0.0.0.0", number, echo)
    with pytest.raises(OSError, match="in use"):
        AnyAddressPort("0.0.0.0", number, echo)
    again.close()
