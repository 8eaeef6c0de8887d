"""Firing user events at a server."""

import pytest

from isthmus.errors import InvalidRequest, Unavailable
from isthmus.model.event import EventFireRequest, EventFireResponse
from isthmus.model.keyring import KeyringRequest, KeyringResponse
from support.servers import make_server


class Pools:
    """The LAN pool, as far as it spreads events."""

    def __init__(self) -> None:
        self.fired: list[tuple[str, bytes]] = []
        self.failure: Exception | None = None

    async def fire(self, name: str, payload: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.fired.append((name, payload))

    async def keys(self, request: KeyringRequest, *, wan: bool) -> KeyringResponse | None:
        raise AssertionError("not asked for")


async def test_event_goes_to_the_lan_pool_under_consuls_name() -> None:
    pools = Pools()
    server = make_server(gossip=pools)
    await server.start()
    request = EventFireRequest(datacenter="dc1", name="deploy", payload=b"\x84any")
    reply = await server.call("Internal.EventFire", request)
    assert isinstance(reply, EventFireResponse)
    assert (reply.known_leader, reply.index) == (True, max(server.store.index, 1))
    assert pools.fired == [("consul:event:deploy", b"\x84any")]
    await server.stop()


async def test_event_that_is_too_long_is_the_callers_fault() -> None:
    pools = Pools()
    pools.failure = InvalidRequest("too long")
    server = make_server(gossip=pools)
    with pytest.raises(InvalidRequest, match="too long"):
        await server.call("Internal.EventFire", EventFireRequest(name="x"))


async def test_server_without_pools_says_so() -> None:
    with pytest.raises(Unavailable, match="no gossip pool"):
        await make_server().call("Internal.EventFire", EventFireRequest(name="x"))
