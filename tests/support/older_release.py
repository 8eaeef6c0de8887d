"""The program as a release before rows of version 2: it writes and reads version 1 alone.

Run in place of ``python -m isthmus.cli.main``, with its arguments.
"""

import sys
from collections.abc import Sequence
from typing import Any

from isthmus.store import commands, rows, store
from isthmus.store.engine import Corrupt


def decode_row(kind: type[Any], data: bytes) -> Any:
    """Refuse what came later."""
    if data[:1] != b"\x01":
        raise Corrupt(f"unknown row version {data[:1].hex()}", operation="load")
    return rows.decode_row(kind, data)


def decode_rows(kind: type[Any], found: Sequence[bytes]) -> list[Any]:
    """As `decode_row`."""
    return [decode_row(kind, data) for data in found]


for module in (store, commands):
    module.encode_row = rows._encode_array  # type: ignore[attr-defined]
store.decode_row = decode_row  # type: ignore[attr-defined]
store.decode_rows = decode_rows  # type: ignore[attr-defined,assignment]


if __name__ == "__main__":
    from isthmus.cli.main import main

    sys.exit(main())
