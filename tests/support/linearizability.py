"""Is a history of reads, writes and compare-and-sets of one register linearizable?

A register is linearizable when each operation seems to happen at one moment between its call and
its return. The checker looks for an order of such moments: of all operations that nobody else
returned before the call of, one is next; if the register then has the value that the operation
saw, go on with the rest, else try another one. What was tried, a set of operations done and the
state that they led to, is not tried again.

An operation whose outcome is unknown may have happened at any moment after its call, or never.
Source: J. M. Wing, C. Gong, Testing and Verifying Concurrent Objects (1993), and G. Lowe, Testing
for Linearizability (2017): the memory of what was tried.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

FOREVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a client.

    Attributes:
        called_at, returned_at: Moments on one clock; `FOREVER` if the outcome is unknown.
        kind: ``read``, ``write`` or ``cas``.
        value: What a read saw (None: nothing), or what is to be written.
        expected: Of a cas: the value that the register must have (None: nothing).
        succeeded: Whether a cas took effect; None: unknown.
    """

    called_at: float
    returned_at: float
    kind: str
    value: Hashable
    expected: Hashable = None
    succeeded: bool | None = True

    def __post_init__(self) -> None:
        """Check what every history must have."""
        assert self.called_at <= self.returned_at
        assert self.kind in {"read", "write", "cas"}


@dataclass(slots=True)
class Verdict:
    """What the checker found.

    Attributes:
        linearizable: Whether there is an order.
        stuck: If not: operations of which none could be next, after the longest order found.
        tried: How many steps it took.
    """

    linearizable: bool
    stuck: list[Operation] = field(default_factory=list)
    tried: int = 0


class TooHard(Exception):
    """The history has too many ways to be put in order."""


STEPS_MAX: Final = 5_000_000


def check_register(history: Iterable[Operation], *, steps_max: int = STEPS_MAX) -> Verdict:
    """Look for an order of the operations on one register.

    Values written must differ, or a lost write would go unnoticed.

    Raises:
        TooHard: None was found in so many steps, and not all were tried.
    """
    operations = sorted(history, key=lambda operation: operation.called_at)
    if any(op.kind == "read" and op.returned_at == FOREVER for op in operations):
        operations = [op for op in operations if (op.kind, op.returned_at) != ("read", FOREVER)]
    search = _Search(operations, steps_max)
    return search.run()


class _Search:
    """Depth first over orders of operations; a bit of `done` for each."""

    def __init__(self, operations: Sequence[Operation], steps_max: int) -> None:
        self._operations, self._steps_max = operations, steps_max
        self._must = sum(
            1 << number
            for number, operation in enumerate(operations)
            if operation.returned_at != FOREVER
        )
        self._seen: set[tuple[int, Hashable]] = set()
        self._steps = 0

    def run(self) -> Verdict:
        stack: list[tuple[int, int, Hashable]] = [(0, 0, None)]
        best, stuck = -1, list[Operation]()
        while stack:
            done, first, state = stack.pop()
            if done & self._must == self._must:
                return Verdict(True, tried=self._steps)
            while done >> first & 1:
                first += 1
            candidates = self._next(done, first)
            count = (done & self._must).bit_count()
            if count > best:
                best, stuck = count, [self._operations[number] for number in candidates]
            for number in reversed(candidates):
                self._steps += 1
                if self._steps > self._steps_max:
                    raise TooHard(f"{len(self._operations)} operations, {self._steps} steps")
                for after in _apply(self._operations[number], state):
                    key = (done | 1 << number, after)
                    if key not in self._seen:
                        self._seen.add(key)
                        stack.append((key[0], first, after))
        return Verdict(False, stuck, self._steps)

    def _next(self, done: int, first: int) -> list[int]:
        """Operations that may be next: called before any other that is left returned."""
        found, earliest = [], FOREVER
        for number in range(first, len(self._operations)):
            if done >> number & 1:
                continue
            operation = self._operations[number]
            if operation.called_at > earliest:
                break
            found.append(number)
            earliest = min(earliest, operation.returned_at)
        return found


def _apply(operation: Operation, state: Hashable) -> tuple[Hashable, ...]:
    """The states that an operation may leave; none if it cannot have happened now.

    One of unknown outcome that never happens is just left out of the order.
    """
    match operation.kind:
        case "read":
            return (state,) if state == operation.value else ()
        case "write":
            return (operation.value,)
        case _:
            matches = state == operation.expected
            if operation.succeeded is None:
                return (operation.value,) if matches else ()
            if operation.succeeded:
                return (operation.value,) if matches else ()
            return () if matches else (state,)
