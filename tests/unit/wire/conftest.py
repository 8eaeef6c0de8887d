"""The captured gossip vectors, as a fixture for the tests of both gossip codecs."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).parents[2] / "vectors"


@dataclass(frozen=True)
class GossipVector:
    """One captured datagram or one direction of a stream."""

    name: str
    stream: bool
    dialled_by_us: bool
    data: bytes
    label: bytes
    ciphers: tuple[AESGCM, ...]
    layers: tuple[str, ...]
    messages: tuple[dict[str, Any], ...]


def _load(path: Path) -> GossipVector:
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


@pytest.fixture(params=sorted((VECTORS / "gossip").glob("*.json")), ids=lambda path: path.stem)
def gossip_vector(request: pytest.FixtureRequest) -> GossipVector:
    """Each captured vector of protocol/gossip.md §19."""
    return _load(request.param)
