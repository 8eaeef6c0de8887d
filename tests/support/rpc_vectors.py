"""The captured RPC messages: header and body, and what the capture says they mean.

Notation of ``decoded``: protocol/rpc.md §14.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isthmus.model import coordinate, event, kv, prepared_query, session, txn
from isthmus.model.catalog import IndexedCheckServiceNodes
from isthmus.model.config_entry import (
    ConfigEntryListAllRequest,
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
)
from isthmus.model.federation import (
    DatacenterIndexedCheckServiceNodes,
    FederationStateQuery,
    FederationStateRequest,
    FederationStateResponse,
    IndexedFederationStates,
)
from isthmus.model.query import DatacenterRequest
from isthmus.wire import msgpack

VECTORS: Final = Path(__file__).parents[1] / "vectors"

BODIES: Final[dict[str, Any]] = {
    "configentry-apply-request": ConfigEntryRequest,
    "configentry-get-response": ConfigEntryResponse,
    "configentry-list-response": IndexedConfigEntries,
    "configentry-listall-request": ConfigEntryListAllRequest,
    "configentry-listall-response": IndexedGenericConfigEntries,
    "coordinate-listnodes-response": coordinate.IndexedCoordinates,
    "federationstate-apply-no-gateways-request": FederationStateRequest,
    "federationstate-apply-request": FederationStateRequest,
    "federationstate-apply-response": bool,
    "federationstate-get-request": FederationStateQuery,
    "federationstate-get-response": FederationStateResponse,
    "federationstate-list-request": DatacenterRequest,
    "federationstate-list-response": IndexedFederationStates,
    "federationstate-list-response-1.9.8": IndexedFederationStates,
    "federationstate-listmeshgateways-response": DatacenterIndexedCheckServiceNodes,
    "health-servicenodes-response": IndexedCheckServiceNodes,
    "internal-eventfire-request": event.EventFireRequest,
    "kvs-apply-request": kv.KVSRequest,
    "kvs-apply-response": bool,
    "kvs-get-response": kv.IndexedDirEntries,
    "preparedquery-executeremote-request": prepared_query.PreparedQueryExecuteRemoteRequest,
    "session-apply-checks-request": session.SessionRequest,
    "session-apply-destroy-request": session.SessionRequest,
    "session-apply-request": session.SessionRequest,
    "session-apply-response": str,
    "session-get-request": session.SessionSpecificRequest,
    "session-get-response": session.IndexedSessions,
    "session-renew-request": session.SessionSpecificRequest,
    "txn-apply-request": txn.TxnRequest,
    "txn-apply-response": txn.TxnResponse,
    "txn-apply-rolled-back-response": txn.TxnResponse,
    "txn-read-request": txn.TxnReadRequest,
    "txn-read-response": txn.TxnReadResponse,
}
"""Type of the body of each captured message that has a record."""


@dataclass(frozen=True)
class RpcVector:
    """One captured message.

    Attributes:
        name: Name of the file.
        body: Bytes of the second object.
        meaning: What the capture says the body means, with strings as `msgpack.Unpacker` gives
            them; a string that holds MessagePack is a `Sequence`.
    """

    name: str
    header: dict[str, Any]
    body: bytes
    meaning: Any

    @property
    def kind(self) -> Any:
        """Declared type of the body."""
        return BODIES[self.name]


class Sequence(list[Any]):
    """What a string that holds MessagePack holds."""


def load(name: str) -> RpcVector:
    """Read one vector."""
    raw = json.loads((VECTORS / "rpc" / f"{name}.json").read_text())
    data = bytes.fromhex(raw["hex"])
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    next(iter(unpacker))
    header, meaning = raw["decoded"]
    return RpcVector(name, header, data[unpacker.offset :], _meaning(meaning))


def federation_messages() -> list[dict[str, Any]]:
    """Messages of real federations: ``dir``, ``header``, ``body_hex``."""
    text = (VECTORS / "federation" / "rpc_federation_state.json").read_text()
    messages: list[dict[str, Any]] = json.loads(text)["messages"]
    return messages


def _meaning(value: Any) -> Any:
    if isinstance(value, list):
        return [_meaning(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$raw" in value:
        return Sequence(_meaning(item) for item in value["$raw"])
    if "$hex" in value:
        return bytes.fromhex(value["$hex"]).decode("utf-8", "surrogateescape")
    return {key: _meaning(item) for key, item in value.items()}
