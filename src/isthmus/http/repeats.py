"""Answers given again, whole, to requests that are byte for byte the same.

Clients ask the same over and over: a request that arrives while nothing has changed since the same
bytes were answered gets the same bytes, and is neither parsed nor carried out. So that this can
never be seen, an answer is kept only where it follows from the request and from the tables alone
(`http.routing.Route.repeats`), and all that are kept are forgotten when a table changes, when this
server is not sure that it may answer for its datacenter, and when the clock's second is over, which
the ``Date`` header shows.
"""

from typing import Final, Protocol

from isthmus.model.timing import Timing

ANSWERS_MAX: Final = 512
"""Answers kept; then the oldest go."""
SIZE_MAX: Final = 4 * 1024 * 1024
"""Bytes of all of them."""
ANSWER_SIZE_MAX: Final = SIZE_MAX // 8
"""Larger ones are not kept."""
REQUEST_SIZE_MAX: Final = 2048
"""Requests of more bytes are not remembered."""


class Tables(Protocol):
    """The data that answers are made from."""

    def version(self) -> int | None:
        """A number that is another after each change of what default reads show.

        None when such a read could not be answered here and now.
        """

    def note_repeat(self, method: str) -> None:
        """An answer to a call of `method` was given again, without the call."""


class NoTables:
    """The data is elsewhere: nothing is known of its changes."""

    def version(self) -> int | None:
        """None."""
        return None

    def note_repeat(self, method: str) -> None:
        """Never called, since nothing is kept."""


class Repeats:
    """The answers kept.

    Args:
        tables: What they are made from.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._answers: dict[bytes, tuple[bytes, str, Timing]] = {}
        self._size = 0
        self._version: int | None = None
        self._date = ""

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._answers)

    def version(self) -> int | None:
        """What is to be passed to `keep` after the answer was made; None: it cannot be kept."""
        return self._tables.version()

    def get(self, request: bytes, date: str) -> bytes | None:
        """The answer to these bytes, if it is still what would be answered.

        Args:
            request: A whole request.
            date: Value of the ``Date`` header now.
        """
        found = self._answers.get(request)
        if found is None:
            return None
        if date != self._date or self._tables.version() != self._version:
            self._forget()
            return None
        self._tables.note_repeat(found[1])
        found[2].add_instant()
        return found[0]

    def keep(
        self,
        request: bytes,
        answer: bytes,
        *,
        method: str,
        version: int | None,
        date: str,
        timing: Timing,
    ) -> None:
        """Remember an answer, unless the tables changed while it was made.

        Args:
            request: The whole request.
            answer: The whole response.
            method: The RPC method that it shows the reply of.
            version: Of the tables before the request was carried out.
            date: The answer's ``Date`` header.
            timing: Of requests of this kind.
        """
        if version is None or version != self._tables.version():
            return
        if version != self._version or date != self._date:
            self._forget()
            self._version, self._date = version, date
        if len(answer) > ANSWER_SIZE_MAX or request in self._answers:
            return
        self._answers[request] = (answer, method, timing)
        self._size += len(answer)
        while len(self._answers) > ANSWERS_MAX or self._size > SIZE_MAX:
            dropped, _, _ = self._answers.pop(next(iter(self._answers)))
            self._size -= len(dropped)

    def _forget(self) -> None:
        self._answers.clear()
        self._size = 0
        self._version = None
