import threading
from collections.abc import Iterator

import pytest

from isthmus.gateway.loop import Loop
from isthmus.gateway.resolve import NAME_TTL, Resolver, is_address
from support.gateway import DEADLINE


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class Names:
    """A name service: answers from a table, counts questions, can be made to wait."""

    def __init__(self, **known: list[str]) -> None:
        self.known = known
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def lookup(self, host: str) -> list[str]:
        self.asked.append(host)
        assert self.open.wait(DEADLINE)
        if host not in self.known:
            raise OSError(f"{host} is unknown")
        return self.known[host]


def resolve(loop: Loop, resolver: Resolver, host: str) -> list[str]:
    answers: list[list[str]] = []
    resolver.resolve(host, answers.append)
    while not answers:
        loop.turn()
    return answers[0]


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1%lo"])
def test_address_is_its_own_answer_at_once(host: str, loop: Loop) -> None:
    answers: list[list[str]] = []
    Resolver(loop, Names().lookup).resolve(host, answers.append)
    assert (answers, is_address(host)) == ([[host]], True)


def test_answer_is_remembered_for_its_time(loop: Loop) -> None:
    names = Names(gateway=["192.0.2.1", "192.0.2.2"])
    resolver = Resolver(loop, names.lookup)
    assert resolve(loop, resolver, "gateway") == ["192.0.2.1", "192.0.2.2"]
    assert resolve(loop, resolver, "gateway") == ["192.0.2.1", "192.0.2.2"]
    assert names.asked == ["gateway"]
    names.known = {"gateway": ["192.0.2.3"]}
    loop.now += NAME_TTL + 1
    assert resolve(loop, resolver, "gateway") == ["192.0.2.3"]


def test_old_answer_serves_when_the_name_no_longer_resolves(loop: Loop) -> None:
    names = Names(gateway=["192.0.2.1"])
    resolver = Resolver(loop, names.lookup)
    resolve(loop, resolver, "gateway")
    names.known = {}
    loop.now += NAME_TTL + 1
    assert resolve(loop, resolver, "gateway") == ["192.0.2.1"]


def test_unknown_name_is_answered_with_nothing(loop: Loop) -> None:
    assert resolve(loop, Resolver(loop, Names().lookup), "gateway") == []


def test_questions_for_one_name_share_an_answer(loop: Loop) -> None:
    names = Names(gateway=["192.0.2.1"])
    names.open.clear()
    resolver = Resolver(loop, names.lookup)
    answers: list[list[str]] = []
    for _ in range(3):
        resolver.resolve("gateway", answers.append)
    names.open.set()
    while len(answers) < 3:
        loop.turn()
    assert names.asked == ["gateway"]
