"""The judge of histories is judged by histories whose verdict is known, and by brute force."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.linearizability import FOREVER, Operation, TooHard, check_register


def read(start: float, end: float, value: object) -> Operation:
    return Operation(start, end, "read", value)


def write(start: float, end: float, value: object) -> Operation:
    return Operation(start, end, "write", value)


def cas(
    start: float, end: float, expected: object, value: object, *, done: bool | None
) -> Operation:
    return Operation(start, end, "cas", value, expected, done)


GOOD = {
    "nothing": [],
    "read of what was never written": [read(0, 1, None)],
    "one after the other": [write(0, 1, "a"), read(2, 3, "a"), write(4, 5, "b"), read(6, 7, "b")],
    "read beside a write, before it": [write(0, 9, "a"), read(1, 2, None)],
    "read beside a write, after it": [write(0, 9, "a"), read(1, 2, "a")],
    "two reads beside a write": [write(0, 9, "a"), read(1, 2, None), read(3, 4, "a")],
    "writes beside each other in any order": [
        write(0, 9, "a"),
        write(0, 9, "b"),
        read(10, 11, "a"),
    ],
    "first cas wins": [
        cas(0, 9, None, "a", done=True),
        cas(0, 9, None, "b", done=False),
        read(10, 11, "a"),
    ],
    "cas after cas": [cas(0, 1, None, "a", done=True), cas(2, 3, "a", "b", done=True)],
    "unknown write that was": [write(0, FOREVER, "a"), read(5, 6, None), read(7, 8, "a")],
    "unknown write that never was": [write(0, FOREVER, "a"), read(5, 6, None)],
    "unknown cas that was": [
        write(0, 1, "a"),
        cas(2, FOREVER, "a", "b", done=None),
        cas(3, 4, "a", "c", done=False),
        read(5, 6, "b"),
    ],
    "unknown read": [write(0, 1, "a"), Operation(2, FOREVER, "read", None)],
    "unknown write that explains a failed cas": [
        write(0, 1, "a"),
        write(2, FOREVER, "b"),
        cas(3, 4, "a", "c", done=False),
    ],
}
BAD = {
    "stale read": [write(0, 1, "a"), write(2, 3, "b"), read(4, 5, "a")],
    "lost write": [write(0, 1, "a"), read(2, 3, None)],
    "read of what nobody wrote": [write(0, 1, "a"), read(2, 3, "b")],
    "reads that go back in time": [write(0, 9, "a"), read(1, 2, "a"), read(3, 4, None)],
    "two cas win": [cas(0, 9, None, "a", done=True), cas(0, 9, None, "b", done=True)],
    "cas fails without a reason": [write(0, 1, "a"), cas(2, 3, "a", "b", done=False)],
    "cas that took effect is said to have failed": [
        write(0, 1, "a"),
        cas(2, 3, "a", "b", done=False),
        read(4, 5, "b"),
    ],
    "unknown write is undone": [write(0, FOREVER, "a"), read(1, 2, "a"), read(3, 4, None)],
    "unknown write before its call": [read(0, 1, "a"), write(2, FOREVER, "a")],
    "unknown write happens twice": [
        write(0, FOREVER, "a"),
        read(1, 2, "a"),
        write(3, 4, "b"),
        read(5, 6, "b"),
        read(7, 8, "a"),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_linearizable(name: str) -> None:
    assert check_register(GOOD[name]).linearizable


@pytest.mark.parametrize("name", BAD)
def test_not_linearizable(name: str) -> None:
    verdict = check_register(BAD[name])
    assert not verdict.linearizable
    assert verdict.stuck


def test_many_operations_at_once_do_not_take_all_their_orders() -> None:
    writes = [write(0, 100, number) for number in range(12)]
    verdict = check_register([*writes, read(101, 102, 3), read(103, 104, 4)])
    assert not verdict.linearizable
    assert verdict.tried < 250_000


def test_too_many_steps_are_an_error_and_no_verdict() -> None:
    writes = [write(0, 100, number) for number in range(14)]
    with pytest.raises(TooHard):
        check_register([*writes, read(101, 102, "never")], steps_max=100)


def by_brute_force(history: list[Operation]) -> bool:
    """All orders of all subsets that hold what must have happened."""
    unknown = [operation for operation in history if operation.returned_at == FOREVER]
    known = [operation for operation in history if operation.returned_at != FOREVER]
    for chosen in range(1 << len(unknown)):
        happened = known + [op for number, op in enumerate(unknown) if chosen >> number & 1]
        if any(_fits(order) for order in permutations(happened)):
            return True
    return False


def _fits(order: tuple[Operation, ...]) -> bool:
    state: object = None
    for number, operation in enumerate(order):
        if any(later.returned_at < operation.called_at for later in order[number + 1 :]):
            return False
        if operation.kind == "read" and operation.value != state:
            return False
        if operation.kind == "cas":
            if (operation.succeeded is not False) != (operation.expected == state):
                return False
            if operation.succeeded is False:
                continue
        if operation.kind != "read":
            state = operation.value
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    found = []
    for number in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, 8))
        end: float = start + draw(st.integers(1, 6))
        kind = draw(st.sampled_from(["read", "write", "cas"]))
        seen = draw(st.sampled_from([None, 0, 1, 2, 3, 4]))
        if kind == "read":
            found.append(read(start, end, seen))
            continue
        done: bool | None = draw(st.booleans())
        if draw(st.integers(0, 3)) == 0:
            end, done = FOREVER, None
        if kind == "write":
            found.append(write(start, end, number))
        else:
            found.append(cas(start, end, seen, number, done=done))
    return found


@given(histories())
def test_verdict_is_that_of_brute_force(history: list[Operation]) -> None:
    assert check_register(history).linearizable == by_brute_force(history)
