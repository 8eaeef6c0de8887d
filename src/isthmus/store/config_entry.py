"""The config entries: by kind and name, of all kinds in one table.

An index counts writes to the whole table; a reader of one entry or of one kind wakes when that
changes. Whether an entry makes sense is looked at before it is written (`model.config_checks`).
Source: protocol/rpc.md §5.2, protocol/http-api.md §6.6.
"""

from collections.abc import Collection
from typing import Final, cast

import msgspec

from isthmus.errors import InvalidRequest
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    COPY,
    DELETE,
    UPSERT,
    UPSERT_CAS,
    ConfigEntry,
    ConfigEntryRequest,
    IngressGatewayConfigEntry,
    MeshConfigEntry,
    ProxyConfigEntry,
    ServiceConfigEntry,
    ServiceIntentionsConfigEntry,
    ServiceResolverConfigEntry,
    ServiceRouterConfigEntry,
    ServiceSplitterConfigEntry,
    SourceIntention,
    TerminatingGatewayConfigEntry,
)
from isthmus.model.record import Record
from isthmus.store.answer import Answer
from isthmus.store.keys import folded, owned
from isthmus.store.table import Overlay, Schema, Table, TableView
from isthmus.store.watch import Topic, table_topic

Entries = tuple[ConfigEntry, ...]

_FIELDS: Final = {kind: kind.replace("-", "_") for kind in CONFIG_ENTRY_TYPES}
_TOPIC_FAMILY: Final = "config"


class ConfigEntryRow(Record, frozen=True, kw_only=True):
    """A row of the table: one entry, in the field of its kind.

    A table has one type of rows, and each kind of entries is a type of its own. A kind that is
    new takes a field that is new.
    """

    service_defaults: ServiceConfigEntry | None = None
    proxy_defaults: ProxyConfigEntry | None = None
    service_router: ServiceRouterConfigEntry | None = None
    service_splitter: ServiceSplitterConfigEntry | None = None
    service_resolver: ServiceResolverConfigEntry | None = None
    ingress_gateway: IngressGatewayConfigEntry | None = None
    terminating_gateway: TerminatingGatewayConfigEntry | None = None
    service_intentions: ServiceIntentionsConfigEntry | None = None
    mesh: MeshConfigEntry | None = None

    def __post_init__(self) -> None:
        """Refuse a row without an entry that we know: a newer release may have written it."""
        if sum(getattr(self, name) is not None for name in _FIELDS.values()) != 1:
            raise ValueError("not one config entry of a kind that this release knows")

    @classmethod
    def of(cls, entry: ConfigEntry) -> "ConfigEntryRow":
        """The row that holds an entry."""
        fields: dict[str, ConfigEntry] = {_FIELDS[entry.kind]: entry}
        return cls(**fields)  # type: ignore[arg-type]

    @property
    def entry(self) -> ConfigEntry:
        """The entry."""
        found = (getattr(self, name) for name in _FIELDS.values())
        return cast(ConfigEntry, next(entry for entry in found if entry is not None))

    @property
    def modify_index(self) -> int:
        """Index of the entry's last write."""
        return self.entry.modify_index


def entry_key(kind: str, name: str) -> bytes:
    """Primary key of an entry; case does not count. An empty name: the prefix of the kind."""
    return owned(folded(kind), folded(name))


CONFIG_ENTRIES: Final = Schema(
    "config_entries",
    ConfigEntryRow,
    key=lambda row: entry_key(row.entry.kind, row.entry.name),
)
_TABLE_TOPIC: Final = table_topic(CONFIG_ENTRIES.name)


class ConfigEntries:
    """Reads of the config entries.

    Args:
        table: The committed rows.
    """

    def __init__(self, table: Table[ConfigEntryRow]) -> None:
        self._table = table
        self._lists: dict[str, Answer[Entries]] = {}
        self._changed: dict[str, int] = {}
        """By kind the index of the last write to it; a kind that is missing stands at the floor."""
        self._floor = 0

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._table)

    def get(self, kind: str, name: str) -> Answer[ConfigEntry | None]:
        """One entry; None when there is none."""
        pk, index = entry_key(kind, name), self._table.index
        row = self._table.get(pk)
        entry = None if row is None else row.entry
        changed = self._changed_of(kind) if entry is None else entry.modify_index
        return Answer(entry, index, (Topic(_TOPIC_FAMILY, pk),), changed)

    def list(self, kind: str = "") -> Answer[Entries]:
        """All entries of a kind by name, or with an empty kind all by kind and name.

        The same tuple until one of them changes.
        """
        kind = kind.lower()
        known = self._lists.get(kind)
        if known is not None and known.index == self._table.index:
            return known
        index = self._table.index
        if known is None:
            prefix = entry_key(kind, "") if kind else b""
            entries = tuple([row.entry for row in self._table.prefix(prefix)])
        else:
            entries = known.value
        topics = (Topic(_TOPIC_FAMILY, entry_key(kind, ""), True) if kind else _TABLE_TOPIC,)
        answer = Answer(entries, index, topics, self._changed_of(kind) if kind else index)
        if not kind or kind in CONFIG_ENTRY_TYPES:  # Callers cannot fill our memory.
            self._lists[kind] = answer
        return answer

    def list_of(self, kinds: Collection[str]) -> Answer[Entries]:
        """All entries of some kinds by kind and name; any write to the table wakes."""
        answer = self.list()
        entries = answer.value
        if all(entry.kind in kinds for entry in entries):
            return answer
        return answer.of(tuple([entry for entry in entries if entry.kind in kinds]))

    def observe(self, row: ConfigEntryRow, index: int) -> tuple[Topic, ...]:
        """Take note of a committed change of a row; return whom it concerns."""
        entry = row.entry
        self._lists.pop(entry.kind, None)
        self._lists.pop("", None)
        self._changed[entry.kind] = max(index, self._changed_of(entry.kind))
        return (Topic(_TOPIC_FAMILY, entry_key(entry.kind, entry.name)), _TABLE_TOPIC)

    def load(self) -> None:
        """Take over a table that was filled without `observe`."""
        self._lists.clear()
        self._changed.clear()
        self._floor = self._table.index  # What was deleted before then left no trace.

    def _changed_of(self, kind: str) -> int:
        # Of another server's commit a delete counts at its end, which may be behind our index.
        return min(self._changed.get(kind.lower(), self._floor), self._table.index)


def apply(overlay: Overlay, request: ConfigEntryRequest, index: int) -> bool:
    """Carry out the write of a config entry; one that is equal already is left as it is.

    Returns:
        Whether it took place: False when another write came before an ``upsert-cas``, and for a
        delete of what is not there.

    Raises:
        InvalidRequest: There is no entry, its kind or the operation is not known, or it sets the
            id of an intention that has another one. Nothing changed.
    """
    entry = request.entry
    if entry is None or entry.kind not in CONFIG_ENTRY_TYPES or not entry.name:
        raise InvalidRequest("invalid request: missing config entry, or its name", status=500)
    view: TableView[ConfigEntryRow] = overlay.tables[CONFIG_ENTRIES.name]
    pk = entry_key(entry.kind, entry.name)
    row = view.get(pk)
    old = None if row is None else row.entry
    if request.op == DELETE:
        return view.delete(pk, index) is not None
    if request.op == UPSERT_CAS:
        if entry.modify_index != (0 if old is None else old.modify_index):
            return False
    elif request.op not in {UPSERT, COPY}:
        raise InvalidRequest(f"Invalid config entry operation: {request.op}", status=500)
    if isinstance(entry, ServiceIntentionsConfigEntry) and old is not None and request.op != COPY:
        assert isinstance(old, ServiceIntentionsConfigEntry)
        entry = _intentions_over(old, entry)
    entry = msgspec.structs.replace(
        entry,
        create_index=index if old is None else old.create_index,
        modify_index=index if old is None else old.modify_index,
    )
    if entry != old:
        view.put(ConfigEntryRow.of(msgspec.structs.replace(entry, modify_index=index)), index)
    return True


def _intentions_over(
    old: ServiceIntentionsConfigEntry, new: ServiceIntentionsConfigEntry
) -> ServiceIntentionsConfigEntry:
    """New intentions in place of old: one that has an id keeps it, and when it was created.

    Raises:
        InvalidRequest: An id would be given to an intention, or changed.
    """
    by_name = {source.name: source for source in old.sources or ()}
    by_id = {source.legacy_id: source for source in old.sources or () if source.legacy_id}

    def kept(position: int, source: SourceIntention) -> SourceIntention:
        if not source.legacy_id:
            return source
        before = by_name.get(source.name)
        if before is not None and before.legacy_id != source.legacy_id:
            fault = "cannot be changed" if before.legacy_id else "cannot set this field"
            raise InvalidRequest(f"Sources[{position}].LegacyID: {fault}", status=500)
        same = by_id.get(source.legacy_id)
        if same is None or same.legacy_create_time is None:
            return source
        return msgspec.structs.replace(source, legacy_create_time=same.legacy_create_time)

    if new.sources is None:
        return new
    return msgspec.structs.replace(
        new, sources=tuple(kept(position, source) for position, source in enumerate(new.sources))
    )
