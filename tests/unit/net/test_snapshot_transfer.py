"""Snapshots on their way in pieces: asked for until they are there, dropped however it ends."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from isthmus.errors import IsthmusError, RemoteError, RequestError
from isthmus.model.snapshot import (
    IMPORT,
    RESTORE,
    SnapshotPiece,
    SnapshotReadRequest,
    SnapshotWriteReply,
    SnapshotWriteRequest,
)
from isthmus.net.snapshot_transfer import fetch_snapshot, send_snapshot, take_snapshot

FILE = b"0123456789"


class Desk:
    """Answers calls as a server would whose work takes two of them."""

    def __init__(self, fault: IsthmusError | None = None, *, at: str = "") -> None:
        self.fault, self.at = fault, at
        self.asked: list[Any] = []
        self.received = b""

    async def call(self, method: str, request: Any) -> Any:
        self.asked.append(request)
        operation = request.operation
        if self.fault is not None and operation == self.at:
            raise self.fault
        again = sum(one.operation == operation for one in self.asked) > 1
        if isinstance(request, SnapshotReadRequest):
            assert method == "Isthmus.SnapshotRead"
            data = FILE[request.offset : request.offset + 4] if operation == "read" else None
            return SnapshotPiece(id="a", done=again, size=len(FILE), data=data, index=7)
        assert isinstance(request, SnapshotWriteRequest)
        assert method == "Isthmus.SnapshotWrite"
        if operation == "write":
            assert request.offset == len(self.received)
            self.received += request.data or b""
        done = operation in {RESTORE, IMPORT} and again
        return SnapshotWriteReply(id="b", size=len(self.received), done=done, index=8)

    @property
    def operations(self) -> list[str]:
        return [one.operation for one in self.asked]


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_snapshot_is_asked_for_until_it_is_there_then_fetched_and_dropped() -> None:
    desk = Desk()
    snapshot = await take_snapshot(desk.call, datacenter="dc2", allow_stale=True)
    pieces = [one async for one in fetch_snapshot(desk.call, snapshot, datacenter="dc2")]
    assert b"".join(pieces) == FILE
    assert desk.operations == ["save", "save", "read", "read", "read", "close"]
    assert [one.id for one in desk.asked] == ["", "a", "a", "a", "a", "a"]
    assert {one.datacenter for one in desk.asked} == {"dc2"}


async def test_reader_that_breaks_off_leaves_no_file() -> None:
    desk = Desk()
    pieces = fetch_snapshot(desk.call, SnapshotPiece(id="a", done=True, size=len(FILE)))
    assert await anext(pieces) == FILE[:4]
    await pieces.aclose()
    assert desk.operations[-1] == "close"


async def test_file_that_ends_early_is_an_error() -> None:
    desk = Desk()
    with pytest.raises(RequestError, match="ended early"):
        async for _ in fetch_snapshot(desk.call, SnapshotPiece(id="a", done=True, size=99)):
            pass


@pytest.mark.parametrize("operation", [RESTORE, IMPORT])
async def test_file_is_sent_and_something_done_with_it(operation: str) -> None:
    desk = Desk()
    reply = await send_snapshot(desk.call, body(b"ab", b"cde"), operation, keep=True, token="t")
    assert (reply.index, desk.received) == (8, b"abcde")
    assert desk.operations == ["begin", "write", "write", operation, operation]
    assert {one.token for one in desk.asked} == {"t"}
    assert [one.keep for one in desk.asked][-2:] == [True, True]


@pytest.mark.parametrize("at", ["write", RESTORE])
async def test_file_that_is_refused_is_dropped(at: str) -> None:
    desk = Desk(RequestError("no"), at=at)
    with pytest.raises(RequestError, match="no"):
        await send_snapshot(desk.call, body(b"ab"), RESTORE)
    assert desk.operations[-1] == "close"


async def test_servers_of_consul_are_named() -> None:
    """Their answer alone says nothing to an operator."""
    text = "rpc error making call: rpc: can't find service Isthmus.SnapshotRead"
    for at, act in (
        ("save", lambda desk: take_snapshot(desk.call)),
        ("begin", lambda desk: send_snapshot(desk.call, body(), RESTORE)),
    ):
        with pytest.raises(RequestError, match="consul snapshot save") as caught:
            await act(Desk(RemoteError(text), at=at))
        assert text in str(caught.value)
        with pytest.raises(RemoteError, match=r"^other$"):
            await act(Desk(RemoteError("other"), at=at))
