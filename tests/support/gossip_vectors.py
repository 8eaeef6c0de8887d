"""The captured gossip vectors (tests/vectors/gossip, protocol/gossip.md §19)."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).parents[1] / "vectors" / "gossip"


@dataclass(frozen=True)
class GossipVector:
    """One captured datagram or one direction of a stream.

    Attributes:
        name: Its file's name.
        stream: Whether it was captured on TCP.
        dialled_by_us: Whether the bytes come from the accepting side.
        data: All of them.
        label: Empty when there is none.
        ciphers: Of the pool's key, if it had one.
        layers: Outermost first.
        messages: What it says, as the capture's author decoded it.
    """

    name: str
    stream: bool
    dialled_by_us: bool
    data: bytes
    label: bytes
    ciphers: tuple[AESGCM, ...]
    layers: tuple[str, ...]
    messages: tuple[dict[str, Any], ...]


def paths() -> list[Path]:
    """All of them."""
    return sorted(VECTORS.glob("*.json"))


def load(path: Path) -> GossipVector:
    """Read one."""
    raw = json.loads(path.read_text())
    data = bytes.fromhex(raw["hex"])
    if raw["layers_outermost_first"] == ["length32"]:
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        data = data[4:]
    return GossipVector(
        name=path.stem,
        stream=raw["transport"] == "tcp",
        dialled_by_us="acceptor" in raw["from"],
        data=data,
        label=(raw["label"] or "").encode(),
        ciphers=(AESGCM(base64.b64decode(raw["key_base64"])),) if raw["key_base64"] else (),
        layers=tuple(raw["layers_outermost_first"]),
        messages=tuple(raw["messages"]),
    )
