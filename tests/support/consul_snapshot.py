"""Snapshots as Consul writes them, from its documented shapes."""

import gzip
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from isthmus.wire.archive import TAR_END, format_sums, pack_members
from isthmus.wire.msgpack import encode, pack

META = {"Version": 1, "ID": "2-18-1637", "Index": 18, "Term": 2, "Size": 0, "Peers": "ka4="}


def state_of(rows: Sequence[tuple[int, Any]], *, last_index: int = 18) -> bytes:
    """``state.bin``: a header, then type byte and value of each row; values may be bytes."""
    parts = [pack({"LastIndex": last_index})]
    for kind, value in rows:
        parts.append(bytes([kind]))
        parts.append(value if isinstance(value, bytes) else encode(value))
    return b"".join(parts)


def archive_of(state: bytes, *, meta: dict[str, Any] | None = None, spoil: bool = False) -> bytes:
    """The file: what `state_of` made, with its checksums, which may be made wrong."""
    described = json.dumps({**META, "Size": len(state), **(meta or {})}).encode() + b"\n"
    sums = {
        "meta.json": hashlib.sha256(described).hexdigest(),
        "state.bin": hashlib.sha256(state + b"!" * spoil).hexdigest(),
    }
    files = [
        ("meta.json", described),
        ("state.bin", state),
        ("SHA256SUMS", format_sums(sums)),
    ]
    return gzip.compress(pack_members(files, modified=1_637_000_000) + TAR_END, mtime=0)
