"""Keys of the stored form: binary, in ``memcmp`` order.

====================================  ==========================================================
``m/format``                          format, cluster, datacenter and creation time
``m/index``                           index, batch id, epoch, generation; rewritten by each commit
``m/leader``                          who leads
``d/<generation>/<table>/<pk>``       a row
``i/<generation>/<table>``            index that last changed the table, 8 bytes big-endian
====================================  ==========================================================

``<pk>`` is the key's components in UTF-8, each but the last ended by ``00``; inside a component
``00`` is written ``01 01`` and ``01`` is ``01 02``, which keeps the order and leaves ``00`` to the
ends. The owner comes first, so that all of a node is one prefix.
Source: design of storage, §4 (which writes ``00 FF``: there one owner's prefix may be another's).
"""

import functools
import struct
from typing import Final

FORMAT_KEY: Final = b"m/format"
INDEX_KEY: Final = b"m/index"
LEADER_KEY: Final = b"m/leader"
_TABLE_AT: Final = len(b"d/0000/")
_END: Final = b"\x00"
_FOLDED_MAX: Final = 16_384
"""Names repeat; so many of them are kept folded."""
_FOLDED_SIZE_MAX: Final = 64
"""Longer names are folded anew each time, so that callers cannot fill our memory."""
_INDEX: Final = struct.Struct(">Q")


def component(text: str) -> bytes:
    """One component of a primary key; text that came as other bytes keeps them."""
    data = text.encode("utf-8", "surrogateescape")
    if b"\x00" in data or b"\x01" in data:
        data = data.replace(b"\x01", b"\x01\x02").replace(b"\x00", b"\x01\x01")
    return data


def folded(text: str) -> bytes:
    """One component whose case does not count, as in names of nodes and services."""
    return _folded(text) if len(text) <= _FOLDED_SIZE_MAX else component(text.lower())


def folded_id(text: str) -> bytes:
    """As `folded`, for names that are used once and would only displace others that are kept."""
    return component(text.lower())


@functools.lru_cache(_FOLDED_MAX)
def _folded(text: str) -> bytes:
    return component(text.lower())


def owned(owner: bytes, *rest: bytes) -> bytes:
    """Join components: the owner first. With ``b""`` last it is the prefix of all it owns."""
    return _END.join((owner, *rest))


def row_key(generation: int, table: str, pk: bytes = b"") -> bytes:
    """Key of a row; without `pk` the prefix of the table's rows."""
    return b"d/%04x/%s/%s" % (generation, table.encode("ascii"), pk)


def rows_prefix(generation: int) -> bytes:
    """Prefix of all rows of a generation."""
    return b"d/%04x/" % generation


def split_row_key(key: bytes) -> tuple[str, bytes]:
    """Table and primary key of a row's key."""
    _, _, table, pk = key.split(b"/", 3)
    return table.decode("ascii"), pk


def table_part(key: bytes) -> bytes:
    """A row's key up to its primary key."""
    return key[: key.index(b"/", _TABLE_AT) + 1]


def table_index_key(generation: int, table: str = "") -> bytes:
    """Key of a table's index; without `table` the prefix of all."""
    return b"i/%04x/%s" % (generation, table.encode("ascii"))


def encode_index(index: int) -> bytes:
    """A table's index as stored."""
    return _INDEX.pack(index)


def decode_index(data: bytes) -> int:
    """Index out of its stored form."""
    (index,) = _INDEX.unpack(data)
    return int(index)


def prefix_end(prefix: bytes) -> bytes | None:
    """Smallest key after all keys that start with `prefix`; None when there is no end."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
