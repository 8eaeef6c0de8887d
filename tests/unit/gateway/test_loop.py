import logging
import socket
import threading
from collections.abc import Iterator

import pytest

from isthmus.gateway.loop import HANGUP, READABLE, WRITABLE, Loop
from isthmus.gateway.timers import Timers


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def test_events_are_reported_once_each(
    loop: Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    masks: list[int] = []
    loop.watch(ours, masks.append)
    theirs.send(b"x")
    loop.turn()
    theirs.close()
    loop.turn()
    assert masks[0] == READABLE | WRITABLE
    assert masks[1] & HANGUP
    assert len(masks) == 2  # The byte was never read, and is not reported again.


def test_handler_can_be_replaced(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    first: list[int] = []
    second: list[int] = []
    loop.watch(ours, first.append)
    loop.hand_over(ours, second.append)
    theirs.send(b"x")
    loop.turn()
    assert (first, len(second)) == ([], 1)


def test_retired_socket_is_silent_and_closed_at_the_end_of_the_turn(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    other, far = socket.socketpair()
    reported: list[str] = []

    def retire_both(name: str) -> None:
        reported.append(name)
        for sock in (ours, other):
            loop.retire(sock)
            assert sock.fileno() >= 0

    loop.watch(ours, lambda mask: retire_both("ours"))
    loop.watch(other, lambda mask: retire_both("other"))
    loop.turn()
    assert len(reported) == 1  # Both were ready; who came second was retired by then.
    assert (ours.fileno(), other.fileno()) == (-1, -1)
    theirs.close()
    far.close()


def test_listener_is_reported_until_it_is_empty_and_can_be_left_alone(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        masks: list[int] = []
        loop.watch_listener(listener, masks.append)
        with socket.create_connection(listener.getsockname()):
            loop.turn()
            loop.turn()
            loop.unwatch(listener)
            loop.call_from_thread(lambda: None)
            loop.turn()
        assert masks == [READABLE, READABLE]


def test_calls_of_other_threads_are_made_in_order(loop: Loop) -> None:
    made: list[int] = []

    def call() -> None:
        for number in range(100):
            loop.call_from_thread(lambda number=number: made.append(number))  # type: ignore[misc]

    caller = threading.Thread(target=call)
    caller.start()
    while len(made) < 100:
        loop.turn()
    caller.join()
    assert made == list(range(100))


def test_call_to_a_closed_loop_is_dropped() -> None:
    loop = Loop()
    loop.close()
    loop.call_from_thread(lambda: None)


def test_work_put_off_is_done_in_the_next_turn_without_waiting(loop: Loop) -> None:
    done: list[str] = []

    def first() -> None:
        done.append("first")
        loop.put_off(lambda: done.append("second"))

    loop.put_off(first)
    loop.turn()
    assert done == ["first"]
    loop.turn()
    assert done == ["first", "second"]


def test_timers_end_a_wait(loop: Loop) -> None:
    ended: list[str] = []
    short: Timers[str] = Timers(0.01, ended.append)
    long: Timers[str] = Timers(60.0, ended.append)
    for timers in (short, long):
        loop.add_timers(timers)
        timers.start(f"{timers.delay}", now=loop.now)
    while not ended:
        loop.turn()
    assert ended == ["0.01"]


def test_unexpected_error_of_a_handler_is_logged_and_told(
    loop: Loop, pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(mask: int) -> None:
        raise KeyError(mask)

    told: list[int] = []
    loop.on_bug = told.append
    loop.watch(pair[0], fail)
    with caplog.at_level(logging.ERROR):
        loop.turn()
    assert told == [pair[0].fileno()]
    assert "KeyError" in caplog.text


def test_unexpected_error_of_work_put_off_leaves_the_rest(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise KeyError("put off")

    done: list[str] = []
    loop.put_off(fail)
    loop.put_off(lambda: done.append("rest"))
    with caplog.at_level(logging.ERROR):
        loop.turn()
    assert done == ["rest"]
    assert "put off" in caplog.text


def test_broken_assertion_ends_the_loop(
    loop: Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    def fail(mask: int) -> None:
        raise AssertionError(mask)

    loop.watch(pair[0], fail)
    with pytest.raises(AssertionError):
        loop.turn()
