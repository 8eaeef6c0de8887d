"""Ids of sessions and prepared queries: UUIDs, and what is said of a text that is none.

Source: protocol/http-api.md §3, "state-store index lookups with a short id".
"""

import re
from typing import Final

UUID_SIZE: Final = 36
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)
_HYPHENS_MAX: Final = 4
_NOT_HEX: Final = re.compile(r"[^0-9a-fA-F]")


def is_uuid(text: str) -> bool:
    """Whether a text is written as a UUID; case does not count."""
    return _UUID.fullmatch(text) is not None


def uuid_fault(text: str) -> str:
    """Why no row can have this id, as Consul's index says it; empty when one may."""
    if len(text.encode("utf-8", "replace")) != UUID_SIZE:
        return "index error: UUID must be 36 characters"
    hyphens = text.count("-")
    if hyphens > _HYPHENS_MAX:
        return f'index error: UUID should have maximum of 4 "-"; got {hyphens}'
    digits = text.replace("-", "")
    if len(digits) % 2:
        return "index error: Input (without hyphens) must be even length"
    if wrong := _NOT_HEX.search(digits):
        return (
            "index error: Invalid UUID: encoding/hex: invalid byte: "
            f"U+{ord(wrong.group()):04X} '{wrong.group()}'"
        )
    return ""
