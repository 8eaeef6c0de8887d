"""The program as a release before rows of version 2: it writes and reads version 1 alone.

Run in place of ``python -m isthmus.cli.main``, with its arguments.
"""

import sys
from collections.abc import Callable
from typing import Any

from isthmus.store import commands, rows, store
from isthmus.store.engine import Corrupt


def decode_row(kind: type[Any], data: bytes) -> Any:
    """Refuse what came later."""
    if data[:1] != b"\x01":
        raise Corrupt(f"unknown row version {data[:1].hex()}", operation="load")
    return rows.decode_row(kind, data)


def row_decoder(kind: type[Any]) -> Callable[[bytes], Any]:
    """As `decode_row`."""
    return lambda data: decode_row(kind, data)


for module in (store, commands):
    module.encode_row = rows._encode_array  # type: ignore[attr-defined]
store.decode_row, store.row_decoder = decode_row, row_decoder  # type: ignore[attr-defined]


if __name__ == "__main__":
    from isthmus.cli.main import main

    sys.exit(main())
