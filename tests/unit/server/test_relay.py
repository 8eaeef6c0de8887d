"""Calls for the leader, on virtual time: who answers, how long they are held, what is repeated."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest

from isthmus.errors import (
    ConnectionLost,
    DialFailed,
    IsthmusError,
    NoLeader,
    ProtocolError,
    RemoteError,
    RequestError,
)
from isthmus.model.kv import KeyRequest, KVSRequest
from isthmus.net.client import ServerTarget
from isthmus.server.forward import HOLD_TIME
from isthmus.server.leader_search import LeaderSearch
from isthmus.server.relay import RETRY_MAX, LeaderRelay
from isthmus.server.replica import CONFIRMED_MAX, Replica
from isthmus.store.engine import LeaderInfo
from support.virtual_loop import now, run_virtual

US = LeaderInfo("id-s1", "s1", "10.0.0.1:8300")
OTHER = LeaderInfo("id-s2", "s2", "10.0.0.2:8300")
READ = ("KVS.Get", KeyRequest(datacenter="dc1", key="k"))
WRITE = ("KVS.Apply", KVSRequest(datacenter="dc1"))


def dial_failed() -> DialFailed:
    return DialFailed("refused", dc="", node="s2", gateway="", step="connect")


class Play:
    """A server ``s1`` and what the others say; stands in for replica, caller and search."""

    def __init__(
        self, leader: LeaderInfo | None, *answers: object, hold_time: float = HOLD_TIME
    ) -> None:
        self.leader, self.answers = leader, list(answers)
        self.sure = self.is_loaded = True
        self.last_contact = 0.0
        self.found: ServerTarget | None = None
        self.asked: list[str] = []
        self._changed = asyncio.Event()
        self.relay = LeaderRelay(
            cast(Replica, self),
            caller=self,
            search=cast(LeaderSearch, self),
            dc="dc1",
            server_id="id-s1",
            rng=Random(1),
            hold_time=hold_time,
        )

    @property
    def is_leader(self) -> bool:
        return self.leader is US

    def is_sure(self) -> bool:
        return self.is_leader and self.sure

    async def leader_changed(self, timeout: float) -> None:
        assert 0 < timeout <= RETRY_MAX
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    def elect(self, leader: LeaderInfo) -> None:
        self.leader = leader
        self._changed.set()

    async def find(self) -> ServerTarget | None:
        return self.found

    async def call(self, target: ServerTarget, *args: Any, **options: Any) -> Any:
        self.asked.append(target.node)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, IsthmusError):
            raise answer
        return answer

    async def here(self) -> object:
        return "here"

    async def answer(self, call: tuple[str, Any] = READ) -> object:
        return await self.relay.call(*call, self.here)


def run(play: Callable[[], Any]) -> Any:
    async def running() -> Any:
        return await play()

    return run_virtual(running())


@pytest.mark.parametrize("call", [READ, WRITE])
def test_leader_answers_itself(call: tuple[str, Any]) -> None:
    async def play() -> None:
        assert await Play(US).answer(call) == "here"

    run(play)


@pytest.mark.parametrize("call", [READ, WRITE])
def test_follower_has_the_leader_answer(call: tuple[str, Any]) -> None:
    async def play() -> None:
        others = Play(OTHER, "there")
        assert await others.answer(call) == "there"
        assert (others.asked, now()) == (["s2"], 0.0)

    run(play)


def test_leader_that_is_not_sure_to_lead_reads_nothing_here() -> None:
    async def play() -> None:
        others = Play(US, "there")
        others.sure = False
        others.found = ServerTarget("dc1", "s3", "10.0.0.3", 8300)
        assert await others.answer() == "there"
        assert others.asked == ["s3"]
        assert await others.answer(WRITE) == "here"  # Its commit will tell.

    run(play)


def test_leader_is_searched_for_when_the_storage_was_not_heard_lately() -> None:
    async def play() -> None:
        others = Play(OTHER, "there")
        others.last_contact = CONFIRMED_MAX + 0.1
        others.found = ServerTarget("dc1", "s3", "10.0.0.3", 8300)
        await others.answer()
        others.found = None  # Nobody says so of itself: what we heard last is all there is.
        await others.answer()
        assert others.asked == ["s3", "s2"]

    run(play)


@pytest.mark.parametrize("call", [READ, WRITE])
def test_calls_are_held_while_nobody_leads_then_fail_with_consuls_words(
    call: tuple[str, Any],
) -> None:
    async def play() -> None:
        with pytest.raises(NoLeader) as caught:
            await Play(None).answer(call)
        assert str(caught.value) == "No cluster leader"
        assert now() == pytest.approx(HOLD_TIME)
        with pytest.raises(NoLeader):
            await Play(None, hold_time=2.0).answer(call)
        assert now() == pytest.approx(HOLD_TIME + 2.0)

    run(play)


@pytest.mark.parametrize(("leader", "answer"), [(US, "here"), (OTHER, "there")])
def test_held_calls_go_on_as_soon_as_somebody_leads(leader: LeaderInfo, answer: str) -> None:
    async def play() -> None:
        others = Play(None, "there")
        asyncio.get_running_loop().call_later(3.0, others.elect, leader)
        assert await others.answer(WRITE) == answer
        assert now() == 3.0

    run(play)


def test_server_that_leads_no_more_is_asked_again_until_calls_are_held_no_longer() -> None:
    async def play() -> None:
        others = Play(OTHER, RemoteError("No cluster leader"), RemoteError("No cluster leader"), 1)
        assert await others.answer(WRITE) == 1
        assert len(others.asked) == 3
        others = Play(OTHER, RemoteError("No cluster leader"))
        with pytest.raises(NoLeader):
            await others.answer(WRITE)

    run(play)


def test_error_of_the_leader_is_its_callers() -> None:
    async def play() -> None:
        others = Play(OTHER, RemoteError("Missing node name"))
        with pytest.raises(RemoteError, match="Missing node name"):
            await others.answer(WRITE)
        assert (len(others.asked), now()) == (1, 0.0)

    run(play)


@pytest.mark.parametrize("failure", [ConnectionLost("broken"), ProtocolError("garbage")])
def test_read_is_repeated_when_its_connection_breaks_and_a_write_is_not(
    failure: IsthmusError,
) -> None:
    async def play() -> None:
        others = Play(OTHER, failure, "there")
        assert await others.answer() == "there"
        others = Play(OTHER, failure)
        with pytest.raises(type(failure)):
            await others.answer(WRITE)
        assert len(others.asked) == 1

    run(play)


@pytest.mark.parametrize("call", [READ, WRITE])
def test_leader_that_cannot_be_reached_is_tried_for_as_long(call: tuple[str, Any]) -> None:
    async def play() -> None:
        others = Play(OTHER, dial_failed(), dial_failed(), "there")
        assert await others.answer(call) == "there"
        started = now()
        with pytest.raises(DialFailed):
            await Play(OTHER, dial_failed()).answer(call)
        assert now() - started == pytest.approx(HOLD_TIME)

    run(play)


def test_server_that_stops_holds_no_calls() -> None:
    async def play() -> None:
        others = Play(None)
        asyncio.get_running_loop().call_later(1.0, others.relay.close)
        with pytest.raises(NoLeader):
            await others.answer()
        assert now() <= 1.0 + RETRY_MAX

    run(play)


def test_refusal_of_our_own_is_not_repeated() -> None:
    async def play() -> None:
        others = Play(US)

        async def refuse() -> object:
            raise RequestError("no")

        with pytest.raises(RequestError, match="no"):
            await others.relay.call(*WRITE, refuse)

    run(play)
