"""Replies that came before: equal bytes are decoded once.

Many clients read the same thing of another datacenter again and again, and every reply is made
anew there. Records are immutable, so whoever gets equal bytes may get the same record; what is
made of it further on (`http.bodies` knows records by their identity) is then made once, too.
"""

from typing import Any, Final

from isthmus.wire.msgpack import from_plain, unpack

ENTRIES_MAX: Final = 64
"""Replies kept."""
SIZE_MAX: Final = 512 * 1024
"""Bytes of all replies kept, as they came; decoded they take several times as much."""
REPLY_SIZE_MAX: Final = SIZE_MAX // 8
"""Larger replies are not kept."""
NEWCOMERS_MAX: Final = 64
"""Replies remembered, by hash, that came once: only what comes twice is kept."""

_Key = tuple[object, bytes]


class Replies:
    """Decodes replies and keeps those that come again; the oldest go first."""

    def __init__(self) -> None:
        self._known: dict[_Key, Any] = {}
        self._newcomers: dict[int, None] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._known)

    def decode(self, kind: Any, packed: bytes) -> Any:
        """Decode a reply, or find it among those that came before.

        Args:
            kind: Its type, as in `model.methods`.
            packed: One MessagePack value.

        Raises:
            MalformedPacket: As `wire.msgpack.unpack` and `from_plain`.
        """
        key = (kind, packed)
        found = self._known.get(key)
        if found is not None:
            return found
        value = from_plain(kind, unpack(packed))
        if len(packed) <= REPLY_SIZE_MAX:
            self._note(key, value)
        return value

    def _note(self, key: _Key, value: Any) -> None:
        mark = hash(key)
        if mark not in self._newcomers:
            self._newcomers[mark] = None
            if len(self._newcomers) > NEWCOMERS_MAX:
                del self._newcomers[next(iter(self._newcomers))]
            return
        del self._newcomers[mark]
        self._known[key] = value
        self._size += len(key[1])
        while len(self._known) > ENTRIES_MAX or self._size > SIZE_MAX:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._size -= len(oldest[1])
