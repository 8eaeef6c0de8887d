"""A gateway in a thread, between real sockets on loopback."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from isthmus.gateway.config import GatewayConfig
from isthmus.mesh.routes import RouteTable
from support.gateway import Backend, BackendMaker, Gateway, GatewayMaker, Talk, say_and_echo


@pytest.fixture
def make_backend() -> Iterator[BackendMaker]:
    """Start backends: a name for one that says it and echoes, or what it shall do."""
    with contextlib.ExitStack() as stack:

        def make(talk: bytes | Talk) -> Backend:
            backend = Backend(say_and_echo(talk) if isinstance(talk, bytes) else talk)
            stack.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def make_gateway() -> Iterator[GatewayMaker]:
    """Start gateways; arguments replace values of the default configuration."""
    with contextlib.ExitStack() as stack:

        def make(table: RouteTable, **config: Any) -> Gateway:
            gateway = Gateway(
                table, dataclasses.replace(GatewayConfig(drain_timeout=0.1), **config)
            )
            stack.callback(gateway.close)
            return gateway

        yield make
