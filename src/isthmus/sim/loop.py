"""Event loops on virtual time: it stands still while anything can run, and then jumps.

`VirtualLoop` runs one program by itself, as a test does. A `Timeline` runs many `HostLoop`, one
per simulated process, turn by turn in one thread: each has a clock that may drift, and may be
paused, when its callbacks wait. Nothing outside of the process can be waited for.

What runs is the same in every run: sets of tasks and futures iterate in the order of their making,
and not in that of their addresses in memory.
"""

import asyncio
import heapq
import itertools
import math
import socket
from asyncio import events
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextvars import Context
from types import FrameType
from typing import Any, Final, NoReturn, Protocol, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

HORIZON: Final = 1e6
"""Seconds after which a program is taken to wait for ever."""
TURNS_MAX: Final = 100_000
"""Turns of all loops within one moment; more of them lead nowhere."""
TIMER_RESOLUTION: Final = 1e-6
"""A timer is at least so late: as on a real clock, whoever waits for a moment sees it pass."""
BURIAL_TURNS_MAX: Final = 10_000
TOLD_TASKS_MAX: Final = 200
"""Waiting tasks that an error lists."""


class Deadlock(AssertionError):
    """Every task waits, and nothing will wake one."""


class Livelock(AssertionError):
    """Tasks wake each other for ever, and no time passes."""


# Tasks ------------------------------------------------------------------------------------------


class _Task(asyncio.Task[Any]):
    """A task whose place in a set follows from when it was made."""

    def __init__(self, *args: Any, number: int, **named: Any) -> None:
        self._number = number
        super().__init__(*args, **named)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    """A future whose place in a set follows from when it was made."""

    def __init__(self, *, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


def _frames(task: "asyncio.Task[Any]") -> Iterator[FrameType]:
    """Frames of the coroutines that a task is in, the outermost first."""
    inner: Any = task.get_coro()
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
        if frame is None:
            frame = getattr(inner, "ag_frame", None)
        if isinstance(frame, FrameType):
            yield frame
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)


def waiting_place(task: "asyncio.Task[Any]") -> str:
    """Where a task waits: its innermost line outside of asyncio, ``module:line in function``."""
    place = "nowhere"
    for frame in _frames(task):
        module = frame.f_globals.get("__name__", "?")
        if not module.startswith("asyncio"):
            place = f"{module}:{frame.f_lineno} in {frame.f_code.co_qualname}"
    return place


def describe_waiting(loops: Iterable["VirtualLoopBase"]) -> str:
    """One line for each task that is not done: who it belongs to, its name, and where it waits."""
    lines = [
        f"{loop.name}: {task.get_name()} waits at {waiting_place(task)}"
        for loop in loops
        for task in loop.tasks()
    ]
    told = lines[:TOLD_TASKS_MAX]
    if len(lines) > len(told):
        told.append(f"and {len(lines) - len(told)} more tasks")
    return "\n".join(f"  {line}" for line in told) or "  no task is left"


# Loops ------------------------------------------------------------------------------------------


class VirtualLoopBase(asyncio.BaseEventLoop):
    """What both kinds of loop have in common.

    Args:
        name: For the names of tasks.
    """

    # asyncio's own, without stubs.
    _ready: Sequence[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _selector: Any
    _timer_cancelled_count: int

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._numbers = itertools.count(1)
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def create_future(self) -> "asyncio.Future[Any]":
        """A future that knows its place in a set."""
        return _Future(number=next(self._numbers), loop=self)

    def tasks(self) -> "list[asyncio.Task[Any]]":
        """Tasks that are not done, in the order in which they were made."""
        return sorted(asyncio.all_tasks(self), key=hash)

    def run_in_executor(self, executor: object, func: object, *args: object) -> NoReturn:
        """Refuse: a thread runs on real time.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"a simulation has no threads to run {func} in")

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, T],
        context: Context | None = None,
    ) -> "asyncio.Task[T]":
        number = next(self._numbers)
        name = f"{getattr(work, '__qualname__', 'task')} #{number}"
        return _Task(work, loop=loop, name=name, context=context, number=number)

    def _process_events(self, event_list: Sequence[object]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        return  # There is one thread, and it is awake.


class _JumpingSelector:
    """Instead of waiting for its timeout, it adds it to its clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Sequence[object]:
        if timeout == 0:
            return ()
        if timeout is None:
            waiting = describe_waiting([self._loop])
            raise Deadlock(f"every task waits without a timer:\n{waiting}")
        self.now += max(timeout, 0.0)
        if self.now > HORIZON:
            waiting = describe_waiting([self._loop])
            raise Deadlock(f"nothing but timers for {HORIZON:g} s:\n{waiting}")
        return ()


class VirtualLoop(VirtualLoopBase):
    """A loop on virtual time, which begins at 0."""

    def __init__(self) -> None:
        super().__init__("loop")
        self._selector = _JumpingSelector(self)

    def time(self) -> float:
        """Virtual seconds."""
        now: float = self._selector.now
        return now


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on virtual time.

    Raises:
        Deadlock: It would never end.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def now() -> float:
    """Seconds since the program began, without the last bits that sums of floats get wrong."""
    return round(asyncio.get_running_loop().time(), 6)


async def settle() -> None:
    """Let every task run until it waits; no time passes."""
    for _ in range(100):
        await asyncio.sleep(0)


class _IdleSelector:
    """Waits for nothing: the timeline decides when a loop has its turn."""

    def select(self, timeout: float | None = None) -> Sequence[object]:
        return ()


class LoopNetwork(Protocol):
    """What a loop asks for when a program uses the loop's own connections and names."""

    def resolve(self, host: str) -> Sequence[str]:
        """Addresses of a host.

        Raises:
            OSError: The name is not known.
        """

    async def connect(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Open a connection in clear.

        Raises:
            OSError: Nobody accepts it.
        """


class HostLoop(VirtualLoopBase):
    """The loop of one simulated process; made by `Timeline.loop`.

    Attributes:
        paused: Its callbacks wait.
        network: Serves connections that are opened on the loop itself; None: there are none.
        defects: What callbacks and tasks died of.
    """

    def __init__(self, timeline: "Timeline", name: str) -> None:
        super().__init__(name)
        self._selector = _IdleSelector()
        self._timeline = timeline
        self._rate = 1.0
        self._since = timeline.now  # Moment of the last change of `_rate`, and our time then.
        self._base = timeline.now
        self._due: float | None = None  # Kept: it is asked for far more often than it changes.
        self.paused = False
        self.network: LoopNetwork | None = None
        self.defects: list[str] = []
        self.set_exception_handler(self._note_defect)

    # The clock.

    def time(self) -> float:
        """Seconds on this process's clock."""
        return self._base + (self._timeline.now - self._since) * self._rate

    def drift(self, rate: float) -> None:
        """Let the clock run at `rate` seconds per true second from now on."""
        assert rate > 0
        self._base, self._since, self._rate = self.time(), self._timeline.now, rate
        self._due = None

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`; not earlier than `TIMER_RESOLUTION` from now."""
        self._due = None
        soonest = self.time() + TIMER_RESOLUTION
        return super().call_at(max(when, soonest), callback, *args, context=context)

    def next_due(self) -> float:
        """Moment on the timeline of our first timer; infinite without one.

        It may be that of a timer that was cancelled since our last turn.
        """
        if self._due is None:
            self._due = self._find_due()
        return self._due

    def _find_due(self) -> float:
        scheduled = self._scheduled
        while scheduled and scheduled[0].cancelled():
            handle = heapq.heappop(scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]
            self._timer_cancelled_count -= 1
        if not scheduled:
            return math.inf
        return self._since + (scheduled[0].when() - self._base) / self._rate

    # Turns.

    def turn(self) -> None:
        """Run what is ready, once."""
        running = events._get_running_loop()
        events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            self._due = None
            events._set_running_loop(running)

    def bury(self) -> None:
        """Cancel every task of a process that was killed, let them end unheard, and close.

        The process must be cut off from the network before.
        """
        self.set_exception_handler(lambda loop, context: None)
        for _ in range(BURIAL_TURNS_MAX):
            waiting = self.tasks()
            if not waiting:
                break
            for task in waiting:
                task.cancel()
            self.turn()
        self.network = None
        self.close()

    # What programs ask a loop for.

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: str,
        port: int,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - asyncio's name.
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        """Addresses that the simulated network knows for a host."""
        if self.network is None:
            raise socket.gaierror(socket.EAI_NONAME, f"no network to find {host} in")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))
            for address in self.network.resolve(host)
        ]

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        ssl: object = None,
        **options: object,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Connect in clear through the simulated network.

        Raises:
            OSError: Nobody accepts it, or real TLS is asked for.
        """
        if self.network is None or ssl:
            raise OSError(f"the simulated network cannot connect to {host}:{port} like that")
        return await self.network.connect(protocol_factory, host, port)

    def _note_defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.defects.append(f"{self.name}: {context.get('message')}: {error!r}")


# The timeline -----------------------------------------------------------------------------------


class Event:
    """Something that happens at a moment; may be cancelled before."""

    __slots__ = ("callback", "is_cancelled")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        """It does not happen."""
        self.is_cancelled = True


class Timeline:
    """Virtual time, the loops that live on it, and what happens between them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turn_count = 0
        """Turns of all loops so far."""
        self._loops: list[HostLoop] = []
        self._events: list[tuple[float, int, Event]] = []
        self._sequence = itertools.count()

    @property
    def loops(self) -> Sequence[HostLoop]:
        """All loops, in the order of their making."""
        return self._loops

    def loop(self, name: str) -> HostLoop:
        """A new loop, which has its turns from now on."""
        made = HostLoop(self, name)
        self._loops.append(made)
        return made

    def remove(self, loop: HostLoop) -> None:
        """Give a loop no more turns."""
        self._loops.remove(loop)

    def call_at(self, when: float, callback: Callable[[Unpack[Ts]], None], *args: *Ts) -> Event:
        """Let something happen at a moment, after what was to happen then before."""
        event = Event((lambda: callback(*args)) if args else callback)
        heapq.heappush(self._events, (max(when, self.now), next(self._sequence), event))
        return event

    def call_later(self, delay: float, callback: Callable[[Unpack[Ts]], None], *args: *Ts) -> Event:
        """Let something happen after `delay` seconds."""
        return self.call_at(self.now + delay, callback, *args)

    def run(self, loop: HostLoop, work: Coroutine[Any, Any, T]) -> T:
        """Run everything until `work`, a task of `loop`, is done.

        Raises:
            Deadlock: It would never be.
            Livelock: Time stands still.
        """
        task = loop.create_task(work)
        while not task.done():
            self._settle(task)
            if not task.done():
                self._advance()
        return task.result()

    def close(self) -> None:
        """End all that still runs, unheard."""
        while self._loops:
            self._loops.pop().bury()
        self._events.clear()

    def _settle(self, task: "asyncio.Task[Any]") -> None:
        """Give turns until no loop is ready, or `task` is done."""
        for _ in range(TURNS_MAX):
            ran = False
            now = self.now
            for loop in tuple(self._loops):
                if (loop._ready or loop.next_due() <= now) and not loop.paused:
                    loop.turn()
                    self.turn_count += 1
                    ran = True
                    if task.done():
                        return
            if not ran:
                return
        waiting = describe_waiting(self._loops)
        raise Livelock(f"no end to what happens at {self.now:.6f} s:\n{waiting}")

    def _advance(self) -> None:
        """Go on to the next moment at which something happens."""
        while self._events and self._events[0][2].is_cancelled:
            heapq.heappop(self._events)
        due = self._events[0][0] if self._events else math.inf
        for loop in self._loops:
            if not loop.paused:
                due = min(due, loop.next_due())
        if due > HORIZON:
            why = "every task waits" if due == math.inf else f"nothing but timers for {HORIZON:g} s"
            raise Deadlock(f"{why}, and nothing is under way:\n{describe_waiting(self._loops)}")
        self.now = due if due > self.now else math.nextafter(self.now, math.inf)
        while self._events and self._events[0][0] <= self.now:
            event = heapq.heappop(self._events)[2]
            if not event.is_cancelled:
                event.callback()
