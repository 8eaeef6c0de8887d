import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.gossip.broadcast import SCAN_MAX, BroadcastQueue, transmission_limit


def take(queue: BroadcastQueue, *, budget: int = 1000, members: int = 5) -> list[bytes]:
    return [b.data for b in queue.take(budget, overhead=2, member_count=members)]


@pytest.mark.parametrize(("members", "limit"), [(1, 4), (9, 4), (10, 8), (99, 8), (999, 12)])
def test_limit_grows_with_the_logarithm_of_the_pool(members: int, limit: int) -> None:
    """protocol/gossip.md §7."""
    assert transmission_limit(4, members) == limit


def test_rumour_is_sent_as_often_as_allowed() -> None:
    queue = BroadcastQueue(4)
    queue.queue(b"x")
    assert [take(queue) for _ in range(5)] == [[b"x"]] * 4 + [[]]


def test_least_sent_then_longest_then_newest_comes_first() -> None:
    queue = BroadcastQueue(4)
    queue.queue(b"old")
    assert take(queue) == [b"old"]
    queue.queue(b"longer")
    queue.queue(b"abc")
    queue.queue(b"def")
    assert take(queue) == [b"longer", b"def", b"abc", b"old"]


def test_what_does_not_fit_waits() -> None:
    queue = BroadcastQueue(4)
    queue.queue(b"x" * 50)
    queue.queue(b"y")
    assert take(queue, budget=10) == [b"y"]
    assert take(queue, budget=52) == [b"x" * 50]


def test_newer_rumour_of_the_name_replaces_the_older() -> None:
    queue = BroadcastQueue(4)
    queue.queue(b"1", name="a", token=7)
    queue.queue(b"2", name="a")
    assert queue.take_finished() == [7]
    assert take(queue) == [b"2"]


def test_token_is_reported_once_the_rumour_is_sent_out() -> None:
    queue = BroadcastQueue(1)
    queue.queue(b"x", token=3)
    assert queue.take_finished() == []
    take(queue)
    assert queue.take_finished() == [3]
    assert queue.take_finished() == []


def test_failed_send_is_taken_back() -> None:
    queue = BroadcastQueue(1)
    queue.queue(b"x", name="a")
    (sent,) = queue.take(100, overhead=2, member_count=5)
    assert len(queue) == 0
    sent.restore()
    assert take(queue) == [b"x"]
    assert len(queue) == 0


def test_failed_send_of_a_replaced_rumour_stays_away() -> None:
    queue = BroadcastQueue(1)
    queue.queue(b"1", name="a")
    (sent,) = queue.take(100, overhead=2, member_count=5)
    queue.queue(b"2", name="a")
    sent.restore()
    assert take(queue) == [b"2"]
    assert len(queue) == 0


def test_prune_drops_those_sent_most() -> None:
    queue = BroadcastQueue(4)
    queue.queue(b"told")
    take(queue)
    queue.queue(b"new")
    assert queue.prune(1) == 1
    assert take(queue) == [b"new"]


def test_one_packet_takes_a_bounded_number() -> None:
    queue = BroadcastQueue(4)
    for number in range(SCAN_MAX + 10):
        queue.queue(bytes((number,)))
    assert len(take(queue, budget=10**6)) == SCAN_MAX


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=30), st.integers(1, 400))
def test_packet_never_exceeds_its_budget(rumours: list[bytes], budget: int) -> None:
    queue = BroadcastQueue(4)
    for rumour in rumours:
        queue.queue(rumour)
    while len(queue):
        taken = take(queue, budget=budget)
        assert sum(2 + len(data) for data in taken) <= budget
        if not taken:
            break
