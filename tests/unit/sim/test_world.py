"""Virtual time, processes that pause and crash, clocks that drift."""

import math

import pytest

from isthmus.sim.network import LinkModel, Shape
from isthmus.sim.world import RECEIVE_BUFFER, Actor, Message, Process, World

STEADY = LinkModel(median=0.010, shape=Shape.CONSTANT)


class Ticker(Actor):
    """Ticks once in a second of its clock, and notes what happens to it."""

    __slots__ = ("at", "bounced", "deaths", "log", "settled", "world")

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(process)
        self.world = world
        self.at = process.clock(world.now) + 1.0
        self.log: list[tuple[float, str]] = []
        self.bounced = self.settled = self.deaths = 0
        world.arm(self)

    def receive(self, message: Message, *, now: float) -> None:
        self.log.append((round(now, 6), f"got {message.size}"))

    def handle_timer(self, *, now: float) -> None:
        local = self.process.clock(now)
        if local >= self.at - 1e-9:
            self.log.append((round(now, 6), "tick"))
            self.at = max(self.at + 1.0, math.floor(local) + 1.0)

    def next_timer(self) -> float:
        return self.process.moment(self.at)

    def lost(self, message: Message, *, now: float) -> None:
        self.bounced += 1

    def died(self) -> None:
        self.deaths += 1

    def settle(self, *, now: float) -> None:
        self.settled += 1


class Pair:
    """Two tickers on two machines."""

    def __init__(self) -> None:
        self.world = World(within=STEADY, between=STEADY)
        self.machines = [self.world.machine(name, "dc1") for name in ("m0", "m1")]
        self.processes = [self.world.process(m.name, m) for m in self.machines]
        self.here, self.there = (Ticker(self.world, p) for p in self.processes)

    def send(self, size: int, *, reliable: bool = False) -> bool:
        return self.world.send(self.machines, self.there, Message(size, reliable=reliable))


def test_everything_happens_in_order_of_time() -> None:
    pair = Pair()
    done: list[float] = []
    pair.world.at(2.5, lambda: done.append(pair.world.now))
    pair.world.after(0.5, lambda: done.append(pair.world.now))
    pair.world.at(0.2, lambda: done.append(float(pair.send(7))))
    pair.world.run(until=2.2)
    assert done == [1.0, 0.5]
    assert pair.there.log == [(0.21, "got 7"), (1.0, "tick"), (2.0, "tick")]
    assert pair.world.now == 2.2
    pair.world.run(until=3.0)
    assert done == [1.0, 0.5, 2.5]


def test_paused_process_gets_late_what_waited() -> None:
    """A message, then the timers, then the rest, as asyncio does after a stop."""
    pair = Pair()
    pair.world.run(until=0.5)
    pair.world.pause(pair.processes[1])
    pair.send(1)
    pair.send(2)
    pair.world.run(until=3.2)
    assert pair.there.log == []
    pair.world.resume(pair.processes[1])
    assert pair.there.log == [(3.2, "got 1"), (3.2, "tick"), (3.2, "got 2")]
    pair.world.run(until=4.5)
    assert pair.there.log[3:] == [(4.0, "tick")]


def test_buffer_of_a_paused_process_is_bounded_for_packets_only() -> None:
    pair = Pair()
    pair.world.pause(pair.processes[1])
    pair.send(RECEIVE_BUFFER)
    pair.send(1)
    pair.send(RECEIVE_BUFFER, reliable=True)
    pair.world.run(until=0.1)
    pair.world.resume(pair.processes[1])
    received = [text for _, text in pair.there.log]
    assert received == [f"got {RECEIVE_BUFFER}"] * 2


def test_crashed_process_does_nothing_and_its_machine_says_so() -> None:
    pair = Pair()
    pair.world.run(until=0.5)
    pair.world.crash(pair.processes[1])
    assert pair.there.deaths == 1
    pair.send(1)
    pair.world.run(until=5.0)
    assert pair.there.log == []
    assert pair.there.bounced == 1
    pair.world.resume(pair.processes[1])
    assert not pair.processes[1].alive


def test_machine_that_dies_says_nothing() -> None:
    pair = Pair()
    pair.world.crash(pair.processes[1], silent=True)
    pair.send(1)
    pair.world.run(until=5.0)
    assert (pair.there.bounced, pair.there.deaths) == (0, 0)


def test_process_can_be_started_again_after_it_died() -> None:
    pair = Pair()
    with pytest.raises(ValueError, match="alive already"):
        pair.world.process("m1", pair.machines[1])
    pair.world.crash(pair.processes[1])
    again = Ticker(pair.world, pair.world.process("m1", pair.machines[1]))
    pair.world.run(until=1.5)
    assert again.log == [(1.0, "tick")]
    assert pair.there.log == []


def test_clock_drifts_from_the_moment_on() -> None:
    pair = Pair()
    pair.world.run(until=1.5)
    pair.world.drift(pair.processes[1], 2.0)
    pair.world.run(until=3.1)
    ticks = [moment for moment, _ in pair.there.log]
    assert ticks == [1.0, 1.75, 2.25, 2.75]
    assert pair.processes[1].clock(3.1) == pytest.approx(4.7)
    assert pair.processes[1].moment(4.7) == pytest.approx(3.1)


def test_actors_settle_before_the_world_changes() -> None:
    pair = Pair()
    pair.world.network.cut("m0", "m1")
    pair.world.pause(pair.processes[0])
    pair.world.crash(pair.processes[1])
    pair.world.drift(pair.processes[0], 1.1)
    assert pair.here.settled == 4


def test_digest_depends_on_all_that_is_noted_not_on_its_order() -> None:
    def digest(*notes: tuple[float, int], trace: bool = True) -> int:
        world = World(trace=trace)
        for when, what in notes:
            world.at(when, lambda what=what: world.note(what, 2, 30))  # type: ignore[misc]
        world.run(until=10.0)
        return world.digest

    assert digest((1.0, 1), (1.0, 2)) == digest((1.0, 2), (1.0, 1))
    assert digest((1.0, 1)) != digest((1.0, 1), (2.0, 1))
    assert digest((1.0, 1)) != digest((1.1, 1))
    assert digest((1.0, 1), trace=False) == 0
