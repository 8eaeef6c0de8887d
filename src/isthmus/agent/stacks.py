"""What a running agent is doing: stacks of threads and tasks, a profile, objects by type.

Each costs time while it is made, so they are made when an operator asks and `enable_debug` is set.
"""

import asyncio
import gc
import io
import sys
import threading
import traceback
from collections import Counter
from types import FrameType
from typing import Final

PROFILE_INTERVAL: Final = 0.01
"""Seconds between two looks."""
STACK_DEPTH_MAX: Final = 64
STACKS_MAX: Final = 20_000
"""Different stacks that are told apart in a profile; further ones are counted together."""
TASKS_SHOWN_MAX: Final = 1000
TYPES_SHOWN_MAX: Final = 100


def stacks() -> str:
    """Where every thread and every task of the running loop is now."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = list[str]()
    for ident, frame in sorted(sys._current_frames().items()):
        stack = "".join(traceback.format_stack(frame, STACK_DEPTH_MAX))
        parts.append(f"thread {names.get(ident, '?')} ({ident}):\n{stack}")
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    for task in tasks[:TASKS_SHOWN_MAX]:
        shown = io.StringIO()
        task.print_stack(limit=STACK_DEPTH_MAX, file=shown)
        parts.append(shown.getvalue())
    if len(tasks) > TASKS_SHOWN_MAX:
        parts.append(f"{len(tasks) - TASKS_SHOWN_MAX} tasks more\n")
    return "\n".join(parts)


def memory() -> str:
    """Objects made since the agent started, by type: count, bytes, name; most bytes first.

    Bytes are those of the objects alone, without what they refer to.
    """
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for found in gc.get_objects():
        kind = type(found)
        name = f"{kind.__module__}.{kind.__qualname__}"
        counts[name] += 1
        sizes[name] += sys.getsizeof(found, 0)
    lines = ["     count        bytes  type"]
    for name, size in sizes.most_common(TYPES_SHOWN_MAX):
        lines.append(f"{counts[name]:10}  {size:11}  {name}")
    lines.append(f"{counts.total():10}  {sizes.total():11}  all")
    return "\n".join(lines) + "\n"


async def profile(seconds: float) -> str:
    """Where the time of all threads goes.

    Returns:
        A line for each stack: functions from the outermost to the innermost, parted by
        semicolons, and how often it was seen. Stacks that wait are among them.
    """
    sampler = _Sampler()
    sampler.start()
    try:
        await asyncio.sleep(seconds)
    finally:
        sampler.stop()
    return sampler.folded()


class _Sampler(threading.Thread):
    """Looks at the stacks of the other threads, again and again."""

    def __init__(self) -> None:
        super().__init__(name="profile", daemon=True)
        self._stopping = threading.Event()
        self._counts: Counter[str] = Counter()

    def run(self) -> None:
        while not self._stopping.wait(PROFILE_INTERVAL):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                if ident != self.ident:
                    self._count(f"{names.get(ident, '?')};{_path(frame)}")

    def stop(self) -> None:
        """End, and wait for the end."""
        self._stopping.set()
        self.join()

    def folded(self) -> str:
        """What was seen, most often first."""
        return "".join(f"{stack} {count}\n" for stack, count in self._counts.most_common())

    def _count(self, stack: str) -> None:
        if stack not in self._counts and len(self._counts) >= STACKS_MAX:
            stack = "other stacks"
        self._counts[stack] += 1


def _path(frame: FrameType | None) -> str:
    """Functions on a stack, the innermost last."""
    found = list[str]()
    while frame is not None and len(found) < STACK_DEPTH_MAX:
        module = frame.f_globals.get("__name__", "?")
        found.append(f"{module}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return ";".join(reversed(found))
