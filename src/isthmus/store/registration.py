"""Writes of the catalog: a node with services and checks comes, changes, goes.

A registration is one command: it takes place whole or not at all, and what it leaves as it was
keeps its modify index, so that repeating it wakes nobody. Texts are Consul's.
Source: protocol/http-api.md §6.1.
"""

from typing import Final, TypeVar

import msgspec

from isthmus.errors import RequestError
from isthmus.model.catalog import (
    CRITICAL,
    SERF_HEALTH,
    DeregisterRequest,
    HealthCheck,
    Node,
    NodeService,
    RegisterRequest,
    Weights,
)
from isthmus.model.record import Record
from isthmus.store import coordinates
from isthmus.store.catalog import CHECKS, NODES, SERVICES, ServiceRow
from isthmus.store.invalidation import end_with_check, end_with_node
from isthmus.store.keys import folded, folded_id, owned
from isthmus.store.table import Overlay, TableView

R = TypeVar("R", bound=Record)

_NO_CHECK_ID: Final = (
    "failed health check lookup: index error: object is missing a value for this index"
)
_WEIGHTS: Final = Weights(passing=1, warning=1)
_WEIGHT_MAX: Final = 65_535
"""Largest that DNS can carry."""


def register(overlay: Overlay, request: RegisterRequest, index: int) -> None:
    """Put a node, and what the request names of it, into the catalog.

    Raises:
        RequestError: A name clashes, or a check belongs to nothing. The caller rolls back.
    """
    tables = _Tables(overlay)
    old = tables.nodes.get(folded(request.node))
    if old is None or not request.skip_node_update:
        try:
            _put_node(tables, _requested_node(request), index)
        except RequestError as error:
            raise RequestError(f"failed inserting node: {error}") from None
    if request.service is not None:
        _put_service(tables, request.node, request.service, index)
    checks = request.checks or ()
    for check in (request.check, *checks) if request.check is not None else checks:
        if check.node.lower() != request.node.lower():
            raise RequestError(f'check node "{check.node}" does not match node "{request.node}"')
        if not check.check_id:
            raise RequestError(f'failed inserting check: {_NO_CHECK_ID} on node "{check.node}"')
        _put_check(tables, check, index)


def deregister(overlay: Overlay, request: DeregisterRequest, index: int) -> None:
    """Remove a service with its checks, or a check, or a node with all on it.

    What is not there is no error.
    """
    if request.service_id:
        remove_service(overlay, request.node, request.service_id, index)
    elif request.check_id:
        remove_check(overlay, request.node, request.check_id, index)
    else:
        remove_node(overlay, request.node, index)


# One row at a time, as transactions have it -------------------------------------------------------


def set_node(overlay: Overlay, node: Node, index: int) -> None:
    """Put a node into the catalog.

    Raises:
        RequestError: Its name belongs to another node that lives. The caller rolls back.
    """
    _put_node(_Tables(overlay), node, index)


def set_service(overlay: Overlay, node: str, service: NodeService, index: int) -> None:
    """Put a service on a node that is there.

    Raises:
        RequestError: It is not.
    """
    tables = _Tables(overlay)
    _require_node(tables, node)
    _put_service(tables, node, service, index)


def set_check(overlay: Overlay, check: HealthCheck, index: int) -> None:
    """Put a check on a node, or a service of it, that is there.

    Raises:
        RequestError: It is not.
    """
    tables = _Tables(overlay)
    _require_node(tables, check.node)
    if check.service_id and not tables.services.get(_key(check.node, check.service_id)):
        raise RequestError("Missing service registration")
    _put_check(tables, check, index)


def remove_node(overlay: Overlay, node: str, index: int) -> None:
    """Remove a node with all on it."""
    _delete_node(_Tables(overlay), folded(node), index)


def remove_service(overlay: Overlay, node: str, service_id: str, index: int) -> None:
    """Remove a service with its checks."""
    tables, key = _Tables(overlay), _key(node, service_id)
    if tables.services.delete(key, index) is not None:
        for check in tables.checks.by("instance", key):
            _delete_check(tables, CHECKS.key(check), index)


def remove_check(overlay: Overlay, node: str, check_id: str, index: int) -> None:
    """Remove a check."""
    _delete_check(_Tables(overlay), _key(node, check_id), index)


def _key(node: str, name: str) -> bytes:
    return owned(folded(node), folded_id(name))


class _Tables:
    """The catalog's tables as the command before left them."""

    __slots__ = ("checks", "nodes", "overlay", "services")

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.nodes: TableView[Node] = overlay.tables[NODES.name]
        self.services: TableView[ServiceRow] = overlay.tables[SERVICES.name]
        self.checks: TableView[HealthCheck] = overlay.tables[CHECKS.name]


def _requested_node(request: RegisterRequest) -> Node:
    return Node(
        id=request.id,
        node=request.node,
        address=request.address,
        datacenter=request.datacenter,
        tagged_addresses=request.tagged_addresses,
        meta=request.node_meta,
    )


def _put_node(tables: _Tables, node: Node, index: int) -> None:
    """Insert, update or rename a node. An id belongs to one node, and a name to one id.

    Raises:
        RequestError: The name belongs to another node that lives.
    """
    old = next(iter(tables.nodes.by("id", folded(node.id))), None) if node.id else None
    if old is not None and folded(old.node) != folded(node.node):
        label = f'"{node.id}" ({node.address})'
        _claim_name(tables, node, f"Error while renaming Node ID: {label}", take_nameless=False)
        _delete_node(tables, folded(old.node), index)
    elif node.id and old is None:
        label = f'"{node.id}"'
        _claim_name(tables, node, f"Error while renaming Node ID: {label}", take_nameless=True)
    old = old or tables.nodes.get(folded(node.node))
    if old is None or not _is_same(node, old):
        tables.nodes.put(_indexed(node, old, index), index)


def _claim_name(tables: _Tables, node: Node, context: str, *, take_nameless: bool) -> None:
    """Check that a node may have its name: nobody who is alive has it, or only one without an id.

    Alive is who has a serfHealth that is not critical; a node without one is no agent.
    """
    holder = tables.nodes.get(folded(node.node))
    if holder is None or holder.id.lower() == node.id.lower():
        return
    if not holder.id and take_nameless:
        return
    health = tables.checks.get(owned(folded(holder.node), folded(SERF_HEALTH)))
    if health is None or health.status == CRITICAL:
        return
    raise RequestError(
        f"{context}: Node name {node.node} is reserved by node "
        f"{holder.id} with name {holder.node} ({holder.address})"
    )


def _put_service(tables: _Tables, node: str, service: NodeService, index: int) -> None:
    if not _are_valid(service.weights):
        service = msgspec.structs.replace(service, weights=_WEIGHTS)
    row = tables.services.get(owned(folded(node), folded(service.id)))
    old = row.service if row is not None else None
    if old is None or not _is_same(service, old):
        kept = row.node if row is not None else node
        new = ServiceRow(node=kept, service=_indexed(service, old, index))
        tables.services.put(new, index)
        if old is not None and (old.service, old.tags) != (service.service, service.tags):
            _rename_checks(tables, new, index)


def _are_valid(weights: Weights | None) -> bool:
    """Whether weights say something; Consul takes its default for those that do not."""
    if weights is None:
        return False
    return 0 < weights.passing <= _WEIGHT_MAX and 0 <= weights.warning <= _WEIGHT_MAX


def _rename_checks(tables: _Tables, row: ServiceRow, index: int) -> None:
    """Tell the checks of an instance its new name and tags; Consul leaves that to their agent."""
    name, tags = row.service.service, row.service.tags
    for old in tables.checks.by("instance", owned(folded(row.node), folded(row.service.id))):
        check = msgspec.structs.replace(old, service_name=name, service_tags=tags)
        if check != old:
            tables.checks.put(_indexed(check, old, index), index)


def _put_check(tables: _Tables, check: HealthCheck, index: int) -> None:
    if not check.check_id:
        raise RequestError(_NO_CHECK_ID)
    node = folded(check.node)
    name, tags = "", check.service_tags
    if check.service_id:
        row = tables.services.get(owned(node, folded(check.service_id)))
        if row is None:
            raise RequestError(
                f'failed inserting check: Missing service registration on node "{check.node}"'
            )
        name, tags = row.service.service, row.service.tags
    check = msgspec.structs.replace(
        check,
        status=check.status or CRITICAL,
        service_name=name or check.service_name,
        service_tags=tags,
    )
    key = owned(node, folded_id(check.check_id))
    if check.status == CRITICAL:
        end_with_check(tables.overlay, key, index)
    old = tables.checks.get(key)
    if old is None or not _is_same(check, old):
        tables.checks.put(_indexed(check, old, index), index)


def _delete_check(tables: _Tables, key: bytes, index: int) -> None:
    """Remove a check, and the sessions that depend on it."""
    if tables.checks.delete(key, index) is not None:
        end_with_check(tables.overlay, key, index)


def _require_node(tables: _Tables, node: str) -> None:
    if tables.nodes.get(folded(node)) is None:
        raise RequestError("Missing node registration")


def _delete_node(tables: _Tables, node: bytes, index: int) -> None:
    """Remove a node with its services, checks, coordinates and sessions."""
    for service in tables.services.prefix(owned(node, b"")):
        tables.services.delete(SERVICES.key(service), index)
    for check in tables.checks.prefix(owned(node, b"")):
        tables.checks.delete(CHECKS.key(check), index)
    coordinates.delete_node(tables.overlay, node, index)
    tables.nodes.delete(node, index)
    end_with_node(tables.overlay, node, index)


def _is_same(new: R, old: R) -> bool:
    """Whether both are equal but for their indexes."""
    return new == msgspec.structs.replace(
        old,
        create_index=new.create_index,  # type: ignore[attr-defined]
        modify_index=new.modify_index,  # type: ignore[attr-defined]
    )


def _indexed(new: R, old: R | None, index: int) -> R:
    """The record as written at `index`, in place of `old`."""
    created = old.create_index if old is not None else index  # type: ignore[attr-defined]
    return msgspec.structs.replace(new, create_index=created, modify_index=index)
