"""All tables out of an engine."""

import asyncio
import gc
from typing import Final

from isthmus.store.engine import Engine, Head
from isthmus.store.keys import rows_prefix, table_index_key
from isthmus.store.store import Store

FROZEN_ROWS_MIN: Final = 10_000
"""So many rows that are loaded at once are kept out of garbage collection's rounds."""
ROWS_AT_ONCE: Final = 2000
"""Rows that are loaded before others have their turn: about 10 ms."""


async def load_tables(store: Store, engine: Engine, head: Head) -> list[bytes]:
    """Fill empty tables, which another store is to adopt, with what an open engine has.

    Returns:
        Keys of the tables' indexes, of all generations.

    Raises:
        EngineError: It cannot be read.
    """
    collecting, rows = gc.isenabled(), 0
    gc.disable()  # Rows hold no cycles; the collector would walk them over and over.
    try:
        async for page in engine.scan(rows_prefix(head.generation)):
            for start in range(0, len(page), ROWS_AT_ONCE):
                store.load(page[start : start + ROWS_AT_ONCE])
                await asyncio.sleep(0)  # The next page comes meanwhile, and others have their turn.
            rows += len(page)
        indexes = [pair async for page in engine.scan(b"i/") for pair in page]
    finally:
        if collecting:
            if rows >= FROZEN_ROWS_MIN:
                gc.freeze()  # Nor need it walk them later.
            gc.enable()
    prefix = table_index_key(head.generation)
    own = [(key, data) for key, data in indexes if key.startswith(prefix)]
    store.loaded(index=head.index, generation=head.generation, table_indexes=own, served=False)
    return [key for key, _ in indexes]
