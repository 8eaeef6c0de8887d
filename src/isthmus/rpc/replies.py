"""Replies that came before: decoded once by who asks, encoded once by who answers.

Many clients read the same thing of another datacenter again and again. Records are immutable, so
whoever gets equal bytes may get the same record (what is made of it further on, in `http.bodies`,
is then made once, too), and a record whose parts are the very ones of an earlier one has its
bytes.
"""

from typing import Any, Final, Generic, TypeVar

import msgspec

from isthmus.model.record import Record
from isthmus.wire.blob import encode_message, message_from_plain
from isthmus.wire.msgpack import unpack

V = TypeVar("V")

ENTRIES_MAX: Final = 64
"""Replies kept."""
SIZE_MAX: Final = 512 * 1024
"""Bytes of all replies kept, as on the wire; decoded they take several times as much."""
REPLY_SIZE_MAX: Final = SIZE_MAX // 8
"""Larger replies are not kept."""
NEWCOMERS_MAX: Final = 64
"""Replies remembered, by hash, that came once: only what comes twice is kept."""

_SCALARS: Final = frozenset({bool, int, str, bytes, type(None)})


class _Kept(Generic[V]):
    """What came twice, by key; the oldest go first."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[V, int]] = {}
        self._newcomers: dict[int, None] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Any) -> V | None:
        found = self._kept.get(key)
        return None if found is None else found[0]

    def note(self, key: Any, value: V, size: int) -> None:
        """Keep `value`, of `size` bytes, if its key was noted before."""
        if size > REPLY_SIZE_MAX:
            return
        mark = hash(key)
        if mark not in self._newcomers:
            self._newcomers[mark] = None
            if len(self._newcomers) > NEWCOMERS_MAX:
                del self._newcomers[next(iter(self._newcomers))]
            return
        del self._newcomers[mark]
        self._kept[key] = value, size
        self._size += size
        while len(self._kept) > ENTRIES_MAX or self._size > SIZE_MAX:
            _, dropped = self._kept.pop(next(iter(self._kept)))
            self._size -= dropped


class Replies:
    """Decodes replies; equal bytes that come again give the same object."""

    def __init__(self) -> None:
        self._kept: _Kept[Any] = _Kept()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def decode(self, kind: Any, packed: bytes) -> Any:
        """Decode a reply, or find it among those that came before.

        Args:
            kind: Its type, as in `model.methods`.
            packed: One MessagePack value.

        Raises:
            MalformedPacket: As `wire.msgpack.unpack` and `wire.blob.message_from_plain`.
        """
        key = (kind, packed)
        value = self._kept.find(key)
        if value is None:
            value = message_from_plain(kind, unpack(packed))
            self._kept.note(key, value, len(packed))
        return value


class Answers:
    """Encodes replies; one with the same parts as an earlier one gives the same bytes."""

    def __init__(self) -> None:
        # The reply stands beside its bytes: as long as its parts live, no others can get their
        # identities, which are what the key is made of.
        self._kept: _Kept[tuple[Record, bytes]] = _Kept()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def encode(self, reply: object) -> bytes:
        """MessagePack of a reply: a record, or a plain value."""
        if not isinstance(reply, Record):
            return encode_message(reply)
        parts = msgspec.structs.astuple(reply)
        # Plain values count as such, everything else by identity: hashing a list of instances
        # would cost as much as encoding it.
        key = (type(reply), *[part if type(part) in _SCALARS else id(part) for part in parts])
        found = self._kept.find(key)
        if found is not None:
            return found[1]
        packed = encode_message(reply)
        self._kept.note(key, (reply, packed), len(packed))
        return packed
