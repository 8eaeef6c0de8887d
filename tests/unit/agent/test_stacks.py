"""What an agent is doing: stacks, objects, a profile."""

import asyncio
import threading

from isthmus.agent.stacks import TYPES_SHOWN_MAX, memory, profile, stacks


async def test_every_thread_and_task_is_shown() -> None:
    release, waiting = threading.Event(), asyncio.Event()

    async def wait_for_news() -> None:
        await waiting.wait()

    thread = threading.Thread(target=release.wait, name="somebody")
    thread.start()
    task = asyncio.ensure_future(wait_for_news())
    await asyncio.sleep(0)
    try:
        shown = stacks()
    finally:
        release.set()
        thread.join()
        waiting.set()
        await task
    assert "thread somebody (" in shown
    assert "release.wait" not in shown  # Only where it is, not what it was started with.
    assert "await waiting.wait()" in shown


class Marked:
    """Of which there are many."""


def test_objects_are_counted_by_type() -> None:
    kept = [Marked() for _ in range(20_000)]
    lines = memory().splitlines()
    found = next(line.split() for line in lines if line.endswith(".Marked"))
    assert int(found[0]) == len(kept)
    assert int(found[1]) >= 16 * len(kept)
    assert len(lines) <= TYPES_SHOWN_MAX + 2
    assert lines[-1].endswith("  all")


async def test_profile_counts_stacks_of_all_threads() -> None:
    release = threading.Event()

    def busy_with_waiting() -> None:
        release.wait()

    thread = threading.Thread(target=busy_with_waiting, name="worker")
    thread.start()
    try:
        lines: list[str] = []
        while not any("busy_with_waiting" in line for line in lines):
            lines = (await profile(0.05)).splitlines()
    finally:
        release.set()
        thread.join()
    stack, count = next(line for line in lines if "busy_with_waiting" in line).rsplit(" ", 1)
    assert stack.startswith("worker;")
    assert int(count) >= 1
    assert not any(thread.name == "profile" for thread in threading.enumerate())
