"""A running server."""

from collections.abc import AsyncIterator

import pytest

from isthmus.server.server import Server
from support.servers import make_server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server in memory that leads."""
    server = make_server()
    await server.start()
    yield server
    await server.stop()
