"""RPC services: one module each, every method a coroutine over a `Context`."""

from collections.abc import Mapping
from typing import Final

from isthmus.server.endpoints import (
    catalog,
    config_entry,
    coordinate,
    events,
    federation_state,
    health,
    internal,
    isthmus,
    keyring,
    kvs,
    operator,
    prepared_query,
    session,
    status,
    txn,
)
from isthmus.server.endpoints.context import (
    Context,
    Forwarder,
    GossipPools,
    Handler,
    NoPools,
)

__all__ = ["HANDLERS", "Context", "Forwarder", "GossipPools", "Handler", "NoPools"]

HANDLERS: Final[Mapping[str, Handler]] = {
    f"{service}.{name}": handler
    for service, module in (
        ("Status", status),
        ("Catalog", catalog),
        ("ConfigEntry", config_entry),
        ("Coordinate", coordinate),
        ("Health", health),
        ("Internal", internal),
        ("Internal", events),
        ("Internal", keyring),
        ("KVS", kvs),
        ("FederationState", federation_state),
        ("Operator", operator),
        ("PreparedQuery", prepared_query),
        ("Session", session),
        ("Txn", txn),
        ("Isthmus", isthmus),
    )
    for name, handler in module.METHODS.items()
}
"""Every method by its name on the wire."""
