"""One moment per key, against a plain dict."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.server.deadlines import Deadlines

STEPS = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 4), st.integers(0, 20)),
    st.tuples(st.just("discard"), st.integers(0, 4), st.just(0)),
    st.tuples(st.just("take"), st.integers(1, 3), st.integers(0, 20)),
)


@given(st.lists(STEPS))
def test_whatever_is_moved_and_forgotten_the_earliest_comes_first(
    steps: list[tuple[str, int, int]],
) -> None:
    deadlines: Deadlines[int] = Deadlines()
    known: dict[int, float] = {}
    for step, key, at in steps:
        if step == "set":
            deadlines.set(key, at)
            known[key] = at
        elif step == "discard":
            deadlines.discard(key)
            known.pop(key, None)
        else:
            taken = deadlines.take_due(at, count_max=key)
            moments = [known.pop(one) for one in taken]
            assert moments == sorted(moments)
            assert all(moment <= at for moment in moments)
            assert len(taken) == key or all(moment > at for moment in known.values())
        assert deadlines.next() == min(known.values(), default=None)
        assert len(deadlines) == len(known)
        assert all(one in deadlines for one in known)


def test_moving_a_moment_over_and_over_takes_no_memory() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for round_number in range(10_000):
        deadlines.set("renewed", float(round_number))
        deadlines.set("comes and goes", float(round_number))
        deadlines.discard("comes and goes")
    assert deadlines.next() == 9_999.0
    assert deadlines.heap_size < 200


def test_keys_need_not_compare() -> None:
    deadlines: Deadlines[object] = Deadlines()
    first, second = object(), object()
    deadlines.set(first, 1.0)
    deadlines.set(second, 1.0)
    assert deadlines.take_due(1.0, count_max=5) == [first, second]
    deadlines.set(first, 2.0)
    deadlines.clear()
    assert (deadlines.next(), len(deadlines)) == (None, 0)
