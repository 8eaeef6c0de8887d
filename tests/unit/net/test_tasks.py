"""Tasks with an owner."""

import asyncio
from typing import Any

import pytest

from isthmus.net.tasks import TaskScope


async def test_tasks_are_cancelled_and_awaited_together() -> None:
    scope, ended = TaskScope(), []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    for number in range(3):
        scope.spawn(work(number))
    await asyncio.sleep(0)
    assert len(scope) == 3
    await scope.close()
    assert sorted(ended) == [0, 1, 2]
    assert len(scope) == 0


async def test_a_finished_task_is_forgotten() -> None:
    scope = TaskScope()

    async def work() -> int:
        return 5

    assert await scope.spawn(work()) == 5
    await asyncio.sleep(0)
    assert len(scope) == 0
    await scope.close()


@pytest.mark.parametrize("error", [ValueError("bug"), AssertionError("impossible")])
async def test_a_task_that_dies_is_reported(error: Exception) -> None:
    reported: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    scope = TaskScope()

    async def work() -> None:
        raise error

    await asyncio.wait([scope.spawn(work())])
    await asyncio.sleep(0)
    assert reported == [error]
    await scope.close()


async def test_nothing_starts_after_the_close() -> None:
    scope = TaskScope()
    await scope.close()

    async def work() -> None:
        pass

    late = work()
    with pytest.raises(AssertionError):
        scope.spawn(late)
    late.close()
