"""Servers at their own addresses, without gateways; and failed dials in words."""

import os
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

from isthmus.errors import (
    ALPN,
    CONNECT,
    DEADLINE,
    NO_ROUTE,
    TLS,
    DialFailed,
    located,
)
from isthmus.names import host_port, server_name
from isthmus.net.client import ServerTarget
from isthmus.net.multiplex import MultiplexProtocol
from isthmus.net.network import Network, TlsDial
from isthmus.net.tls import AlpnRefused, HandshakeEnded, describe
from isthmus.rpc.sniff import TypeByte

M = TypeVar("M", bound=MultiplexProtocol)

_MULTI: Final = bytes([TypeByte.RPC_MULTI])
_TLS: Final = bytes([TypeByte.TLS])


class DirectDialer:
    """Dials servers at their own addresses: type byte 4, or 3 and TLS and 4.

    Args:
        network: Where to dial.
        tls: Whether to speak TLS (``verify_outgoing``).
        check_name: Whether the server's certificate must name ``server.<dc>.<domain>``
            (``verify_server_hostname``); otherwise only its chain is checked.
        domain: DNS domain of the federation.
        source_host: Address to bind to; empty: the system's choice.
    """

    def __init__(
        self,
        network: Network,
        *,
        tls: bool = False,
        check_name: bool = False,
        domain: str = "consul",
        source_host: str = "",
    ) -> None:
        self._network, self._tls, self._check_name = network, tls, check_name
        self._domain, self._source_host = domain, source_host

    async def dial_server(
        self, factory: Callable[[], M], target: ServerTarget, *, timeout: float
    ) -> M:
        """See `ServerDialer.dial_server`."""
        name = server_name(target.dc, self._domain) if self._check_name else ""
        try:
            protocol = await self._network.dial(
                factory,
                target.host,
                target.port,
                tls=TlsDial(name) if self._tls else None,
                timeout=timeout,
                source_host=self._source_host,
                preamble=_TLS if self._tls else b"",
            )
        except OSError as error:
            text, step = explain_dial(error, host_port(target.host, target.port))
            dc, node = target.dc, target.node
            raise DialFailed(
                located(text, dc=dc, node=node, gateway="", step=step),
                dc=dc,
                node=node,
                gateway="",
                step=step,
            ) from error
        protocol.transport.write(_MULTI)
        return protocol


def explain_dial(error: OSError, address: str) -> tuple[str, str]:
    """Text of a failed dial to `address`, and the step that failed, as `DialFailed` names it.

    The text begins as Go's does.
    """
    if isinstance(error, AlpnRefused):
        return f"dial tcp {address}: {error}", ALPN
    if isinstance(error, HandshakeEnded):
        return f"dial tcp {address}: TLS: {error}", NO_ROUTE
    if isinstance(error, ssl.SSLError):
        return f"dial tcp {address}: TLS: {describe(error)}", TLS
    if isinstance(error, TimeoutError):
        return f"dial tcp {address}: i/o timeout: {error}", DEADLINE
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    reason = (reason or type(error).__name__).lower()
    return f"dial tcp {address}: connect: {reason}", CONNECT
