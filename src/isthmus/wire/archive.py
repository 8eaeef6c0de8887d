"""The container of snapshots: a gzip-compressed tar of a few files, the last with their checksums.

Ours and Consul's differ in the files inside only. Of tar, what Go and we write of it is read:
plain files under short names, in 512-byte blocks. Memory is bounded whatever comes in: a file's
content passes through in pieces, and files that are read whole have a largest size.

Layout: ``gzip(header:512 | content | zeros to 512, for each file; zeros:1024)``; the gzip stream
may consist of several members. ``SHA256SUMS`` has lines ``<hex>  <name>``.
Source: protocol/http-api.md §6.5; the public tar format (POSIX ustar).
"""

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from isthmus.errors import IsthmusError

SUMS: Final = "SHA256SUMS"
BLOCK: Final = 512
TAR_END: Final = bytes(2 * BLOCK)
PIECE_SIZE: Final = 256 * 1024
"""Content comes in pieces of at most so many bytes."""
SUMS_SIZE_MAX: Final = 64 * 1024
FILES_MAX: Final = 16

_READ_SIZE: Final = 64 * 1024
_GZIP: Final = 31  # zlib's number for the gzip container.
_TRAILING_MAX: Final = 1024 * 1024
_PLAIN: Final = frozenset({b"0", b"\x00"})
_EXTENSIONS: Final = frozenset({b"x", b"g"})  # Of later tar formats; nothing we need is in them.
_SUM_LINE: Final = re.compile(r"([0-9a-f]{64})  (\S+)")


class UnreadableSnapshot(IsthmusError):
    """The file is no snapshot, or a damaged one. Nothing was changed; use another file."""


class Readable(Protocol):
    """A file to read."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def pack_members(files: Iterable[tuple[str, bytes]], *, modified: int) -> bytes:
    """Small files, as a tar has them.

    Args:
        files: Names and contents.
        modified: Seconds since 1970 that all of them tell.
    """
    return b"".join(
        tar_header(name, len(content), modified=modified) + content + tar_padding(len(content))
        for name, content in files
    )


def tar_header(name: str, size: int, *, modified: int) -> bytes:
    """The block before a file's content."""
    encoded = name.encode("ascii")
    assert len(encoded) < 100
    number = b"%011o\x00" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    header = bytearray(BLOCK)
    for offset, value in (
        (0, encoded),
        (100, b"0000600\x00"),
        (108, b"0000000\x00"),
        (116, b"0000000\x00"),
        (124, number),
        (136, b"%011o\x00" % modified),
        (148, b" " * 8),
        (156, b"0"),
        (257, b"ustar\x0000"),
    ):
        header[offset : offset + len(value)] = value
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header)


def tar_padding(size: int) -> bytes:
    """What fills up the last block of a content of `size` bytes."""
    return bytes(-size % BLOCK)


def format_sums(sums: Mapping[str, str]) -> bytes:
    """Content of `SUMS`: hexadecimal SHA-256 by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode("ascii")


class ArchiveReader:
    """Reads an archive once, from its beginning to its end.

    Args:
        source: The file.
        known: Names that may be in it beside `SUMS`.
    """

    def __init__(self, source: Readable, known: Iterable[str]) -> None:
        self._bytes = _Inflated(source)
        self._known = frozenset(known)
        self._sums: dict[str, str] = {}
        self._listed: dict[str, str] | None = None
        self._left = 0
        """Bytes of the current file's content that were not read yet."""

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of each file; its content is to be read with `content`.

        After the last one all checksums have been compared.

        Raises:
            UnreadableSnapshot: Truncated, damaged, or something else than expected.
        """
        while (header := self._header()) is not None:
            name, size = header
            self._left = size
            if name == SUMS:
                self._listed = _parse_sums(self.whole(SUMS_SIZE_MAX, name))
            elif name not in self._known:
                raise UnreadableSnapshot(f'unexpected file "{name}" in snapshot')
            elif name in self._sums:
                raise UnreadableSnapshot(f'file "{name}" is twice in the snapshot')
            else:
                digest = self._digest = hashlib.sha256()
                yield name, size
                for _ in self.content():
                    pass
                self._sums[name] = digest.hexdigest()
            self._exactly(-size % BLOCK)
            if len(self._sums) > FILES_MAX:
                raise UnreadableSnapshot("too many files in the snapshot")
        self._bytes.finish()
        self._verify()

    def content(self) -> Iterator[bytes]:
        """Yield the content of the current file, in pieces."""
        while self._left:
            piece = self._bytes.read(min(self._left, PIECE_SIZE))
            if not piece:
                raise UnreadableSnapshot("failed reading snapshot: unexpected EOF")
            self._left -= len(piece)
            self._digest.update(piece)
            yield piece

    def whole(self, size_max: int, name: str) -> bytes:
        """The content of the current file at once.

        Raises:
            UnreadableSnapshot: It is longer than `size_max`.
        """
        if self._left > size_max:
            raise UnreadableSnapshot(
                f'file "{name}" in the snapshot has {self._left} bytes, expected {size_max} at most'
            )
        if name == SUMS:
            self._digest = hashlib.sha256()
        return b"".join(self.content())

    def _header(self) -> tuple[str, int] | None:
        """Name and size of the next file; None at the end."""
        while True:
            block = self._exactly(BLOCK)
            if not any(block):
                return None
            name, size, kind = _parse_header(block)
            if kind in _PLAIN:
                return name, size
            if kind not in _EXTENSIONS or size > SUMS_SIZE_MAX:
                raise UnreadableSnapshot(f'"{name}" in the snapshot is not a plain file')
            self._exactly(size + -size % BLOCK)

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._bytes.read(size)
            if not part:
                raise UnreadableSnapshot("failed reading snapshot: unexpected EOF")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _verify(self) -> None:
        if self._listed is None:
            raise UnreadableSnapshot(f"the snapshot has no {SUMS}: it is not complete")
        for name in {**self._listed, **self._sums}:
            if name not in self._listed:
                raise UnreadableSnapshot(f'failed checking integrity: no checksum of "{name}"')
            if self._listed[name] != self._sums.get(name):
                raise UnreadableSnapshot(
                    f'failed checking integrity: hash check failed for "{name}"'
                )


class _Inflated:
    """What gzip stands for, piece by piece."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._unzip = zlib.decompressobj(_GZIP)
        self._packed = b""
        self._ready = b""
        self._begun = self._ended = False

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        while not self._ready and not self._ended:
            self._ready = self._more()
        part, self._ready = self._ready[:size], self._ready[size:]
        return part

    def finish(self) -> None:
        """Read to the end, so that gzip's own checksum is compared.

        Raises:
            UnreadableSnapshot: More than padding follows.
        """
        size = 0
        while part := self.read(PIECE_SIZE):
            size += len(part)
            if size > _TRAILING_MAX or any(part):
                raise UnreadableSnapshot("failed reading snapshot: there is more behind its end")

    def _more(self) -> bytes:
        packed = self._packed or self._source.read(_READ_SIZE)
        if not packed:
            if not self._begun or not self._unzip.eof:
                raise UnreadableSnapshot("failed to decompress snapshot: unexpected EOF")
            self._ended = True
            return b""
        if self._unzip.eof:
            self._unzip = zlib.decompressobj(_GZIP)
        self._begun = True
        try:
            ready = self._unzip.decompress(packed, PIECE_SIZE)
        except zlib.error as error:
            reason = "invalid header" if "incorrect header" in str(error) else str(error)
            raise UnreadableSnapshot(f"failed to decompress snapshot: gzip: {reason}") from error
        self._packed = self._unzip.unused_data or self._unzip.unconsumed_tail
        return ready


def _parse_header(block: bytes) -> tuple[str, int, bytes]:
    """Name, size and kind of a file."""
    try:
        expected = int(block[148:156].strip(b" \x00"), 8)
        field = block[124:136]
        size = (
            int.from_bytes(field[1:], "big")
            if field[0] == 0x80
            else int(field.strip(b" \x00") or b"0", 8)
        )
        name = block[:100].rstrip(b"\x00").decode("ascii")
    except ValueError:
        raise UnreadableSnapshot("failed reading snapshot: invalid tar header") from None
    if sum(block) - sum(block[148:156]) + 8 * 0x20 != expected or size < 0:
        raise UnreadableSnapshot("failed reading snapshot: invalid tar header")
    return name, size, block[156:157]


def _parse_sums(content: bytes) -> dict[str, str]:
    found = {}
    for line in content.decode("ascii", "replace").splitlines():
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise UnreadableSnapshot(f"the snapshot's {SUMS} cannot be read: {line[:80]!r}")
        found[match[2]] = match[1]
    return found
