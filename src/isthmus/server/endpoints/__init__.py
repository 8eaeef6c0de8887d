"""RPC services: one module each, every method a coroutine over a `Context`."""

from collections.abc import Mapping
from typing import Final

from isthmus.server.endpoints import (
    catalog,
    federation_state,
    health,
    internal,
    isthmus,
    kvs,
    status,
)
from isthmus.server.endpoints.context import Context, Forwarder, Handler

__all__ = ["HANDLERS", "Context", "Forwarder", "Handler"]

HANDLERS: Final[Mapping[str, Handler]] = {
    f"{service}.{name}": handler
    for service, module in (
        ("Status", status),
        ("Catalog", catalog),
        ("Health", health),
        ("Internal", internal),
        ("KVS", kvs),
        ("FederationState", federation_state),
        ("Isthmus", isthmus),
    )
    for name, handler in module.METHODS.items()
}
"""Every method by its name on the wire."""
