"""Batches for tests of engines."""

from isthmus.store.engine import Batch


def make_batch(
    index: int,
    *,
    puts: dict[bytes, bytes] | None = None,
    deletes: set[bytes] | None = None,
    ranges: list[tuple[bytes, bytes]] | None = None,
) -> Batch:
    """A batch of one command, with an id made of its index."""
    return Batch(
        puts=puts or {},
        deletes=deletes or set(),
        ranges=ranges or [],
        index=index,
        id=index.to_bytes(16, "big"),
        commands=1,
    )
