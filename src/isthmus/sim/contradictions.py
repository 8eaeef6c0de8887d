"""Faults that cannot all happen: a host that is down already cannot crash."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isthmus.sim.amounts import format_seconds
from isthmus.sim.faults import Crash, Drift, Fault, HostFault, Leave, Pause, Restart
from isthmus.sim.language import FaultError, parse_fault
from isthmus.sim.topology import Host, Topology


@dataclass(frozen=True, slots=True)
class _Turn:
    """A fault's turn at one host."""

    at: float
    until: float
    order: int
    fault: HostFault
    host: Host


def check_faults(faults: Sequence[Fault], topology: Topology, *, ends_at: float) -> None:
    """Refuse faults that the topology has no place for, or that contradict each other.

    Args:
        faults: All of a scenario.
        topology: Where they happen.
        ends_at: Virtual seconds the run lasts.

    Raises:
        FaultError: Of the first that is wrong.
    """
    seen = set[str]()
    for fault in faults:
        text = str(fault)
        parse_fault(text, topology)
        if text in seen:
            raise _error("this fault is there twice", fault, text)
        seen.add(text)
        for at in _moments(fault, topology):
            if at >= ends_at:
                when = f"would begin at {format_seconds(at)}"
                reason = f"{when}, but the run ends at {format_seconds(ends_at)}"
                raise _error(reason, fault, f"at {format_seconds(fault.at)}")
    for turns in _by_host(faults, topology, (Pause, Crash, Restart, Leave)):
        _check_running(turns)
    for turns in _by_host(faults, topology, (Drift,)):
        for earlier, later in itertools.pairwise(turns):
            if later.at < earlier.until:
                raise _clash(later, f"drifts already: '{earlier.fault}'")


def _moments(fault: Fault, topology: Topology) -> Iterator[float]:
    if isinstance(fault, HostFault):
        yield from (at for at, _, _ in fault.turns(topology))
    else:
        yield fault.at


def _by_host(
    faults: Sequence[Fault], topology: Topology, kinds: tuple[type[HostFault], ...]
) -> Iterator[list[_Turn]]:
    """What befalls each host, in order of time."""
    hosts = dict[Host, list[_Turn]]()
    for order, fault in enumerate(faults):
        if isinstance(fault, kinds):
            for at, until, host in fault.turns(topology):
                end = math.inf if until is None else until
                hosts.setdefault(host, []).append(_Turn(at, end, order, fault, host))
    for turns in hosts.values():
        yield sorted(turns, key=lambda turn: (turn.at, turn.order))


def _check_running(turns: Sequence[_Turn]) -> None:
    """Only a restart may follow on a crash without an end, or on leaving."""
    down: _Turn | None = None
    for turn in turns:
        if down is not None and turn.at < down.until:
            if not isinstance(turn.fault, Restart):
                raise _clash(turn, f"does not run then: '{down.fault}'")
            if isinstance(down.fault, Pause):
                raise _clash(turn, f"stands still then: '{down.fault}'")
            if down.until < math.inf:
                back = f"comes back by itself at {format_seconds(down.until)}"
                raise _clash(turn, f"{back}: '{down.fault}'")
        at_once = isinstance(turn.fault, Restart) and turn.fault.duration is None
        down = None if at_once else turn


def _clash(turn: _Turn, why: str) -> FaultError:
    return _error(f"{turn.host} {why}", turn.fault, str(turn.fault.hosts))


def _error(reason: str, fault: Fault, word: str) -> FaultError:
    text = str(fault)
    start = max(0, text.find(word))
    return FaultError(reason, text, start, start + len(word))
