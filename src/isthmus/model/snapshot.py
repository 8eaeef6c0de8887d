"""Snapshots on the wire: a file that travels in pieces, and what was done with it.

Between servers and agents of isthmus pieces go over the connections that all calls use, through
gateways and to the leader. Consul streams a snapshot on a connection of its own (`StreamRequest`).
Source: protocol/rpc.md §10.
"""

from typing import Final

from isthmus.model.query import QueryMeta, QueryOptions
from isthmus.model.record import Record, Uint

PIECE_SIZE: Final = 256 * 1024
"""Bytes of a file in one call."""

SAVE: Final = "save"
"""Operation: take a snapshot; the reply names it, and says how long it is once it is there."""
READ: Final = "read"
"""Operation: a piece of it."""
BEGIN: Final = "begin"
"""Operation: I want to send a file; the reply names it."""
WRITE: Final = "write"
"""Operation: its next piece."""
RESTORE: Final = "restore"
"""Operation: put it in the place of all data; ask again until the reply says that it is done."""
IMPORT: Final = "import"
"""Operation: it is a snapshot of Consul's; write what is in it. Ask again likewise."""
CLOSE: Final = "close"
"""Operation: I do not need it any more."""


class SnapshotReadRequest(QueryOptions, frozen=True, kw_only=True):
    """A step of saving.

    Attributes:
        operation: `SAVE`, `READ` or `CLOSE`.
        id: The snapshot's name; empty to take a new one.
        offset: Where the piece begins.
    """

    datacenter: str = ""
    operation: str = SAVE
    id: str = ""
    offset: Uint = 0


class SnapshotPiece(QueryMeta, frozen=True, kw_only=True):
    """Answer to a step of saving. The index is the snapshot's.

    Attributes:
        id: The snapshot's name.
        done: Whether it is there, so that its pieces can be read.
        size: Bytes of the whole file, once it is there.
        data: The piece.
    """

    id: str = ""
    done: bool = False
    size: Uint = 0
    data: bytes | None = None


class SnapshotWriteRequest(Record, frozen=True, kw_only=True):
    """A step of restoring, which only the leader takes.

    Attributes:
        operation: `BEGIN`, `WRITE`, `RESTORE`, `IMPORT` or `CLOSE`.
        id: The file's name, as the reply to `BEGIN` gave it.
        offset: Where the piece belongs; must be how much there is already.
        data: The piece.
        keep: With `IMPORT`: what is there already stays as it is.
    """

    datacenter: str = ""
    operation: str = BEGIN
    id: str = ""
    offset: Uint = 0
    data: bytes | None = None
    keep: bool = False
    token: str = ""


class ImportedKind(Record, frozen=True, kw_only=True):
    """What became of one kind of a Consul snapshot's records.

    Attributes:
        kind: ``KVS``, ``Service`` …
        found: How many there were.
        imported: How many were written, or were there just so already.
        kept: How many gave way to what was there already.
        refused: How many could not be written.
        names: Some of those not imported: kept, refused, or of no use here.
        reason: Why the others were not imported; empty when all were.
    """

    kind: str = ""
    found: Uint = 0
    imported: Uint = 0
    kept: Uint = 0
    refused: Uint = 0
    names: tuple[str, ...] | None = None
    reason: str = ""


class SnapshotWriteReply(Record, frozen=True, kw_only=True):
    """Answer to a step of restoring.

    Attributes:
        id: The file's name.
        size: How much of it is there.
        done: Whether the operation is over; failures are errors.
        index: Index from which on the data is served.
        kinds: What was imported.
    """

    id: str = ""
    size: Uint = 0
    done: bool = False
    index: Uint = 0
    kinds: tuple[ImportedKind, ...] | None = None


STREAM_SAVE: Final = 0
STREAM_RESTORE: Final = 1


class StreamRequest(Record, frozen=True, kw_only=True):
    """First thing on a snapshot connection of Consul's (Go: ``SnapshotRequest``).

    Attributes:
        datacenter: Whose data; empty for the server's own.
        token: ACL secret.
        allow_stale: Any server may save what it has.
        op: `STREAM_SAVE`, or `STREAM_RESTORE`: the file follows until the caller's end.
    """

    datacenter: str = ""
    token: str = ""
    allow_stale: bool = False
    op: int = STREAM_SAVE


class StreamReply(QueryMeta, frozen=True, kw_only=True):
    """Its answer (Go: ``SnapshotResponse``); behind that of a save the file, until our end.

    Attributes:
        error: Why it was not done; nothing follows then.
    """

    error: str = ""
