"""What isthmus servers tell each other that Consul's do not: ``Isthmus``.

A Consul server answers that it has no such service, which is an answer too.
"""

from collections.abc import Mapping
from typing import Final

from isthmus.errors import PERMISSION_DENIED, PermissionDenied
from isthmus.model.diagnosis import Clock, FederationReport
from isthmus.model.query import DatacenterRequest
from isthmus.model.snapshot import (
    SnapshotPiece,
    SnapshotReadRequest,
    SnapshotWriteReply,
    SnapshotWriteRequest,
)
from isthmus.model.storage import StorageReply, StorageRequest
from isthmus.model.timestamp import Timestamp
from isthmus.net.listener import PeerInfo
from isthmus.server.endpoints.context import Context, Handler


async def clock(context: Context, request: DatacenterRequest) -> Clock:
    """What our calendar clock shows."""
    return Clock(time=Timestamp.of(context.wall()))


async def report(context: Context, request: DatacenterRequest) -> FederationReport:
    """How the federation fares, as this server sees it."""
    return context.report()


async def storage(context: Context, request: StorageRequest) -> StorageReply:
    """A step of forming our datacenter's storage, or of joining it."""
    return await context.storage(request)


async def snapshot_read(context: Context, request: SnapshotReadRequest) -> SnapshotPiece:
    """A step of saving a snapshot of our data."""
    return await context.snapshots.read(request)


async def snapshot_write(context: Context, request: SnapshotWriteRequest) -> SnapshotWriteReply:
    """A step of restoring one, on the leader."""
    return await context.snapshots.write(request)


def check_server(peer: PeerInfo) -> None:
    """Refuse a caller whose certificate is no server's.

    Raises:
        PermissionDenied: So it is.
    """
    if peer.is_client:
        names = ", ".join(peer.names) or "nothing"
        raise PermissionDenied(
            f"{PERMISSION_DENIED}: only servers form a datacenter's storage, and the caller's"
            f" certificate is no server's: it names {names}"
        )


METHODS: Final[Mapping[str, Handler]] = {
    "Clock": clock,
    "Report": report,
    "SnapshotRead": snapshot_read,
    "SnapshotWrite": snapshot_write,
    "Storage": storage,
}
