"""What is committed before it is under its keys: batches that no single transaction can hold.

====================================  ==========================================================
``r/<index>/<part>``                  a compressed part of the batch; index 8, part 2 bytes
``r/<index>``                         number of parts and CRC-32 of them all, in MessagePack;
                                      written together with the index, which is the commit
====================================  ==========================================================

Parts without their header are of no meaning, and so is a header without all parts: its changes
are under their keys, and the record is being removed. Source: design of storage, §6.
"""

import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgpack

from isthmus.store.engine import Batch, TooLarge

PREFIX: Final = b"r/"
SIZE_MAX: Final = 512 * 1024 * 1024
"""Uncompressed size of one command's changes, beyond which it is refused."""
_INDEX: Final = struct.Struct(">Q")
_PART: Final = struct.Struct(">H")
_PARTS_MAX: Final = 65_535
_HEADER_SIZE: Final = len(PREFIX) + _INDEX.size
"""Bytes of a header's key."""


@dataclass(frozen=True, slots=True)
class Record:
    """The changes of a batch: as `store.engine.Batch` has them."""

    index: int
    puts: dict[bytes, bytes]
    deletes: set[bytes]
    ranges: list[tuple[bytes, bytes]]

    @classmethod
    def of(cls, batch: Batch) -> "Record":
        """The record of a batch.

        Raises:
            TooLarge: It has more than `SIZE_MAX` bytes.
        """
        if (size := size_of(batch)) > SIZE_MAX:
            raise TooLarge(f"{size} bytes in one command, at most {SIZE_MAX}", operation="commit")
        return cls(batch.index, batch.puts, batch.deletes, batch.ranges)

    @property
    def key(self) -> bytes:
        """Of its header; those of its parts begin with it."""
        return PREFIX + _INDEX.pack(self.index)

    def stored(self, part_size: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Keys and values of its parts, and the value of its header.

        Raises:
            TooLarge: It has more parts than can be numbered.
        """
        data = zlib.compress(
            msgpack.packb([list(self.puts.items()), sorted(self.deletes), self.ranges]), 1
        )
        parts = [data[start : start + part_size] for start in range(0, len(data), part_size)]
        if len(parts) > _PARTS_MAX:
            raise TooLarge(f"{len(data)} compressed bytes in one command", operation="commit")
        numbered = [
            (self.key + b"/" + _PART.pack(number), part) for number, part in enumerate(parts)
        ]
        return numbered, msgpack.packb([len(parts), zlib.crc32(data)])

    def hides(self, key: bytes) -> bool:
        """Whether the row stored under `key` is no more."""
        return key in self.deletes or any(start <= key < end for start, end in self.ranges)


def read(pairs: Iterable[tuple[bytes, bytes]]) -> list[Record]:
    """Records out of what is stored under `PREFIX`, in order of keys; oldest first."""
    heads: dict[int, list[int]] = {}
    parts: dict[int, list[bytes]] = {}
    for key, value in pairs:
        (index,) = _INDEX.unpack_from(key, len(PREFIX))
        if len(key) == _HEADER_SIZE:
            heads[index] = msgpack.unpackb(value)
        else:
            parts.setdefault(index, []).append(value)
    found = []
    for index, (count, checksum) in sorted(heads.items()):
        data = b"".join(parts.get(index, ()))
        if len(parts.get(index, ())) != count or zlib.crc32(data) != checksum:
            continue  # Settled by half: its parts go first.
        puts, deletes, ranges = msgpack.unpackb(zlib.decompress(data), use_list=False)
        found.append(Record(index, dict(puts), set(deletes), list(ranges)))
    return found


class Pending:
    """Lays records over rows that are read in order of their keys.

    Args:
        records: Oldest first.
        prefix: What the keys of the rows start with.
    """

    def __init__(self, records: list[Record], prefix: bytes) -> None:
        self._records = records
        puts: dict[bytes, bytes] = {}
        for record in records:
            for key in [key for key in puts if record.hides(key)]:
                del puts[key]
            puts.update(
                (key, value) for key, value in record.puts.items() if key.startswith(prefix)
            )
        self._puts = puts
        self._keys = sorted(puts)

    def __bool__(self) -> bool:
        return bool(self._records)

    def merge(
        self, rows: list[tuple[bytes, bytes]], *, last: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        """The page as it should read, with new rows up to its last key, or all that remain."""
        upto = len(self._keys) if last else bisect_left(self._keys, rows[-1][0] + b"\x00")
        new, self._keys = self._keys[:upto], self._keys[upto:]
        kept = [
            (key, value)
            for key, value in rows
            if key not in self._puts and not any(record.hides(key) for record in self._records)
        ]
        yield from sorted([*kept, *((key, self._puts[key]) for key in new)])


def size_of(batch: Batch) -> int:
    """Bytes of a batch's keys and values."""
    size = sum(len(key) + len(value) for key, value in batch.puts.items())
    size += sum(map(len, batch.deletes))
    return size + sum(len(start) + len(end) for start, end in batch.ranges)
