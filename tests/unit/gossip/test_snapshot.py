"""The snapshot: what lines mean, what is written, when it is written anew."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.gossip.roster import (
    Member,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberStatus,
    MemberUpdated,
)
from isthmus.gossip.snapshot import (
    PENDING_SIZE_MAX,
    SNAPSHOT_SIZE_MIN,
    Snapshot,
    SnapshotLog,
    read_snapshot,
)


def member(name: str, address: str = "10.0.0.2", port: int = 7946) -> Member:
    return Member(name=name, address=address, port=port, tags={}, status=MemberStatus.ALIVE)


def read(*lines: str, rejoin_after_leave: bool = False) -> Snapshot:
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    return read_snapshot(data, rejoin_after_leave=rejoin_after_leave)


def test_lines_count_in_their_order() -> None:
    assert read(
        "alive: a 10.0.0.1:7946",
        "alive: b.dc2 10.0.0.2:8302",
        "# a comment",
        "clock: 41",
        "event-clock: 7",
        "query-clock: 3",
        "coordinate: {}",
        "not-alive: a",
        "clock: 42",
        "alive: name with spaces [fd00::1]:8302",
    ) == Snapshot(
        {"b.dc2": "10.0.0.2:8302", "name with spaces": "[fd00::1]:8302"}, 42, 7, 3, whole=True
    )


def test_leave_clears_unless_we_rejoin_after_it() -> None:
    lines = ("alive: a 10.0.0.1:7946", "clock: 41", "leave", "event-clock: 7")
    assert read(*lines) == Snapshot({}, 0, 7, 0)
    kept = read(*lines, rejoin_after_leave=True)
    assert kept == Snapshot({"a": "10.0.0.1:7946"}, 41, 7, 0)


@pytest.mark.parametrize(
    "line",
    [
        "alive: a",
        "alive: a 10.0.0.1",
        "alive:  10.0.0.1:7946",
        "alive: a 10.0.0.1:0",
        "clock: x",
        "clock: -1",
        "clock: ٣",
        "clock: 99999999999999999999999",
        "clock: 18446744073709551616",
        "clok: 9",
        "\udcff\udcfe",
        "clock: 1clock: 2",
    ],
)
def test_line_that_can_not_be_read_loses_nothing_else(line: str) -> None:
    found = read("alive: b 10.0.0.2:7946", "clock: 5", line, "event-clock: 7")
    assert found == Snapshot({"b": "10.0.0.2:7946"}, 5, 7, 0, whole=False)


@given(cut=st.integers(0, 60))
def test_torn_last_line_loses_nothing_else(cut: int) -> None:
    first, last = b"clock: 41\nalive: a 10.0.0.1:7946\n", b"event-clock: 700\n"
    data = (first + last)[: len(first) + min(cut, len(last) - 1)]
    found = read_snapshot(data, rejoin_after_leave=False)
    assert (found.clock, found.event_clock, len(found.alive)) == (41, 0, 1)
    assert found.whole is (len(data) == len(first))


@given(st.binary(max_size=200))
def test_any_file_can_be_read(data: bytes) -> None:
    found = read_snapshot(data, rejoin_after_leave=True)
    log = SnapshotLog(found, size=len(data))
    log.failed()
    written, anew = log.take()
    assert anew
    again = read_snapshot(written, rejoin_after_leave=True)
    assert (again.alive, again.clock) == (found.alive, found.clock)
    assert again.whole


def test_members_are_tried_in_random_order_but_not_ourselves() -> None:
    snapshot = read(*(f"alive: n{number}.dc1 10.0.0.{number}:8302" for number in range(5)))
    orders = {tuple(snapshot.join_addresses("n0.dc1", Random(seed))) for seed in range(40)}
    assert len(orders) > 10
    expected = {f"n{number}.dc1/10.0.0.{number}:8302" for number in range(1, 5)}
    assert {frozenset(order) for order in orders} == {frozenset(expected)}


def test_what_happens_becomes_lines() -> None:
    log = SnapshotLog(Snapshot(), size=0)
    log.receive(MemberJoined(member("a")))
    log.receive(MemberJoined(member("b", "fd00::1")))
    log.receive(MemberUpdated(member("b")))
    log.note_clocks(clock=4, event_clock=0, query_clock=1)
    log.note_clocks(clock=4, event_clock=0, query_clock=1)
    log.receive(MemberFailed(member("a")))
    log.receive(MemberLeft(member("a")))
    assert log.take() == (
        b"alive: a 10.0.0.2:7946\nalive: b [fd00::1]:7946\nclock: 4\nquery-clock: 1\n"
        b"not-alive: a\n",
        False,
    )
    assert not log.is_pending


def test_nothing_counts_after_we_left() -> None:
    log = SnapshotLog(read("alive: a 10.0.0.2:7946"), size=24)
    log.leave()
    log.leave()
    log.receive(MemberJoined(member("b")))
    log.note_clocks(clock=9, event_clock=9, query_clock=9)
    assert log.take() == (b"leave\n", False)


def test_name_can_not_forge_lines() -> None:
    log = SnapshotLog(Snapshot(), size=0)
    log.receive(MemberJoined(member("a\nleave")))
    assert not log.is_pending


def test_long_file_is_written_anew() -> None:
    """protocol/gossip.md §13.8: past 128 KiB or 256 bytes for each node."""
    log = SnapshotLog(read("alive: a 10.0.0.2:7946", "clock: 3"), size=SNAPSHOT_SIZE_MIN - 9)
    log.note_clocks(clock=4, event_clock=0, query_clock=0)
    assert log.take() == (b"clock: 4\n", False)
    log.note_clocks(clock=5, event_clock=0, query_clock=0)
    assert log.take() == (b"alive: a 10.0.0.2:7946\nclock: 5\n", True)
    log.note_clocks(clock=6, event_clock=0, query_clock=0)
    assert log.take() == (b"clock: 6\n", False)


def test_file_of_many_members_may_be_longer() -> None:
    many = read(*(f"alive: n{number} 10.0.0.2:7946" for number in range(1000)))
    log = SnapshotLog(many, size=SNAPSHOT_SIZE_MIN + 8)
    log.note_clocks(clock=4, event_clock=0, query_clock=0)
    assert log.take() == (b"clock: 4\n", False)


def test_after_a_failed_write_the_whole_is_written() -> None:
    log = SnapshotLog(Snapshot(), size=0)
    log.receive(MemberJoined(member("a")))
    log.take()
    log.failed()
    log.receive(MemberJoined(member("b")))
    assert log.is_pending
    assert log.take() == (b"alive: a 10.0.0.2:7946\nalive: b 10.0.0.2:7946\n", True)


def test_broken_file_is_written_anew() -> None:
    log = SnapshotLog(read("clock: 7", "clok: 9"), size=16)
    assert log.take() == (b"clock: 7\n", True)


def test_what_waits_is_bounded() -> None:
    log = SnapshotLog(Snapshot(), size=0)
    for ltime in range(1, PENDING_SIZE_MAX // 10):
        log.note_clocks(clock=ltime, event_clock=0, query_clock=0)
    data, anew = log.take()
    assert anew
    assert len(data) < 100
