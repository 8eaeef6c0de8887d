"""Snapshots of a datacenter: all rows at one index, as a file that no engine is part of.

====================  =======================================================================
``meta.json``         `SnapshotMeta` as JSON
``state.bin``         ``[table, row]`` after ``[table, row]``; a row as `store.rows` stores it
``SHA256SUMS``        checksums of both
====================  =======================================================================

in a tar, compressed with gzip (`wire.archive`): the same files as in a snapshot of Consul's, whose
command line can check ours, too; ``meta.json`` tells them apart. Tables stand in the order of
`SCHEMAS`, rows in that of their keys. The rows are encoded and compressed once, into a scratch
file; the archive is three gzip members: what stands before the rows, the rows, what stands behind
them.
Source: design of storage, §9.
"""

import hashlib
import heapq
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final, Protocol

import msgpack

from isthmus.model.record import Record
from isthmus.store.engine import Corrupt
from isthmus.store.rows import decode_row, encode_row
from isthmus.store.store import SCHEMAS, Store
from isthmus.wire.archive import (
    PIECE_SIZE,
    SUMS,
    TAR_END,
    ArchiveReader,
    Readable,
    UnreadableSnapshot,
    format_sums,
    pack_members,
    tar_header,
    tar_padding,
)

FORMAT: Final = 1
META: Final = "meta.json"
STATE: Final = "state.bin"
META_SIZE_MAX: Final = 64 * 1024
ROW_SIZE_MAX: Final = 64 * 1024 * 1024
"""Longest stored row that is read."""

_GZIP: Final = 31
_GZIP_LEVEL: Final = 4
_NAME_SIZE_MAX: Final = 64
_SORTED_MAX: Final = 5000
_INDEX_MAX: Final = 2**63 - 1
_SCHEMAS: Final = {schema.name: schema for schema in SCHEMAS}


class Writable(Protocol):
    """A file to write."""

    def write(self, data: bytes, /) -> object:
        """Write all of it."""


class Scratch(Readable, Writable, Protocol):
    """A file of our own, to write and then to read."""

    def seek(self, offset: int, /) -> object:
        """Go to a place."""


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot says of itself.

    Attributes:
        index: Index at which it was taken.
        dc: Datacenter whose data it is.
        cluster_uuid: Id of the storage it was taken from.
        created: When, as RFC 3339 writes it.
        rows: Number of rows by table.
        format: Version of the format.
    """

    index: int
    dc: str
    cluster_uuid: str
    created: str
    rows: Mapping[str, int]
    format: int = FORMAT

    def encode(self) -> bytes:
        """As JSON."""
        shown = {
            "format": self.format,
            "index": self.index,
            "dc": self.dc,
            "cluster_uuid": self.cluster_uuid,
            "created": self.created,
            "rows": dict(self.rows),
        }
        return json.dumps(shown, indent=2).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> "SnapshotMeta":
        """Out of JSON.

        Raises:
            UnreadableSnapshot: Of another shape, or of a newer release.
        """
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UnreadableSnapshot(f"failed to decode snapshot metadata: {error}") from error
        if not _is_ours(found):
            raise UnreadableSnapshot(
                "this is no snapshot of isthmus; if it is one of Consul: isthmus snapshot import"
            )
        if found["format"] != FORMAT:
            raise UnreadableSnapshot(
                f"the snapshot has format {found['format']}, this release knows format {FORMAT}"
            )
        index, rows = found.get("index"), found.get("rows")
        texts = [found.get(name) for name in ("dc", "cluster_uuid", "created")]
        if (
            type(index) is not int
            or not 0 < index < _INDEX_MAX
            or not isinstance(rows, dict)
            or not all(type(count) is int and count >= 0 for count in rows.values())
            or not all(isinstance(text, str) for text in texts)
        ):
            raise UnreadableSnapshot("failed to decode snapshot metadata: a value is missing")
        dc, cluster, created = (str(text) for text in texts)
        return cls(index, dc, cluster, created, rows)


@dataclass(frozen=True, slots=True)
class View:
    """The tables at one index: references to rows, which are immutable.

    Attributes:
        index: The index.
        tables: By name, rows by primary key.
    """

    index: int
    tables: Mapping[str, Mapping[bytes, Record]]


def take_view(store: Store) -> View:
    """References to all that a store holds now; as quick as copying a few dicts."""
    return View(store.index, store.copy_rows())


# Writing ------------------------------------------------------------------------------------------


def write_snapshot(
    view: View,
    out: Writable,
    scratch: Scratch,
    *,
    dc: str,
    cluster: str,
    created: str,
    modified: int,
) -> SnapshotMeta:
    """Write a snapshot.

    It takes about 12 s and no more than a few MiB for a million rows; not for an event loop.

    Args:
        view: What to write.
        out: Gets the archive.
        scratch: An empty file, for the compressed rows; of no use afterwards.
        dc: Datacenter whose data it is.
        cluster: Id of its storage.
        created: The moment, as RFC 3339 writes it.
        modified: The same in seconds since 1970.
    """
    rows = {name: len(view.tables.get(name, ())) for name in _SCHEMAS}
    meta = SnapshotMeta(view.index, dc, cluster, created, rows)
    size, digest = _write_state(view, scratch)
    described = meta.encode()
    sums = {META: hashlib.sha256(described).hexdigest(), STATE: digest}
    before = pack_members([(META, described)], modified=modified) + tar_header(
        STATE, size, modified=modified
    )
    behind = tar_padding(size) + pack_members([(SUMS, format_sums(sums))], modified=modified)
    out.write(_packed(before))
    scratch.seek(0)
    while piece := scratch.read(PIECE_SIZE):
        out.write(piece)
    out.write(_packed(behind + TAR_END))
    return meta


def _write_state(view: View, scratch: Writable) -> tuple[int, str]:
    """Write all rows compressed; return their size before that, and their SHA-256."""
    size, digest = 0, hashlib.sha256()
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
    pending: list[bytes] = []
    pending_size = 0
    for row in _encoded(view):
        pending.append(row)
        pending_size += len(row)
        if pending_size >= PIECE_SIZE:
            piece = b"".join(pending)
            digest.update(piece)
            scratch.write(packer.compress(piece))
            size += pending_size
            pending, pending_size = [], 0
    piece = b"".join(pending)
    digest.update(piece)
    scratch.write(packer.compress(piece) + packer.flush())
    return size + pending_size, digest.hexdigest()


def _encoded(view: View) -> Iterator[bytes]:
    packer = msgpack.Packer(use_bin_type=True)
    for name in _SCHEMAS:
        rows = view.tables.get(name, {})
        for pk in _in_order(rows):
            yield packer.pack((name, encode_row(rows[pk])))


def _in_order(rows: Mapping[bytes, Record]) -> Iterator[bytes]:
    """Keys in order, sorted in parts: one long sort would hold the interpreter all the while."""
    keys = list(rows)
    parts = [
        sorted(keys[start : start + _SORTED_MAX]) for start in range(0, len(keys), _SORTED_MAX)
    ]
    return heapq.merge(*parts)


def _packed(data: bytes) -> bytes:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
    return packer.compress(data) + packer.flush()


def _is_ours(meta: object) -> bool:
    return isinstance(meta, dict) and type(meta.get("format")) is int


# Reading ------------------------------------------------------------------------------------------


def is_ours(source: Readable) -> bool:
    """Whether an archive says that it is a snapshot of ours, and not one of Consul's.

    Args:
        source: The file, at its beginning.

    Raises:
        UnreadableSnapshot: It is none of both.
    """
    archive = ArchiveReader(source, (META, STATE))
    name, _ = next(archive.files(), ("", 0))
    if name != META:
        raise UnreadableSnapshot(f"the snapshot does not begin with {META}")
    try:
        return _is_ours(json.loads(archive.whole(META_SIZE_MAX, META)))
    except (ValueError, RecursionError) as error:
        raise UnreadableSnapshot(f"failed to decode snapshot metadata: {error}") from error


class SnapshotReader:
    """Reads a snapshot once.

    Args:
        source: The file, at its beginning.

    Raises:
        UnreadableSnapshot: Its head says that it is none, or not one for this release.
    """

    def __init__(self, source: Readable) -> None:
        self._archive = ArchiveReader(source, (META, STATE))
        self._files = self._archive.files()
        name, _ = next(self._files, ("", 0))
        if name != META:
            raise UnreadableSnapshot(f"the snapshot does not begin with {META}")
        described = self._archive.whole(META_SIZE_MAX, META)
        self.meta = SnapshotMeta.decode(described)
        unknown = [table for table, count in self.meta.rows.items() if table not in _SCHEMAS]
        if any(self.meta.rows[table] for table in unknown):
            raise UnreadableSnapshot(
                f"the snapshot is of a newer release: it has rows of {', '.join(unknown)[:200]}"
            )

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """Yield table and stored row, tables one after the other.

        Only after the last one it is known that the file is whole: use nothing before.

        Raises:
            UnreadableSnapshot: Truncated, damaged, or other rows than announced.
        """
        name, _ = next(self._files, ("", 0))
        if name != STATE:
            raise UnreadableSnapshot(f"the snapshot has no {STATE} behind its {META}")
        counts = dict.fromkeys(_SCHEMAS, 0)
        order = {table: place for place, table in enumerate(_SCHEMAS)}
        last = 0
        for table, row in self._unpacked():
            if table not in counts or order[table] < last:
                raise UnreadableSnapshot(f"the snapshot has a row of {table!r} out of order")
            last = order[table]
            counts[table] += 1
            yield table, row
        if extra := next(self._files, None):
            raise UnreadableSnapshot(f'unexpected file "{extra[0]}" in snapshot')
        for table, count in counts.items():
            if count != self.meta.rows.get(table, 0):
                raise UnreadableSnapshot(
                    f"the snapshot announces {self.meta.rows.get(table, 0)} rows of {table} and "
                    f"has {count}"
                )

    def _unpacked(self) -> Iterator[tuple[str, bytes]]:
        unpacker = msgpack.Unpacker(
            use_list=False,
            raw=False,
            max_buffer_size=ROW_SIZE_MAX,
            max_bin_len=ROW_SIZE_MAX,
            max_str_len=_NAME_SIZE_MAX,
            max_array_len=2,
            max_map_len=0,
            max_ext_len=0,
        )
        fed = 0
        try:
            for piece in self._archive.content():
                fed += len(piece)
                unpacker.feed(piece)
                for value in unpacker:
                    yield _entry(value)
        except msgpack.BufferFull:
            raise UnreadableSnapshot(
                f"a row in the snapshot exceeds {ROW_SIZE_MAX} bytes"
            ) from None
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise UnreadableSnapshot(f"the snapshot's {STATE} cannot be read: {error}") from error
        if unpacker.tell() != fed:
            raise UnreadableSnapshot(f"the snapshot's {STATE} ends inside a row")


def _entry(value: object) -> tuple[str, bytes]:
    if isinstance(value, tuple) and len(value) == 2:
        table, row = value
        if isinstance(table, str) and isinstance(row, bytes):
            return table, row
    raise UnreadableSnapshot(f"the snapshot's {STATE} has something else than rows")


def load_snapshot(source: Readable) -> tuple[SnapshotMeta, Store]:
    """Read a whole snapshot into tables of their own; not for an event loop.

    Raises:
        UnreadableSnapshot: It cannot be read, down to its last row.
    """
    reader = SnapshotReader(source)
    store = Store()
    for table, group in groupby(reader.rows(), key=itemgetter(0)):
        record = _SCHEMAS[table].record
        try:
            store.fill(table, (decode_row(record, data) for _, data in group))
        except (Corrupt, UnicodeError, AttributeError, TypeError) as error:
            raise UnreadableSnapshot(f"the snapshot's rows of {table}: {error}") from error
    return reader.meta, store
