import asyncio

from isthmus.http.connections import (
    CONNECTIONS_MAX,
    REFUSALS_TOLD_MAX,
    TURN_SIZE_MAX,
    Admission,
    Connections,
)
from isthmus.net.tasks import TaskScope
from support.http import FakeConnection


def make(per_client_max: int = 2) -> Connections:
    dates = iter(f"date {number}" for number in range(100))
    return Connections(per_client_max=per_client_max, clock=lambda: next(dates), tasks=TaskScope())


def test_each_client_has_its_own_limit() -> None:
    table = make()
    first, second, third = FakeConnection(), FakeConnection(), FakeConnection()
    assert table.admit(first, "a") is Admission.WELCOME
    assert table.admit(second, "a") is Admission.WELCOME
    assert table.admit(third, "a") is Admission.CLIENT_FULL
    assert table.admit(third, "b") is Admission.WELCOME
    table.remove(first, "a")
    assert table.admit(first, "a") is Admission.WELCOME
    assert len(table) == 3


def test_a_flood_is_not_told_why_it_is_refused() -> None:
    table = make(1)
    assert not table.ignores("a", 0.0)
    table.admit(FakeConnection(), "a")
    told = [table.ignores("a", 0.5) for _ in range(REFUSALS_TOLD_MAX + 3)]
    assert told == [False] * REFUSALS_TOLD_MAX + [True] * 3
    assert not table.ignores("b", 0.5)
    assert not table.ignores("a", 1.5)


def test_refused_connection_frees_nothing() -> None:
    table = make(1)
    kept, refused = FakeConnection(), FakeConnection()
    table.admit(kept, "a")
    table.admit(refused, "a")
    table.remove(refused, "a")
    assert table.admit(refused, "a") is Admission.CLIENT_FULL
    assert table.each() == [kept]


def test_unix_sockets_have_no_limit_of_a_client() -> None:
    table = make(1)
    assert [table.admit(FakeConnection(), "") for _ in range(5)] == [Admission.WELCOME] * 5


def test_all_together_have_a_limit() -> None:
    table = make()
    for number in range(CONNECTIONS_MAX):
        table.admit(FakeConnection(), f"a{number}")
    assert table.admit(FakeConnection(), "b") is Admission.FULL


def test_date_is_formatted_once_a_second() -> None:
    table = make()
    assert [table.date(now) for now in (5.0, 5.9, 6.1)] == ["date 0", "date 0", "date 1"]


async def test_who_had_much_lets_others_go_first() -> None:
    """One address asks for three large answers at once, another for one in the same turn."""
    tasks = TaskScope()
    connections = Connections(per_client_max=10, clock=str, tasks=tasks)
    order: list[str] = []

    async def answer(peer: str) -> None:
        await connections.take_turn(peer)
        order.append(peer)
        connections.note_answer(peer, TURN_SIZE_MAX + 1)

    for peer in ("greedy", "greedy", "greedy", "modest"):
        tasks.spawn(answer(peer))
    async with asyncio.timeout(5):
        while len(tasks):  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert order == ["greedy", "modest", "greedy", "greedy"]


async def test_a_large_answer_is_sat_out_for_as_many_turns_as_it_is_large() -> None:
    connections = Connections(per_client_max=10, clock=str, tasks=TaskScope())
    connections.note_answer("one", 10 * TURN_SIZE_MAX)
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(count)

    count()
    await connections.take_turn("other")
    assert turns == 1
    await connections.take_turn("one")
    assert turns == 10
    await asyncio.sleep(0)
    assert not connections._answered


async def test_small_answers_share_a_turn() -> None:
    connections = Connections(per_client_max=10, clock=str, tasks=TaskScope())
    turns: list[str] = []
    asyncio.get_running_loop().call_soon(turns.append, "next")
    for _ in range(100):
        await connections.take_turn("one")
        connections.note_answer("one", TURN_SIZE_MAX // 100)
    assert turns == []
