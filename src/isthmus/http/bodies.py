"""Encoded bodies of answers that have not changed since they were last asked for.

The store gives the same immutable object until it changes, so the object's identity is the key.
Answers that are made anew for every request come through here, too: what is kept is only what
was asked for twice, so that they do not push out what is asked for often.
"""

import zlib
from collections.abc import Callable
from typing import Final

ENTRIES_MAX: Final = 64
"""Bodies kept."""
SIZE_MAX: Final = 4 * 1024 * 1024
"""Bytes of all bodies kept."""
BODY_SIZE_MAX: Final = SIZE_MAX // 4
"""Larger bodies are not kept."""
NEWCOMERS_MAX: Final = 16
"""Objects remembered that have been asked for once."""

_GZIP_LEVEL: Final = 5
_GZIP_WINDOW: Final = 31  # zlib's number for the gzip container.

_Key = tuple[int, str]


class Bodies:
    """Encoded bodies by the identity of what was encoded; the oldest go first.

    Args:
        entries_max: Bodies kept.
        newcomers_max: Objects remembered that have been asked for once.
    """

    def __init__(
        self, *, entries_max: int = ENTRIES_MAX, newcomers_max: int = NEWCOMERS_MAX
    ) -> None:
        self._entries_max, self._newcomers_max = entries_max, newcomers_max
        self._bodies: dict[_Key, tuple[object, bytes]] = {}
        self._newcomers: dict[_Key, object] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._bodies)

    def get(self, source: object, variant: str, encode: Callable[[], bytes]) -> bytes:
        """The body made from `source`, encoded now or before.

        Args:
            source: An immutable object; kept alive as long as it is a key, so that its identity
                cannot become another's.
            variant: Tells apart several bodies made from one source.
            encode: Makes the body.
        """
        key = (id(source), variant)
        found = self._bodies.get(key)
        if found is not None:
            return found[1]
        body = encode()
        if len(body) > BODY_SIZE_MAX:
            return body
        if key in self._newcomers:
            del self._newcomers[key]
            self._keep(key, source, body)
        else:
            self._newcomers[key] = source
            if len(self._newcomers) > self._newcomers_max:
                del self._newcomers[next(iter(self._newcomers))]
        return body

    def _keep(self, key: _Key, source: object, body: bytes) -> None:
        self._bodies[key] = (source, body)
        self._size += len(body)
        while len(self._bodies) > self._entries_max or self._size > SIZE_MAX:
            _, dropped = self._bodies.pop(next(iter(self._bodies)))
            self._size -= len(dropped)


def compress(body: bytes) -> bytes:
    """A body as gzip."""
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return packer.compress(body) + packer.flush()
