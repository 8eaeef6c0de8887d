"""The replicated writes: what may change the store, carried out one by one, in order.

Each command is executed alone on an overlay. One that is refused changes nothing; one that
changes something takes the next index; one that finds everything as it wants it takes none.
Source: design of storage, §6.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from isthmus.model.catalog import DeregisterRequest, RegisterRequest
from isthmus.model.config_entry import ConfigEntryRequest
from isthmus.model.coordinate import CoordinateBatch
from isthmus.model.federation import FederationStateRequest
from isthmus.model.kv import DirEntry, KVSRequest
from isthmus.model.operator import AutopilotSetConfigRequest
from isthmus.model.prepared_query import PreparedQueryRequest
from isthmus.model.session import SessionRequest
from isthmus.model.txn import TxnRequest
from isthmus.store import (
    autopilot,
    config_entry,
    coordinates,
    federation,
    invalidation,
    kv,
    prepared_query,
    registration,
    txn,
)
from isthmus.store.rows import encode_row
from isthmus.store.table import Overlay

Command: TypeAlias = (
    RegisterRequest
    | DeregisterRequest
    | CoordinateBatch
    | KVSRequest
    | FederationStateRequest
    | AutopilotSetConfigRequest
    | PreparedQueryRequest
    | SessionRequest
    | TxnRequest
    | ConfigEntryRequest
)

_APPLY: Final[Mapping[type, Callable[[Overlay, Any, int], object]]] = {
    RegisterRequest: registration.register,
    DeregisterRequest: registration.deregister,
    CoordinateBatch: coordinates.apply,
    KVSRequest: kv.apply,
    FederationStateRequest: federation.apply,
    AutopilotSetConfigRequest: autopilot.apply,
    PreparedQueryRequest: prepared_query.apply,
    SessionRequest: invalidation.apply,
    TxnRequest: txn.apply,
    ConfigEntryRequest: config_entry.apply,
}
_SIZE: Final = 1024
_GATEWAY_SIZE: Final = 4096
_COORDINATE_SIZE: Final = 256


def apply(overlay: Overlay, command: Command, index: int) -> tuple[object, bool]:
    """Carry out a command on an overlay.

    Args:
        overlay: Tables as the commands before left them.
        command: What to do.
        index: Modify index that its rows take.

    Returns:
        The result that its caller gets, and whether anything changed.

    Raises:
        RequestError: It is refused; the overlay is as before.
    """
    mark = overlay.mark()
    try:
        result = _APPLY[type(command)](overlay, command, index)
    except BaseException:
        overlay.rollback(mark)
        raise
    return result, overlay.mark() > mark


def size(command: Command) -> int:
    """Bytes that a command may take in memory and on the disk, roughly and rather too many."""
    if isinstance(command, KVSRequest):
        return _entry_size(command.dir_ent)
    if isinstance(command, TxnRequest):
        entries = [op.kv.dir_ent for op in command.ops or () if op.kv is not None]
        return _SIZE * (1 + len(command.ops or ())) + sum(map(_entry_size, entries))
    if isinstance(command, CoordinateBatch):
        return _SIZE + _COORDINATE_SIZE * len(command.updates)
    if isinstance(command, FederationStateRequest):
        gateways = (command.state.mesh_gateways if command.state else None) or ()
        return _SIZE + _GATEWAY_SIZE * len(gateways)
    if isinstance(command, RegisterRequest):
        checks = (command.check, *(command.checks or ()))
        return _SIZE + sum(_SIZE + len(check.output) for check in checks if check is not None)
    if isinstance(command, PreparedQueryRequest) and command.query is not None:
        return _SIZE + len(encode_row(command.query))
    if isinstance(command, ConfigEntryRequest) and command.entry is not None:
        return _SIZE + len(encode_row(command.entry))
    return _SIZE


def _entry_size(entry: DirEntry) -> int:
    return _SIZE + len(entry.key) + len(entry.value or b"")
