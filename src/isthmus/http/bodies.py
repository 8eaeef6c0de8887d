"""Encoded bodies of answers that have not changed since they were last asked for.

The store gives the same immutable tuple until it changes, so the tuple's identity is the key.
"""

from collections.abc import Callable
from typing import Final

ENTRIES_MAX: Final = 64
"""Bodies kept."""
SIZE_MAX: Final = 4 * 1024 * 1024
"""Bytes of all bodies kept."""
BODY_SIZE_MAX: Final = SIZE_MAX // 4
"""Larger bodies are not kept."""


class Bodies:
    """Encoded bodies by the identity of what was encoded; the oldest go first."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[int, str], tuple[object, bytes]] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._bodies)

    def get(self, source: object, variant: str, encode: Callable[[], bytes]) -> bytes:
        """The body made from `source`, encoded now or before.

        Args:
            source: An immutable object; kept alive as long as its body, so that its identity
                cannot become another's.
            variant: Tells apart several bodies made from one source.
            encode: Makes the body.
        """
        key = (id(source), variant)
        found = self._bodies.get(key)
        if found is not None:
            return found[1]
        body = encode()
        if len(body) <= BODY_SIZE_MAX:
            self._bodies[key] = (source, body)
            self._size += len(body)
            while len(self._bodies) > ENTRIES_MAX or self._size > SIZE_MAX:
                _, dropped = self._bodies.pop(next(iter(self._bodies)))
                self._size -= len(dropped)
        return body
