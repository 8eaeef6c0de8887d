"""Reads of nodes, services and checks, each with the index of exactly what it shows.

Every service, node, kind and mesh destination has an index of its own, raised by the rows that
it shows: so a query for one service wakes for that service only, and one that shows no checks
sleeps through theirs. What is not there answers the index at which the last of its family went;
hence an index never goes back, and such a query wakes when that very thing comes.

Answers about one service or kind are built once and kept until a row in them changes, so a
caller may cache by the identity of their values. After a start the loaded index is the floor
of all: readers wake once for nothing, and never miss. Source: protocol/http-api.md §2, §6.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from sortedcontainers import SortedDict

from isthmus.model.catalog import (
    CRITICAL,
    PASSING,
    WARNING,
    CheckServiceNode,
    GatewayService,
    HealthCheck,
    Node,
    NodeInfo,
    NodeService,
    ServiceName,
    ServiceNode,
    Weights,
)
from isthmus.model.record import Record
from isthmus.store.answer import Answer
from isthmus.store.keys import component, folded, folded_id, owned
from isthmus.store.table import Schema, Table
from isthmus.store.watch import Topic, table_topic

T = TypeVar("T")

CONNECT_PROXY: Final = "connect-proxy"
ANY_STATE: Final = "any"
_STATES: Final = frozenset({ANY_STATE, PASSING, WARNING, CRITICAL})


class ServiceRow(Record, frozen=True, kw_only=True):
    """A service instance as stored: the name of its node and itself."""

    node: str = ""
    service: NodeService = NodeService()


def _node_ids(row: Node) -> tuple[bytes, ...]:
    return (folded(row.id),) if row.id else ()


def _service_names(row: ServiceRow) -> tuple[bytes, ...]:
    return (folded(row.service.service),)


def _kinds(row: ServiceRow) -> tuple[bytes, ...]:
    return (row.service.kind.encode(),) if row.service.kind else ()


def _destinations(row: ServiceRow) -> tuple[bytes, ...]:
    """Services that the instance accepts mesh traffic for."""
    service = row.service
    if service.kind == CONNECT_PROXY:
        return (folded(service.proxy.destination_service_name),)
    return (folded(service.service),) if service.connect.native else ()


NODES: Final = Schema(
    "nodes",
    Node,
    key=lambda row: folded(row.node),
    indexes={"id": _node_ids, "address": lambda row: (component(row.address),)},
)
SERVICES: Final = Schema(
    "services",
    ServiceRow,
    key=lambda row: owned(folded(row.node), folded_id(row.service.id)),
    indexes={"service": _service_names, "kind": _kinds, "connect": _destinations},
)
CHECKS: Final = Schema(
    "checks",
    HealthCheck,
    key=lambda row: owned(folded(row.node), folded_id(row.check_id)),
    indexes={
        "service": lambda row: (folded(row.service_name),) if row.service_id else (),
        "instance": lambda row: (owned(folded(row.node), folded_id(row.service_id)),),
    },
)

_NODES_TOPIC: Final = table_topic(NODES.name)
_SERVICES_TOPIC: Final = table_topic(SERVICES.name)
_CHECKS_TOPIC: Final = table_topic(CHECKS.name)
_ROWS: Final = "instances"
"""Topics of a service's instances without their checks."""
_SERVICE_CHECKS: Final = "service_checks"
"""Topics of the checks of a service's instances."""
_ID_START: Final = re.compile(r"[0-9a-fA-F-]{2,36}")
_NO_WEIGHTS: Final = Weights(passing=1, warning=1)


class RowChange(NamedTuple):
    """A committed change of one row; `old` and `new` are None when there is none."""

    table: str
    pk: bytes
    old: Any
    new: Any
    modify_index: int


class Catalog:
    """Reads of the catalog's tables.

    Args:
        nodes, services, checks: The committed rows.
    """

    def __init__(
        self, nodes: Table[Node], services: Table[ServiceRow], checks: Table[HealthCheck]
    ) -> None:
        self._nodes, self._services, self._checks = nodes, services, checks
        self._indexes: dict[Topic, int] = {}
        self._gone_at: dict[str, int] = {}
        """By family: index at which something of it was there for the last time."""
        self._health: dict[Topic, Answer[tuple[CheckServiceNode, ...]]] = {}
        self._flat: dict[bytes, Answer[tuple[ServiceNode, ...]]] = {}
        self._states: dict[str, Answer[tuple[HealthCheck, ...]]] = {}
        self._node_list: Answer[tuple[Node, ...]] | None = None
        self._names: Answer[dict[str, tuple[str, ...]]] | None = None
        self._tags: SortedDict[bytes, tuple[str, tuple[str, ...]]] = SortedDict()
        """Folded service name → the name as registered, and the tags of all instances."""
        self.floor = 0

    # One service ------------------------------------------------------------------------------

    def check_service_nodes(self, name: str) -> Answer[tuple[CheckServiceNode, ...]]:
        """Instances of a service with their nodes and checks, by node, then service id.

        The value is the same object until a row in it changes.
        """
        return self._instances("service", folded(name))

    def connect_service_nodes(self, name: str) -> Answer[tuple[CheckServiceNode, ...]]:
        """Instances that accept mesh traffic for a service: its proxies, or itself if native."""
        return self._instances("connect", folded(name))

    def service_nodes(self, name: str) -> Answer[tuple[ServiceNode, ...]]:
        """Instances of a service flattened with their nodes; the same object until a change."""
        key = folded(name)
        answer = self._flat.get(key)
        if answer is None:
            found = self._instances("service", key).value
            answer = self._about(
                _ROWS, key, bool(found), lambda: tuple([_flatten(item) for item in found])
            )
            if found:
                self._flat[key] = answer
        return answer

    def connect_nodes(self, name: str) -> Answer[tuple[ServiceNode, ...]]:
        """As `connect_service_nodes`, flattened with their nodes."""
        found = self.connect_service_nodes(name)
        return found.of(tuple([_flatten(item) for item in found.value]))

    def service_checks(self, name: str) -> Answer[tuple[HealthCheck, ...]]:
        """Checks of the instances of a service (not of their nodes), by node, then check id."""
        key = folded(name)
        found = tuple(self._checks.by("service", key))
        return self._about(_SERVICE_CHECKS, key, bool(found), lambda: found)

    def _instances(self, index: str, key: bytes) -> Answer[tuple[CheckServiceNode, ...]]:
        topic = Topic(index, key)
        answer = self._health.get(topic)
        if answer is None:
            rows = self._services.by(index, key)
            answer = self._about(index, key, bool(rows), lambda: self._join(rows))
            if rows:
                self._health[topic] = answer
        return answer

    def _about(self, family: str, key: bytes, there: bool, read: Callable[[], T]) -> Answer[T]:
        """Answer about something that is there or not."""
        topic = Topic(family, key)
        changed = self._indexes.get(topic, self.floor) if there else self._missing(family)
        return Answer(read(), changed, (topic,), changed)

    def _missing(self, family: str) -> int:
        """Index for something that is not there."""
        return max(self._gone_at.get(family, 0), self.floor)

    def _join(self, rows: Iterable[ServiceRow]) -> tuple[CheckServiceNode, ...]:
        joined = []
        for row in rows:
            node = folded(row.node)
            checks = self._checks.by("instance", owned(node, b""))
            checks += self._checks.by("instance", owned(node, folded(row.service.id)))
            joined.append(
                CheckServiceNode(
                    node=self._nodes.get(node), service=row.service, checks=tuple(checks)
                )
            )
        return tuple(joined)

    # All services -----------------------------------------------------------------------------

    def services(self) -> Answer[dict[str, tuple[str, ...]]]:
        """Tags of all instances by service name, sorted; the same object until a change."""
        if self._names is None:
            names = dict(self._tags.values())
            self._names = self._of_table(names, self._services, _SERVICES_TOPIC)
        return self._names

    def services_on(self, node_meta: Mapping[str, str]) -> Answer[dict[str, tuple[str, ...]]]:
        """As `services`, of nodes that have all these metadata."""
        tags: dict[bytes, tuple[str, set[str]]] = {}
        for node in self._nodes:
            if has_meta(node.meta, node_meta):
                for row in self._services.prefix(owned(folded(node.node), b"")):
                    name = row.service.service
                    tags.setdefault(folded(name), (name, set()))[1].update(row.service.tags or ())
        names = {name: tuple(sorted(found)) for name, found in sorted(tags.values(), key=_first)}
        changed = max(self._services.index, self._nodes.index)
        return Answer(names, changed, (_SERVICES_TOPIC, _NODES_TOPIC), changed)

    def service_list(self) -> Answer[tuple[ServiceName, ...]]:
        """Names of all services, sorted."""
        answer = self.services()
        return answer.of(tuple([ServiceName(name=name) for name in answer.value]))

    def instances_at(self, address: str) -> Answer[tuple[ServiceNode, ...]]:
        """Instances of any service that answer at an address, their own or their node's."""
        found = self.dump()
        flat = [_flatten(item) for item in found.value]
        return found.of(
            tuple([row for row in flat if (row.service_address or row.address) == address])
        )

    def dump(self) -> Answer[tuple[CheckServiceNode, ...]]:
        """Instances of all services with their nodes and checks, by node, then service id."""
        changed = max(self._nodes.index, self._services.index, self._checks.index)
        topics = (_NODES_TOPIC, _SERVICES_TOPIC, _CHECKS_TOPIC)
        return Answer(self._join(self._services), changed, topics, changed)

    def dump_kind(self, kind: str) -> Answer[tuple[CheckServiceNode, ...]]:
        """Instances of one kind; typical services have the kind ``""``.

        Of a kind that is not empty the value is the same object until a row in it changes, and
        nothing else wakes the reader: how the gateways of this datacenter are watched.
        """
        if not kind:
            every = self.dump()
            plain = [item for item in every.value if item.service and not item.service.kind]
            return every.of(tuple(plain))
        topic = Topic("kind", kind.encode())
        answer = self._health.get(topic)
        if answer is None:
            changed = self._indexes.get(topic, self.floor)
            rows = self._join(self._services.by("kind", topic.key))
            answer = Answer(rows, changed, (topic,), changed)
            if rows:
                self._health[topic] = answer
        return answer

    def gateway_services(self, name: str) -> Answer[tuple[GatewayService, ...]]:
        """Services that config entries bind to a gateway: none, as there are no such entries yet.

        Its index has a table of its own, which no write has touched.
        """
        return Answer((), 0, (Topic("gateway_services", folded(name)),), 0)

    # Nodes and checks -------------------------------------------------------------------------

    def nodes(self) -> Answer[tuple[Node, ...]]:
        """All nodes by name; the same object until one changes."""
        if self._node_list is None:
            self._node_list = self._of_table(tuple(self._nodes), self._nodes, _NODES_TOPIC)
        return self._node_list

    def node(self, name: str) -> Answer[Node | None]:
        """One node by name, by id or by what only its id begins with."""
        node = self._find(name)
        return self._about_node("node", name, node, lambda: node)

    def node_services(self, name: str) -> Answer[tuple[Node, tuple[NodeService, ...]] | None]:
        """A node, named as for `node`, and its services by id; None when there is no such node."""
        node = self._find(name)
        if node is None:
            return self._about_node("node", name, None, lambda: None)
        rows = self._services.prefix(owned(folded(node.node), b""))
        found = (node, tuple([row.service for row in rows]))
        return self._about_node("node", name, node, lambda: found)

    def node_checks(self, name: str) -> Answer[tuple[HealthCheck, ...]]:
        """Checks of a node and of its services, by check id."""
        prefix = owned(folded(name), b"")
        node = self._nodes.get(folded(name))
        return self._about_node(
            "node_checks", name, node, lambda: tuple(self._checks.prefix(prefix))
        )

    def checks_in_state(self, state: str) -> Answer[tuple[HealthCheck, ...]]:
        """All checks in a state, or with `ANY_STATE` all, by node, then check id.

        The value is the same object until any check changes.
        """
        answer = self._states.get(state)
        if answer is None:
            rows = tuple([row for row in self._checks if state in {ANY_STATE, row.status}])
            answer = self._of_table(rows, self._checks, _CHECKS_TOPIC)
            if state in _STATES:
                self._states[state] = answer
        return answer

    def node_info(self, name: str) -> Answer[tuple[NodeInfo, ...]]:
        """A node, by its name alone, with its services and checks; empty when it is not there."""
        node = self._nodes.get(folded(name))
        found = self._about_node("node", name, node, lambda: self._info(node))
        checks = self._about_node("node_checks", name, node, lambda: None)
        return Answer(
            found.value,
            max(found.index, checks.index),
            (*found.topics, *checks.topics),
            max(found.changed, checks.changed),
        )

    def node_dump(self) -> Answer[tuple[NodeInfo, ...]]:
        """All nodes by name with their services and checks."""
        changed = max(self._nodes.index, self._services.index, self._checks.index)
        topics = (_NODES_TOPIC, _SERVICES_TOPIC, _CHECKS_TOPIC)
        every = tuple([info for node in self._nodes for info in self._info(node)])
        return Answer(every, changed, topics, changed)

    def _info(self, node: Node | None) -> tuple[NodeInfo, ...]:
        if node is None:
            return ()
        owner = owned(folded(node.node), b"")
        info = NodeInfo(
            id=node.id,
            node=node.node,
            address=node.address,
            tagged_addresses=node.tagged_addresses,
            meta=node.meta,
            services=tuple([row.service for row in self._services.prefix(owner)]),
            checks=tuple(self._checks.prefix(owner)),
        )
        return (info,)

    def node_row(self, name: str) -> Node | None:
        """A node by its name, without what a blocking query needs."""
        return self._nodes.get(folded(name))

    def node_at(self, address: str) -> Node | None:
        """The node with an address; of several the first by name."""
        return next(iter(self._nodes.by("address", component(address))), None)

    def _find(self, name: str) -> Node | None:
        node = self._nodes.get(folded(name))
        if node is None:
            node = next(iter(self._nodes.by("id", folded(name))), None)
        if node is None and _ID_START.fullmatch(name):
            found = [row for row in self._nodes if row.id.lower().startswith(name.lower())]
            node = found[0] if len(found) == 1 else None
        return node

    def _about_node(
        self, family: str, name: str, node: Node | None, read: Callable[[], T]
    ) -> Answer[T]:
        if node is not None:
            return self._about(family, folded(node.node), True, read)
        missing = self._about(family, folded(name), False, read)
        if not _ID_START.fullmatch(name):
            return missing
        # It may come under another name with this id.
        return Answer(missing.value, missing.index, (_NODES_TOPIC,), missing.changed)

    def _of_table(self, value: T, table: Table[Any], topic: Topic) -> Answer[T]:
        return Answer(value, table.index, (topic,), table.index)

    # What a write concerns --------------------------------------------------------------------

    def observe(self, changes: Iterable[RowChange]) -> list[Topic]:
        """Take note of committed changes, already in the tables; return whom they concern."""
        touched: dict[Topic, int] = {}
        renamed: dict[bytes, None] = {}
        for change in changes:
            if change.table == SERVICES.name:
                self._observe_service(change, touched, renamed)
            elif change.table == CHECKS.name:
                self._observe_check(change, touched)
            else:
                assert change.table == NODES.name, change.table
                self._observe_node(change, touched)
        for topic, index in touched.items():
            self._health.pop(topic, None)
            self._indexes[topic] = max(index, self._indexes.get(topic, 0))
            self._settle(topic)
        for key in renamed:
            self._gather_tags(key)
        return list(touched)

    def load(self, floor: int) -> None:
        """Take over tables that were filled without `observe`, up to index `floor`."""
        self.floor = floor
        self._indexes.clear()
        self._gone_at.clear()
        self._health.clear()
        self._flat.clear()
        self._states.clear()
        self._tags.clear()
        self._node_list = self._names = None
        for key in self._services.index_keys("service"):
            self._gather_tags(key)

    def _observe_service(
        self, change: RowChange, touched: dict[Topic, int], renamed: dict[bytes, None]
    ) -> None:
        self._names = None
        _touch(touched, _SERVICES_TOPIC, change.modify_index)
        for row in (change.old, change.new):
            if row is not None:
                renamed[folded(row.service.service)] = None
                self._touch_instance(row, change.modify_index, touched, rows=True)
                _touch(touched, Topic("node", folded(row.node)), change.modify_index)

    def _observe_check(self, change: RowChange, touched: dict[Topic, int]) -> None:
        self._states.clear()
        _touch(touched, _CHECKS_TOPIC, change.modify_index)
        for row in (change.old, change.new):
            if row is None:
                continue
            node = folded(row.node)
            _touch(touched, Topic("node_checks", node), change.modify_index)
            if not row.service_id:
                self._touch_services_of(node, change.modify_index, touched)
                continue
            for family in ("service", _SERVICE_CHECKS):
                _touch(touched, Topic(family, folded(row.service_name)), change.modify_index)
            service = self._services.get(owned(node, folded(row.service_id)))
            if service is not None:
                self._touch_instance(service, change.modify_index, touched)

    def _observe_node(self, change: RowChange, touched: dict[Topic, int]) -> None:
        self._node_list = None
        _touch(touched, _NODES_TOPIC, change.modify_index)
        _touch(touched, Topic("node", change.pk), change.modify_index)
        if change.old is None or change.new is None:
            _touch(touched, Topic("node_checks", change.pk), change.modify_index)
        self._touch_services_of(change.pk, change.modify_index, touched, rows=True)

    def _touch_services_of(
        self, node: bytes, index: int, touched: dict[Topic, int], *, rows: bool = False
    ) -> None:
        for row in self._services.prefix(owned(node, b"")):
            self._touch_instance(row, index, touched, rows=rows)

    def _touch_instance(
        self, row: ServiceRow, index: int, touched: dict[Topic, int], *, rows: bool = False
    ) -> None:
        """Note that an instance changed; with `rows`, not only its checks."""
        if rows:
            _touch(touched, Topic(_ROWS, folded(row.service.service)), index)
        for family, keys_of in SERVICES.indexes.items():
            for key in keys_of(row):
                _touch(touched, Topic(family, key), index)

    def _settle(self, topic: Topic) -> None:
        """Drop what was built of a name, and its index if the name is gone."""
        family, key, _ = topic
        if family == _ROWS:
            self._flat.pop(key, None)
        if family in {"service", "connect"}:
            there = self._services.has(family, key)
        elif family == _ROWS:
            there = self._services.has("service", key)
        elif family == _SERVICE_CHECKS:
            there = self._checks.has("service", key)
        elif family in {"node", "node_checks"}:
            there = self._nodes.get(key) is not None
        else:
            there = True  # Tables and kinds are few.
        if not there:
            self._gone_at[family] = max(self._indexes.pop(topic), self._gone_at.get(family, 0))

    def _gather_tags(self, key: bytes) -> None:
        rows = self._services.by("service", key)
        if not rows:
            self._tags.pop(key, None)
            return
        tags = {tag for row in rows for tag in row.service.tags or ()}
        self._tags[key] = (rows[0].service.service, tuple(sorted(tags)))


def has_meta(meta: Mapping[str, str] | None, wanted: Mapping[str, str]) -> bool:
    """Whether metadata holds all wanted pairs."""
    return all((meta or {}).get(key) == value for key, value in wanted.items())


def _touch(touched: dict[Topic, int], topic: Topic, index: int) -> None:
    if touched.get(topic, 0) < index:
        touched[topic] = index


def _first(item: tuple[str, object]) -> str:
    return item[0]


def _flatten(item: CheckServiceNode) -> ServiceNode:
    node, service = item.node or Node(), item.service
    assert service is not None, "rows are joined from services"
    return ServiceNode(
        id=node.id,
        node=node.node,
        address=node.address,
        datacenter=node.datacenter,
        tagged_addresses=node.tagged_addresses,
        node_meta=node.meta,
        service_kind=service.kind,
        service_id=service.id,
        service_name=service.service,
        service_tags=service.tags,
        service_address=service.address,
        service_tagged_addresses=service.tagged_addresses,
        service_weights=service.weights or _NO_WEIGHTS,
        service_meta=service.meta,
        service_port=service.port,
        service_socket_path=service.socket_path,
        service_enable_tag_override=service.enable_tag_override,
        service_proxy=service.proxy,
        service_connect=service.connect,
        create_index=service.create_index,
        modify_index=service.modify_index,
    )
