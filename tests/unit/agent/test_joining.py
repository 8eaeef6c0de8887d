"""Which pools an agent joins, and for how long it tries, on virtual time."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from isthmus.agent.join import JoinGaveUp
from isthmus.agent.joining import Joining
from isthmus.config.model import AgentConfig, JoinConfig
from isthmus.errors import Unavailable
from support.virtual_loop import run_virtual


class FakePool:
    """Reaches whom it is told to; records who was asked for."""

    def __init__(self, *reachable: str) -> None:
        self.reachable = set(reachable)
        self.asked: list[Sequence[str]] = []

    async def join(self, addresses: Sequence[str]) -> int:
        self.asked.append(tuple(addresses))
        if not self.reachable & set(addresses):
            raise Unavailable("nobody there")
        return 1


def run_for_a_minute(join: JoinConfig, lan: Any, wan: Any = None) -> list[str]:
    """What the duties end with: nothing for one that joined or goes on trying."""

    async def play() -> list[str]:
        joining = Joining(
            replace(AgentConfig(), join=join),
            None,
            known_dcs=set,
            lan=lan,
            wan=wan,
            rng=Random(1),
        )
        ended: list[str] = []
        for duty in joining.duties():
            try:
                async with asyncio.timeout(60.0):
                    await duty
            except JoinGaveUp as error:
                ended.append(str(error))
            except TimeoutError:
                pass
        return ended

    return run_virtual(play())


def test_start_join_is_tried_once_and_stops_the_agent() -> None:
    lan = FakePool("b")
    (text,) = run_for_a_minute(JoinConfig(start_join=("a",), retry_join=("b",)), lan)
    assert text == (
        "could not join the LAN pool in 1 attempt (start_join); "
        "check that one of these is reachable: a"
    )
    assert lan.asked == [("a",), ("b",)]


def test_start_join_of_the_wan_pool_too() -> None:
    wan = FakePool()
    (text,) = run_for_a_minute(JoinConfig(start_join_wan=("a",)), FakePool(), wan)
    assert "WAN pool in 1 attempt (start_join_wan)" in text
    assert wan.asked == [("a",)]


def test_one_address_that_answers_is_enough() -> None:
    assert run_for_a_minute(JoinConfig(start_join=("a", "b")), FakePool("b")) == []


@pytest.mark.parametrize("key", ["retry_join", "retry_join_wan"])
def test_retry_join_goes_on(key: str) -> None:
    lan, wan = FakePool(), FakePool()
    assert run_for_a_minute(JoinConfig(**{key: ("a",)}), lan, wan) == []  # type: ignore[arg-type]
    assert len(lan.asked + wan.asked) > 3
