"""Gossip keys of all pools at once; on virtual time."""

import asyncio
import base64
from typing import Any

import pytest

from isthmus.errors import NoPathToDatacenter, RemoteError, RequestError, Unavailable
from isthmus.model.federation import FederationState, FederationStateRequest
from isthmus.model.keyring import (
    INSTALL,
    LIST,
    KeyringRequest,
    KeyringResponse,
    KeyringResponses,
)
from isthmus.server.endpoints.keyring import FAN_OUT_MAX, FAN_OUT_TIMEOUT, NO_ANSWER
from support.servers import make_server
from support.virtual_loop import now, run_virtual

KEY = base64.b64encode(bytes(range(32))).decode()


def listed(dc: str, *, wan: bool = False, count: int = 1) -> KeyringResponse:
    return KeyringResponse(
        wan=wan, datacenter=dc, keys={KEY: count}, primary_keys={KEY: count}, num_nodes=count
    )


class Pools:
    """Both pools of a server: each answers after a while."""

    def __init__(self) -> None:
        self.asked: list[tuple[KeyringRequest, bool]] = []
        self.has_wan = True
        self.failure: Exception | None = None

    async def fire(self, name: str, payload: bytes) -> None:
        raise AssertionError("not asked for")

    async def keys(self, request: KeyringRequest, *, wan: bool) -> KeyringResponse | None:
        self.asked.append((request, wan))
        await asyncio.sleep(3)
        if self.failure is not None:
            raise self.failure
        return listed("dc1", wan=wan) if self.has_wan or not wan else None


class Remote:
    """Other datacenters: each answers after a while, or not at all."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.requests: list[tuple[str, str, KeyringRequest]] = []
        self.failures: dict[str, Exception] = {}
        self.silent: set[str] = set()
        self.running = self.running_max = 0

    def datacenters(self) -> tuple[str, ...]:
        return ("dc1", *self.names)

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        assert reply is KeyringResponses
        self.requests.append((dc, method, request))
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            await asyncio.sleep(1e6 if dc in self.silent else 4)
        finally:
            self.running -= 1
        if dc in self.failures:
            raise self.failures[dc]
        if dc not in self.names:
            raise NoPathToDatacenter(dc)
        return KeyringResponses(responses=(listed(dc, count=3),))


def ask(
    request: KeyringRequest, pools: Pools, remote: Remote | None = None, *states: str
) -> tuple[float, list[KeyringResponse]]:
    """Ask a server; when it answered and what."""

    async def main() -> tuple[float, list[KeyringResponse]]:
        server = make_server(gossip=pools, forward=remote)
        await server.start()
        for dc in states:
            state = FederationState(datacenter=dc)
            await server.apply(FederationStateRequest(datacenter="dc1", op="upsert", state=state))
        started = now()
        try:
            reply = await server.call("Internal.KeyringOperation", request)
        finally:
            await server.stop()
        assert isinstance(reply, KeyringResponses)
        return now() - started, list(reply.responses or ())

    return run_virtual(main())


def test_every_pool_is_asked_at_the_same_time() -> None:
    pools, remote = Pools(), Remote("dc3", "dc2")
    took, answers = ask(KeyringRequest(datacenter="dc1", operation=LIST, token="t"), pools, remote)
    assert took == 4
    assert answers == [
        listed("dc1", wan=True), listed("dc1"), listed("dc2", count=3), listed("dc3", count=3),
    ]  # fmt: skip
    assert [(request.forwarded, wan) for request, wan in pools.asked] == [
        (True, True),
        (True, False),
    ]
    dc, method, request = remote.requests[0]
    assert (dc, method) == ("dc2", "Internal.KeyringOperation")
    assert (request.datacenter, request.forwarded, request.token) == ("dc2", True, "t")


def test_datacenter_that_fails_is_named_and_hides_nobody() -> None:
    remote = Remote("dc2", "dc3", "dc4")
    remote.failures["dc3"] = RemoteError("rpc error making call: Permission denied")
    remote.silent.add("dc4")
    request = KeyringRequest(operation=INSTALL, key=KEY)
    took, answers = ask(request, Pools(), remote)
    assert took == FAN_OUT_TIMEOUT
    assert [(one.datacenter, one.error) for one in answers[1:]] == [
        ("dc1", ""), ("dc2", ""), ("dc3", NO_ANSWER), ("dc4", NO_ANSWER),
    ]  # fmt: skip
    assert answers[3].messages == {"dc3": "rpc error making call: Permission denied"}
    assert answers[4].messages == {"dc4": "no answer within 30 s"}
    assert (answers[4].keys, answers[4].num_nodes) == ({}, 0)


def test_datacenter_of_which_only_a_federation_state_is_left_is_named() -> None:
    _, answers = ask(KeyringRequest(operation=LIST), Pools(), Remote("dc2"), "dc1", "dc2", "dc9")
    assert [one.datacenter for one in answers] == ["dc1", "dc1", "dc2", "dc9"]
    assert answers[3].messages == {"dc9": "No path to datacenter"}


def test_without_any_way_to_others_they_are_named() -> None:
    _, answers = ask(KeyringRequest(operation=LIST), Pools(), None, "dc2")
    assert [(one.datacenter, one.error) for one in answers[2:]] == [("dc2", NO_ANSWER)]


def test_many_datacenters_are_not_all_asked_at_once() -> None:
    remote = Remote(*(f"dc{number}" for number in range(2, FAN_OUT_MAX * 2)))
    took, answers = ask(KeyringRequest(operation=LIST), Pools(), remote)
    assert (took, remote.running_max) == (8, FAN_OUT_MAX)
    assert len(answers) == FAN_OUT_MAX * 2
    assert not any(one.error for one in answers)


@pytest.mark.parametrize("field", ["forwarded", "local_only"])
def test_only_the_lan_pool_answers_when_that_is_meant(field: str) -> None:
    pools, remote = Pools(), Remote("dc2")
    _, answers = ask(KeyringRequest(operation=LIST, **{field: True}), pools, remote)  # type: ignore[arg-type]
    assert answers == [listed("dc1")]
    assert [wan for _, wan in pools.asked] == [False]
    assert remote.requests == []


def test_server_without_a_wan_pool_answers_for_the_rest() -> None:
    pools = Pools()
    pools.has_wan = False
    _, answers = ask(KeyringRequest(operation=LIST), pools)
    assert answers == [listed("dc1")]


def test_pool_of_ours_that_fails_is_named_too() -> None:
    pools = Pools()
    pools.failure = Unavailable("the gossip thread does not run")
    _, answers = ask(KeyringRequest(operation=LIST), pools, Remote("dc2"))
    assert [(one.pool, one.error) for one in answers] == [
        ("WAN", NO_ANSWER), ("dc1 (LAN)", NO_ANSWER), ("dc2 (LAN)", ""),
    ]  # fmt: skip
    assert answers[0].messages == {"dc1": "the gossip thread does not run"}


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (KeyringRequest(operation="rotate"), 'unknown keyring operation "rotate"'),
        (KeyringRequest(operation=LIST, relay_factor=6), "Relay factor must be in range"),
        (KeyringRequest(operation=INSTALL, key=KEY, local_only=True), "LocalOnly can only"),
        (KeyringRequest(operation=INSTALL, key="?"), "invalid gossip key: illegal base64 data"),
        (KeyringRequest(operation=INSTALL, key="aGk="), "it has 2 bytes, not 16, 24 or 32"),
        (KeyringRequest(operation=INSTALL), "it has 0 bytes"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(
    request_: KeyringRequest, text: str
) -> None:
    pools, remote = Pools(), Remote("dc2")
    with pytest.raises(RequestError) as caught:
        ask(request_, pools, remote)
    assert text in str(caught.value)
    assert "aGk" not in str(caught.value)
    assert (pools.asked, remote.requests) == ([], [])
