"""Tasks that outlive the call that starts them, each with an owner that stops it."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class TaskScope:
    """Owns tasks of one component: keeps them referenced, stops them together.

    A task that ends with an exception is reported to the loop's exception handler, where the
    agent decides (an `AssertionError` stops it).
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        """How many tasks are running."""
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task on the running loop."""
        assert not self._closed
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def close(self) -> None:
        """Cancel all tasks and wait for their end; nothing can be started afterwards."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": "a background task died", "exception": error, "task": task}
            )


async def pause(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most so long; the event is taken."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
