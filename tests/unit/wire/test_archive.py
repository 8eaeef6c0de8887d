"""Archives: what we write tar and gzip read, and any bytes give files or a clear error."""

import gzip
import hashlib
import io
import itertools
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.wire.archive import (
    PIECE_SIZE,
    SUMS,
    TAR_END,
    ArchiveReader,
    UnreadableSnapshot,
    format_sums,
    pack_members,
    tar_header,
    tar_padding,
)


def archive(files: dict[str, bytes], *, sums: dict[str, str] | None = None) -> bytes:
    found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    listed = format_sums(found if sums is None else sums)
    return gzip.compress(pack_members([*files.items(), (SUMS, listed)], modified=7) + TAR_END)


def read(data: bytes, *known: str) -> dict[str, bytes]:
    reader = ArchiveReader(io.BytesIO(data), known or ("a", "b"))
    return {name: b"".join(reader.content()) for name, _ in reader.files()}


def test_tar_and_gzip_read_what_we_write() -> None:
    files = {"a": b"x" * 1000, "b": b""}
    with tarfile.open(fileobj=io.BytesIO(archive(files)), mode="r:gz") as tar:
        members = tar.getmembers()
        assert [(one.name, one.size, one.mtime, one.mode) for one in members[:2]] == [
            ("a", 1000, 7, 0o600),
            ("b", 0, 7, 0o600),
        ]
        found = tar.extractfile("a")
        assert found is not None
        assert found.read() == b"x" * 1000


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_writers_are_read(form: int) -> None:
    files = {"a": b"content"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=form) as tar:
        sums = format_sums({"a": hashlib.sha256(b"content").hexdigest()})
        for name, content in [*files.items(), (SUMS, sums)]:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5
            tar.addfile(info, io.BytesIO(content))
    assert read(out.getvalue()) == files


@given(
    files=st.dictionaries(st.sampled_from(["a", "b"]), st.binary(max_size=3 * 512)),
    cut=st.integers(0, 4000),
)
def test_round_trip_also_in_several_gzip_members(files: dict[str, bytes], cut: int) -> None:
    plain = gzip.decompress(archive(files))
    assert read(gzip.compress(plain[:cut]) + gzip.compress(plain[cut:])) == files


def test_content_comes_in_pieces() -> None:
    data = archive({"a": bytes(3 * PIECE_SIZE)})
    reader = ArchiveReader(io.BytesIO(data), ("a",))
    sizes = [len(piece) for _ in reader.files() for piece in reader.content()]
    assert sum(sizes) == 3 * PIECE_SIZE
    assert max(sizes) <= PIECE_SIZE


def test_content_that_is_not_read_is_verified_all_the_same() -> None:
    good = archive({"a": b"1", "b": b"2"})
    assert [name for name, _ in ArchiveReader(io.BytesIO(good), ("a", "b")).files()] == ["a", "b"]
    wrong = {"a": hashlib.sha256(b"1").hexdigest(), "b": hashlib.sha256(b"3").hexdigest()}
    reader = ArchiveReader(io.BytesIO(archive({"a": b"1", "b": b"2"}, sums=wrong)), ("a", "b"))
    with pytest.raises(UnreadableSnapshot, match='hash check failed for "b"'):
        list(reader.files())


def test_size_of_more_than_eight_gibibytes_is_told_as_gnu_does() -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_header("a", 9 * 2**30, modified=0) + TAR_END)) as tar:
        assert tar.next().size == 9 * 2**30  # type: ignore[union-attr]


ONE = archive({"a": b"1"})
PLAIN = gzip.decompress(ONE)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "failed to decompress snapshot: unexpected EOF"),
        (b"no gzip at all", "failed to decompress snapshot: gzip: invalid header"),
        (ONE[:40], "failed to decompress snapshot: unexpected EOF"),
        (ONE[:-1], "failed to decompress snapshot: unexpected EOF"),
        (ONE[:-8] + bytes(8), "failed to decompress snapshot: gzip: .*incorrect data check"),
        (gzip.compress(PLAIN[:700]), "failed reading snapshot: unexpected EOF"),
        (gzip.compress(bytes(1024)), f"has no {SUMS}"),
        (gzip.compress(b"x" * 512), "invalid tar header"),
        (gzip.compress(b"x" + PLAIN[1:]), "invalid tar header"),
        (gzip.compress(PLAIN + b"more"), "there is more behind its end"),
        (archive({"c": b""}), 'unexpected file "c"'),
        (archive({"a": b""}, sums={}), 'no checksum of "a"'),
        (archive({}, sums={"a": "0" * 64}), 'hash check failed for "a"'),
        (archive({"a": b""}, sums={"a": "short"}), "cannot be read"),
        (gzip.compress(pack_members([("a", b"")] * 2, modified=0)), "is twice"),
        (
            gzip.compress(tar_header(SUMS, 2**40, modified=0)),
            f"{SUMS}.* has 1099511627776 bytes",
        ),
    ],
    ids=itertools.count(),  # The data holds the time of day.
)
def test_damage_is_told(data: bytes, text: str) -> None:
    with pytest.raises(UnreadableSnapshot, match=text):
        read(data)


def test_directories_and_links_are_refused() -> None:
    header = bytearray(tar_header("a", 0, modified=0))
    header[156] = ord("5")
    header[148:156] = b"%06o\x00 " % (sum(header) - sum(header[148:156]) + 8 * 0x20)
    with pytest.raises(UnreadableSnapshot, match='"a" in the snapshot is not a plain file'):
        read(gzip.compress(bytes(header) + TAR_END))


@given(data=st.binary(max_size=2000), at=st.integers(0, 4000), packed=st.booleans())
def test_any_bytes_give_files_or_an_error(data: bytes, at: int, packed: bool) -> None:
    spoiled = PLAIN[:at] + data + PLAIN[at + len(data) :]
    for attempt in (data, gzip.compress(spoiled) if packed else ONE[:at] + data + ONE[at:]):
        try:
            read(attempt)
        except UnreadableSnapshot:
            continue


def test_bomb_is_not_unpacked_into_memory() -> None:
    bomb = gzip.compress(tar_header("a", 2**33, modified=0) + bytes(64 * 1024 * 1024))
    reader = ArchiveReader(io.BytesIO(bomb), ("a",))
    next(reader.files())
    sizes: list[int] = []
    with pytest.raises(UnreadableSnapshot, match="unexpected EOF"):
        sizes.extend(len(piece) for piece in reader.content())
    assert max(sizes) <= PIECE_SIZE


def test_padding_fills_the_block() -> None:
    assert [len(tar_padding(size)) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]
