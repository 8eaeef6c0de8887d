"""The world of a simulation: virtual time, processes, and what happens next.

All that is going to happen stands on one heap: the timer of an actor, or a message that reaches it.
Everything follows from the seed; the same seed gives the same run.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from random import Random
from typing import Final, TypeAlias

from isthmus.sim.network import LinkModel, Machine, Network

RECEIVE_BUFFER: Final = 212_992
"""Bytes of packets that wait for a paused process, as Linux' default; further ones are dropped."""
WAITING_MESSAGES_MAX: Final = 65_536
"""Messages of all kinds that wait for a paused process."""
_CANCELLED: Final = -1.0


class Message:
    """Something that reaches an actor. Subclasses add what it says.

    Attributes:
        size: Bytes.
        reliable: Part of a stream: waits for a paused process in its peer's buffer, is not dropped.
    """

    __slots__ = ("reliable", "size")

    def __init__(self, size: int, *, reliable: bool) -> None:
        self.size, self.reliable = size, reliable


class Event(Message):
    """Something that happens whatever any process does."""

    __slots__ = ()

    def happen(self, *, now: float) -> None:
        """It is time; `now` is the world's."""
        raise NotImplementedError


class ProcessState(Enum):
    """What a process does."""

    RUNNING = auto()
    PAUSED = auto()
    """Stopped by SIGSTOP, or its machine swaps: what reaches it waits, timers come late."""
    CRASHED = auto()
    """Killed; the machine refuses connections to it."""
    SILENT = auto()
    """Its machine died: nothing answers, not even a refusal."""


class Actor:
    """A core inside a process, with one timer. Subclasses run the production cores.

    Attributes:
        process: Where it runs; its clock is the process' clock.
    """

    __slots__ = ("armed", "process")

    def __init__(self, process: "Process") -> None:
        self.process = process
        self.armed = _CANCELLED
        """Moment of its next timer, in the world's time."""
        process.actors.append(self)

    def receive(self, message: Message, *, now: float) -> None:
        """A message arrives; `now` is the world's time."""
        raise NotImplementedError

    def handle_timer(self, *, now: float) -> None:
        """The timer is due; `now` is the world's time. May come late."""
        raise NotImplementedError

    def next_timer(self) -> float:
        """Moment at which `handle_timer` is due, in the world's time; infinite: none."""
        raise NotImplementedError

    def lost(self, message: Message, *, now: float) -> None:
        """A message reaches the machine after the process was killed."""

    def died(self) -> None:
        """The process is killed; its machine lives and may tell others."""

    def settle(self, *, now: float) -> None:
        """Something that concerns everyone is about to change: rely on nothing after `now`."""


class Process:
    """A program on a machine.

    Attributes:
        name: Unique in the world.
        machine: Where it runs.
        state: What it does.
        actors: Its parts.
    """

    __slots__ = (
        "_base",
        "_local_base",
        "actors",
        "machine",
        "name",
        "punctual",
        "rate",
        "state",
        "stood_from",
        "stood_until",
        "waiting",
        "waiting_size",
    )

    def __init__(self, name: str, machine: Machine) -> None:
        self.name, self.machine = name, machine
        self.state = ProcessState.RUNNING
        self.actors: list[Actor] = []
        self.rate = 1.0
        """Seconds of its clock in a second of the world's."""
        self.punctual = True
        """Whether its clock is the world's."""
        self._base = self._local_base = 0.0
        self.waiting: deque[tuple[Actor, Message]] = deque()
        self.waiting_size = 0
        self.stood_from = self.stood_until = -math.inf
        """When it stood still last, in the world's seconds."""

    @property
    def running(self) -> bool:
        """Whether it handles what reaches it."""
        return self.state is ProcessState.RUNNING

    @property
    def alive(self) -> bool:
        """Whether it runs or is only paused."""
        return self.state in {ProcessState.RUNNING, ProcessState.PAUSED}

    def clock(self, now: float) -> float:
        """Its monotonic clock at the world's time `now`."""
        return now if self.punctual else self._local_base + (now - self._base) * self.rate

    def moment(self, local: float) -> float:
        """The world's time at which its clock shows `local`."""
        if self.punctual:
            return local
        when = self._base + (local - self._local_base) / self.rate
        while self.clock(when) < local:  # Rounded down: a timer would be due and not be due.
            when = math.nextafter(when, math.inf)
        return when

    def drift(self, rate: float, *, now: float) -> None:
        """Let its clock run at `rate` from now on."""
        assert rate > 0
        self._local_base, self._base = self.clock(now), now
        self.rate, self.punctual = rate, False


class _Call(Event):
    """An action from outside."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__(0, reliable=True)
        self.action = action

    def happen(self, *, now: float) -> None:
        """Do it."""
        del now
        self.action()


_Entry: TypeAlias = tuple[float, int, Actor | None, Message | None]


class World:
    """Everything that is simulated.

    Args:
        seed: Decides every chance.
        within: Links between the machines of one group.
        between: Links between the machines of two groups.
        trace: Whether `digest` is kept; costs a little.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        within: LinkModel | None = None,
        between: LinkModel | None = None,
        trace: bool = False,
    ) -> None:
        self.now = 0.0
        """Virtual seconds since the start."""
        self.rng = Random(seed)
        self.network = Network(
            Random(self.rng.getrandbits(64)),
            within=within,
            between=between,
            changing=self.settle,
        )
        self.processes: dict[str, Process] = {}
        self.trace = trace
        self.digest = 0
        """With `trace`: a number that any difference between two runs changes, 64 bits."""
        self._heap: list[_Entry] = []
        self._number = 0

    # --- Time -----------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do `action` at a moment; not before now."""
        self._push(max(when, self.now), None, _Call(action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do `action` in so many seconds."""
        self.at(self.now + delay, action)

    def run(self, *, until: float) -> None:
        """Let all happen that is due by then."""
        heap, replace, pop, never = self._heap, heapq.heapreplace, heapq.heappop, math.inf
        while heap:
            when, _, actor, message = heap[0]
            if when > until:
                break
            self.now = when
            if message is None and actor is not None:
                if actor.armed != when:  # Cancelled, or moved.
                    pop(heap)
                    continue
                actor.handle_timer(now=when)
                due = actor.next_timer()
                if due < when:
                    due = when
                actor.armed = due
                # What was pushed meanwhile comes later: this entry is still the first.
                if due < never:
                    self._number += 1
                    replace(heap, (due, self._number, actor, None))
                    continue
                pop(heap)
                continue
            pop(heap)
            assert message is not None
            if actor is None:
                assert isinstance(message, Event)
                message.happen(now=when)
            else:
                self._hand_over(actor, message)
        self.now = max(self.now, until)

    # --- Messages -------------------------------------------------------------------------------

    def send(
        self,
        path: Sequence[Machine],
        actor: Actor | None,
        message: Message,
    ) -> bool:
        """Send a message along a path to an actor; return whether it arrives there.

        Args:
            path: The machines, sender first (`Network.carry`).
            actor: Who receives it; None: it is an `Event`, which happens there.
            message: What; its size and whether it is a part of a stream decide how it travels.
        """
        arrivals = self.network.carry(path, message.size, now=self.now, reliable=message.reliable)
        for when in arrivals:
            self._push(when, actor, message)
        return bool(arrivals)

    def deliver(self, when: float, actor: Actor | None, message: Message) -> None:
        """Let a message reach an actor at a moment."""
        self._push(when, actor, message)

    def arm(self, actor: Actor) -> None:
        """Look at an actor's timer again, after something was done with it from outside."""
        if actor.process.state is not ProcessState.RUNNING:
            return
        due = actor.next_timer()
        if due != actor.armed:
            actor.armed = max(due, self.now)
            if due < math.inf:
                self._push(actor.armed, actor, None)

    def note(self, source: int, target: int, size: int) -> None:
        """Let something that is sent now count for `digest`."""
        if self.trace:
            self.note_at(self.now, source, target, size)

    def note_at(self, when: float, source: int, target: int, size: int) -> None:
        """Let something that is sent at a moment count for `digest`, in whatever order."""
        self.digest = (self.digest + hash((when, source, target, size))) & 0xFFFFFFFFFFFFFFFF

    def _push(self, when: float, actor: Actor | None, message: Message | None) -> None:
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, actor, message))

    def _hand_over(self, actor: Actor, message: Message) -> None:
        process = actor.process
        if process.state is ProcessState.RUNNING:
            actor.receive(message, now=self.now)
            self.arm(actor)
        elif process.state is ProcessState.PAUSED:
            if len(process.waiting) >= WAITING_MESSAGES_MAX:
                return
            if not message.reliable:
                if process.waiting_size + message.size > RECEIVE_BUFFER:
                    return
                process.waiting_size += message.size
            process.waiting.append((actor, message))
        elif process.state is ProcessState.CRASHED:
            actor.lost(message, now=self.now)

    # --- Processes ------------------------------------------------------------------------------

    def machine(self, name: str, group: str, *, address: str = "") -> Machine:
        """A new machine in a group (a datacenter)."""
        return self.network.add(name, group, address=address)

    def process(self, name: str, machine: Machine) -> Process:
        """Start a process; of the name of one that crashed: a new one in its place.

        Raises:
            ValueError: One of that name is alive.
        """
        known = self.processes.get(name)
        if known is not None and known.alive:
            raise ValueError(f"process {name} is alive already")
        process = self.processes[name] = Process(name, machine)
        return process

    def settle(self) -> None:
        """Have every actor rely on nothing that lies in the future."""
        for process in self.processes.values():
            for actor in process.actors:
                actor.settle(now=self.now)

    def pause(self, process: Process) -> None:
        """Stop a process; its connections stay."""
        if process.state is ProcessState.RUNNING:
            self.settle()
            process.state = ProcessState.PAUSED
            process.stood_from = self.now
            self._disarm(process)

    def resume(self, process: Process) -> None:
        """Let it go on: with one message that waited, its timers, then the other messages.

        That is how asyncio goes on: a datagram per turn of the loop, timers in every turn.
        """
        if process.state is not ProcessState.PAUSED:
            return
        process.state = ProcessState.RUNNING
        process.stood_until = self.now
        waiting = list(process.waiting)
        process.waiting.clear()
        process.waiting_size = 0
        for actor, message in waiting[:1]:
            actor.receive(message, now=self.now)
        for actor in process.actors:
            actor.handle_timer(now=self.now)
        for actor, message in waiting[1:]:
            actor.receive(message, now=self.now)
        for actor in process.actors:
            self.arm(actor)

    def crash(self, process: Process, *, silent: bool = False) -> None:
        """Kill a process; `silent`: its machine is gone too, so nothing refuses connections."""
        if process.alive:
            self.settle()
            process.state = ProcessState.SILENT if silent else ProcessState.CRASHED
            self._disarm(process)
            process.waiting.clear()
            process.waiting_size = 0
            if not silent:
                for actor in process.actors:
                    actor.died()

    def drift(self, process: Process, rate: float) -> None:
        """Let the clock of a process run at `rate` seconds in a second from now on."""
        self.settle()
        process.drift(rate, now=self.now)
        for actor in process.actors:
            self.arm(actor)

    def _disarm(self, process: Process) -> None:
        for actor in process.actors:
            actor.armed = _CANCELLED
