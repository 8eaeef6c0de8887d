"""Reports of coordinates become few writes, on virtual time."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from isthmus.errors import NoLeader
from isthmus.model.coordinate import Coordinate, CoordinateBatch
from isthmus.server.coordinates import (
    BATCH_UPDATES_MAX,
    UPDATE_PERIOD,
    WAITING_MAX,
    CoordinateUpdates,
)
from isthmus.store.commands import Command
from support.coordinates import at
from support.virtual_loop import now, run_virtual


class Commits:
    """Keeps what is committed, and when; refuses for as long as told."""

    def __init__(self) -> None:
        self.done: list[tuple[float, CoordinateBatch]] = []
        self.refusals = 0

    async def __call__(self, command: Command) -> object:
        assert isinstance(command, CoordinateBatch)
        if self.refusals:
            self.refusals -= 1
            raise NoLeader
        self.done.append((now(), command))
        return None

    @property
    def sizes(self) -> list[tuple[float, int]]:
        """Moments and sizes of the batches."""
        return [(moment, len(batch.updates)) for moment, batch in self.done]


def report(node: str, x: float = 0.1, segment: str = "") -> Coordinate:
    return Coordinate(node=node, segment=segment, coord=at(x))


def playing(
    play: Callable[[CoordinateUpdates, Commits], Coroutine[Any, Any, None]],
) -> Commits:
    """Let a play happen while reports are stored."""

    async def run() -> Commits:
        commits = Commits()
        updates = CoordinateUpdates(commits)
        task = asyncio.get_running_loop().create_task(updates.run())
        await play(updates, commits)
        task.cancel()
        return commits

    return run_virtual(run())


def test_reports_are_gathered_from_the_first_one_on() -> None:
    async def play(updates: CoordinateUpdates, commits: Commits) -> None:
        await asyncio.sleep(7)
        updates.add(report("a"))
        await asyncio.sleep(UPDATE_PERIOD - 1)
        updates.add(report("b"))
        await asyncio.sleep(2)
        updates.add(report("c"))
        await asyncio.sleep(60)

    assert playing(play).sizes == [(7 + UPDATE_PERIOD, 2), (7 + 2 * UPDATE_PERIOD + 1, 1)]


def test_nothing_is_written_when_nothing_is_reported() -> None:
    async def play(updates: CoordinateUpdates, commits: Commits) -> None:
        await asyncio.sleep(1000)

    assert playing(play).sizes == []


def test_of_a_node_the_last_report_counts() -> None:
    async def play(updates: CoordinateUpdates, commits: Commits) -> None:
        for update in (report("a", 0.1), report("A", 0.2), report("a", 0.3, "s")):
            updates.add(update)
        await asyncio.sleep(10)

    ((_, batch),) = playing(play).done
    assert batch.updates == (report("A", 0.2), report("a", 0.3, "s"))


def test_many_become_batches_and_too_many_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def play(updates: CoordinateUpdates, commits: Commits) -> None:
        for number in range(WAITING_MAX + 7):
            updates.add(report(f"n{number}"))
        updates.add(report("n0", 0.9))  # One that waits already still counts.
        assert (len(updates), updates.dropped) == (WAITING_MAX, 7)
        await asyncio.sleep(10)
        assert (len(updates), updates.dropped) == (0, 0)

    commits = playing(play)
    assert commits.sizes == [(UPDATE_PERIOD, BATCH_UPDATES_MAX)] * 5
    assert commits.done[0][1].updates[0] == report("n0", 0.9)
    assert "dropped 7 coordinates" in caplog.text


def test_what_could_not_be_stored_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    async def play(updates: CoordinateUpdates, commits: Commits) -> None:
        commits.refusals = 1
        for number in range(BATCH_UPDATES_MAX + 1):
            updates.add(report(f"n{number}"))
        await asyncio.sleep(10)
        updates.add(report("a"))
        await asyncio.sleep(10)

    with caplog.at_level(logging.WARNING):
        assert playing(play).sizes == [(10 + UPDATE_PERIOD, 1)]
    assert "could not store coordinates: No cluster leader" in caplog.text
