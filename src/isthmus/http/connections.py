"""The table of open connections: how many each client has, and what they share."""

import asyncio
import enum
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from isthmus.net.connections import SharedMemory
from isthmus.net.tasks import TaskScope

CONNECTIONS_MAX: Final = 16_384
"""Connections of all clients together."""
UNSENT_SIZE_MAX: Final = 256 * 1024 * 1024
"""Bytes of answers that clients do not read, of all together; then one of them is dropped."""
REFUSALS_TOLD_MAX: Final = 100
"""Connections in a second that are told why they are refused; further ones are just closed."""
TURN_SIZE_MAX: Final = 1024 * 1024
"""Bytes of answers for one address in a turn of the loop; for more it sits out turns to come."""


class Closable(Protocol):
    """What the table needs of a connection."""

    def stop(self) -> asyncio.Task[None] | None:
        """Take no further request; close now if none is running, else return its task."""

    def abort(self) -> None:
        """Close at once."""

    def expire(self, deadline: float) -> None:
        """Close if a request began to arrive before `deadline` and has not arrived yet."""


class Admission(enum.Enum):
    """Whether a connection may stay."""

    WELCOME = enum.auto()
    CLIENT_FULL = enum.auto()
    """Its client has as many as it may."""
    FULL = enum.auto()
    """There are as many as there may be."""


class Connections:
    """All open connections.

    Args:
        per_client_max: Connections that one address may have; unix sockets do not count.
        clock: The wall clock as HTTP writes it.
        tasks: Owns the tasks that answer.
    """

    def __init__(self, *, per_client_max: int, clock: Callable[[], str], tasks: TaskScope) -> None:
        self.per_client_max = per_client_max
        self.tasks = tasks
        self._clock = clock
        self._open: set[Closable] = set()
        self._clients: dict[str, int] = {}
        self.unsent = SharedMemory(
            UNSENT_SIZE_MAX, measure=lambda transport: transport.get_write_buffer_size()
        )
        self._date, self._date_until = "", float("-inf")
        self._refusals, self._refusals_until = 0, float("-inf")
        self._answered: Counter[str] = Counter()  # Bytes not sat out yet, by address.

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def admit(self, connection: Closable, peer: str) -> Admission:
        """Enter a connection, unless there are too many."""
        if len(self._open) >= CONNECTIONS_MAX:
            return Admission.FULL
        count = self._clients.get(peer, 0)
        if peer and count >= self.per_client_max:
            return Admission.CLIENT_FULL
        self._open.add(connection)
        self._clients[peer] = count + 1
        return Admission.WELCOME

    def ignores(self, peer: str, now: float) -> bool:
        """Whether a new connection is not even worth a refusal: its client sends a flood."""
        if self._clients.get(peer, 0) < self.per_client_max:
            return False
        if now >= self._refusals_until:
            self._refusals, self._refusals_until = 0, now + 1.0
        self._refusals += 1
        return self._refusals > REFUSALS_TOLD_MAX

    def remove(self, connection: Closable, peer: str) -> None:
        """Strike out a connection; one that was not admitted is not there."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._clients[peer] -= 1
        if not self._clients[peer]:
            del self._clients[peer]

    def each(self) -> list[Closable]:
        """All that are open now."""
        return list(self._open)

    def note_answer(self, peer: str, size: int) -> None:
        """An answer of so many bytes was made for an address."""
        if not self._answered:
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._answered[peer] += size

    def has_turn(self, peer: str) -> bool:
        """Whether an answer for an address may be made now, as `take_turn` would let it."""
        return self._answered[peer] <= TURN_SIZE_MAX

    async def take_turn(self, peer: str) -> None:
        """Let others go first, if an address had its share of the loop's turns.

        Large answers take their time, and nothing else runs meanwhile: who asks for many of them
        at once must not make everybody wait for all. A request takes a handful of turns from its
        connection to its answer, and should not meet a large answer in each of them.
        """
        while self._answered[peer] > TURN_SIZE_MAX:  # noqa: ASYNC110 - Once a turn is meant.
            await asyncio.sleep(0)

    def _begin_turn(self) -> None:
        for peer in self._answered:
            self._answered[peer] -= TURN_SIZE_MAX
        self._answered = +self._answered  # Those above zero.
        if self._answered:
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def date(self, now: float) -> str:
        """Value of the ``Date`` header, formatted once a second."""
        if now >= self._date_until:
            self._date, self._date_until = self._clock(), now + 1.0
        return self._date
