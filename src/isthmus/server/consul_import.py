"""What a snapshot of Consul's holds, written as if it were written now.

The rows become ordinary commands, so everything that holds for writes holds for them; indexes are
new. What is there already is replaced, or with `keep` left as it is. What this release has no
place for is counted and named.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

import msgspec

from isthmus.errors import MalformedPacket, RequestError
from isthmus.model import config_entry, federation
from isthmus.model.catalog import HealthCheck, NodeService, RegisterRequest
from isthmus.model.config_entry import ConfigEntryRequest
from isthmus.model.federation import FederationStateRequest
from isthmus.model.identifier import uuid_fault
from isthmus.model.kv import KV_LOCK, KV_SET, DirEntry, KVSRequest
from isthmus.model.operator import AutopilotConfig, AutopilotSetConfigRequest
from isthmus.model.prepared_query import QUERY_CREATE, PreparedQuery, PreparedQueryRequest
from isthmus.model.session import SESSION_CREATE, Session, SessionRequest
from isthmus.model.snapshot import ImportedKind
from isthmus.store.commands import Command
from isthmus.store.store import Store
from isthmus.wire import consul_snapshot as rows
from isthmus.wire.blob import from_blob
from isthmus.wire.consul_snapshot import ConsulRow, ConsulSnapshotReader
from isthmus.wire.msgpack import from_plain

BATCH: Final = 256
"""Commands that are on their way at once."""
NAMES_MAX: Final = 20
_NAME_SIZE_MAX: Final = 200

NODE: Final = "Node"
SERVICE: Final = "Service"
CHECK: Final = "Check"
LOCK: Final = "Lock"
_OWN: Final = {
    rows.TOMBSTONE: "deletions need no trace here",
    rows.COORDINATES: "agents tell their coordinates anew",
    rows.INDEX: "indexes are counted anew",
    29: "it belongs to Consul's storage",
    31: "it belongs to Consul's storage",
}
_NAMES: Final = {
    rows.CONNECT_CA: ("Name", "ID"),
    rows.INTENTION: ("SourceName", "DestinationName"),
    rows.ACL_TOKEN: ("AccessorID",),  # Not by its id in older shapes, which is the secret.
    rows.ACL_POLICY: ("Name",),
    rows.ACL_ROLE: ("Name",),
    rows.ACL_BINDING_RULE: ("AuthMethod", "ID"),
    rows.ACL_AUTH_METHOD: ("Name",),
}
"""Fields that make up what an operator calls a row that has no place here."""
_OTHER: Final = "this release has no place for them"
_SECONDARY: Final = "the primary datacenter owns them; import them there"
_NO_HOLDER: Final = "the session that holds them is not there"
_KEPT: Final = "what was there already was kept"
_NAMELESS: Final = "without a name"


def check_snapshot(source: IO[bytes]) -> int:
    """Read a whole snapshot of Consul's; return how many rows it has. Not for an event loop.

    Raises:
        UnreadableSnapshot: It cannot be read.
    """
    return sum(1 for _ in ConsulSnapshotReader(source).rows())


@dataclass(slots=True)
class _Tally:
    """What became of one kind of rows."""

    kind: str
    reason: str = ""
    found: int = 0
    imported: int = 0
    kept: int = 0
    refused: int = 0
    names: list[str] = field(default_factory=list)

    def leave(self, name: str) -> None:
        if len(self.names) < NAMES_MAX:
            self.names.append(name[:_NAME_SIZE_MAX])

    def told(self) -> ImportedKind:
        return ImportedKind(
            kind=self.kind,
            found=self.found,
            imported=self.imported,
            kept=self.kept,
            refused=self.refused,
            names=tuple(self.names) or None,
            reason=self.reason,
        )


class ConsulImport:
    """One import.

    Args:
        store: What is there already.
        commit: Makes a command durable.
        dc: Our datacenter; nodes that are imported belong to it.
        is_primary: Whether federation states and config entries are written here.
        keep: Leave what is there already as it is.
    """

    def __init__(
        self,
        store: Store,
        commit: Callable[[Command], Awaitable[object]],
        *,
        dc: str,
        is_primary: bool,
        keep: bool,
    ) -> None:
        self._store, self._commit, self._dc = store, commit, dc
        self._is_primary, self._keep = is_primary, keep
        self._tallies: dict[str, _Tally] = {}
        self._sessions: set[str] = set()
        """Ids of the sessions that stood before the keys they lock, in lower case."""

    async def run(self, source: IO[bytes]) -> tuple[ImportedKind, ...]:
        """Write what is in a snapshot that `check_snapshot` found whole.

        Returns:
            What became of each kind, in the order in which they stand in the file.

        Raises:
            Unavailable, EngineError: Writing does not work any more; what was written stays,
                and the import may be repeated.
        """
        batch: list[tuple[_Tally, str, Command]] = []
        for write in self._writes(ConsulSnapshotReader(source).rows()):
            batch.append(write)
            if len(batch) >= BATCH:
                await self._flush(batch)
                batch = []
        await self._flush(batch)
        return tuple(tally.told() for tally in self._tallies.values())

    async def _flush(self, batch: list[tuple[_Tally, str, Command]]) -> None:
        """Write a batch; commands are carried out in the order in which they are handed in."""
        results = await asyncio.gather(
            *(self._commit(command) for _, _, command in batch), return_exceptions=True
        )
        for (tally, name, _), result in zip(batch, results, strict=True):
            if isinstance(result, RequestError):
                tally.refused += 1
                tally.reason = tally.reason or str(result)
                tally.leave(name)
            elif isinstance(result, BaseException):
                raise result
            else:
                tally.imported += 1

    def _writes(self, found: Iterator[ConsulRow]) -> Iterator[tuple[_Tally, str, Command]]:
        """The writes that rows come to; what comes to none is counted only."""
        for row in found:
            try:
                yield from self._write(row)
            except (MalformedPacket, UnicodeError) as error:
                tally = self._tally(_name_of_type(row.type))
                tally.refused += 1
                tally.reason = tally.reason or str(error)

    def _write(self, row: ConsulRow) -> Iterator[tuple[_Tally, str, Command]]:
        if row.type == rows.REGISTER:
            request: RegisterRequest = from_plain(RegisterRequest, row.value)
            yield from self._register(request)
        elif row.type == rows.KVS:
            entry: DirEntry = from_plain(DirEntry, row.value)
            yield from self._entry(entry)
        elif row.type == rows.SESSION:
            session: Session = from_plain(Session, row.value)
            yield from self._session(session)
        elif row.type == rows.FEDERATION_STATE:
            yield from self._federation_state(row)
        elif row.type == rows.CONFIG_ENTRY:
            yield from self._config_entry(row)
        elif row.type == rows.PREPARED_QUERY:
            query: PreparedQuery = from_plain(PreparedQuery, row.value)
            yield from self._query(query)
        elif row.type == rows.AUTOPILOT:
            config: AutopilotConfig = from_plain(AutopilotConfig, row.value)
            yield from self._autopilot(config)
        else:
            self._leave(row)

    def _session(self, session: Session) -> Iterator[tuple[_Tally, str, Command]]:
        """A session under its own id, so that its holder can go on renewing it."""
        self._sessions.add(session.id.lower())
        command = SessionRequest(datacenter=self._dc, op=SESSION_CREATE, session=session)
        kind = rows.TYPE_NAMES[rows.SESSION]
        yield from self._one(kind, session.id, command, there=self._has_session(session.id))

    def _has_session(self, session_id: str) -> bool:
        return not uuid_fault(session_id) and self._store.sessions.get(session_id).value is not None

    def _entry(self, entry: DirEntry) -> Iterator[tuple[_Tally, str, Command]]:
        """A key, and its lock if whoever holds that came over too."""
        row = self._store.kv.get(entry.key).value
        kind = rows.TYPE_NAMES[rows.KVS]
        holder, is_lock = entry.session.lower(), bool(entry.session)
        if is_lock and holder not in self._sessions and not self._has_session(holder):
            self._refuse(LOCK, entry.key, _NO_HOLDER)
            is_lock = False
        # Taking a lock counts it, unless it is taken already.
        counted = is_lock and (row is None or row.session.lower() != holder)
        bare = msgspec.structs.replace(
            entry, lock_index=max(0, entry.lock_index - counted), session=""
        )
        command = KVSRequest(datacenter=self._dc, op=KV_SET, dir_ent=bare)
        yield from self._one(kind, entry.key, command, there=row is not None)
        if is_lock:
            command = KVSRequest(datacenter=self._dc, op=KV_LOCK, dir_ent=entry)
            yield from self._one(LOCK, entry.key, command, there=row is not None)

    def _register(self, request: RegisterRequest) -> Iterator[tuple[_Tally, str, Command]]:
        """One node, or one service or check of a node that came before."""
        known = self._store.catalog.node(request.node).value is not None
        request = msgspec.structs.replace(request, datacenter=self._dc, token="")
        check = request.check
        if request.service is not None:
            name = f"{request.node}/{request.service.id}"
            there = self._has_service(request.node, request.service)
            bare = msgspec.structs.replace(request, check=None, checks=None, skip_node_update=True)
            yield from self._one(SERVICE, name, bare, there=there)
        if check is not None:
            name = f"{request.node}/{check.check_id}"
            there = self._has_check(request.node, check)
            bare = msgspec.structs.replace(
                request, service=None, checks=None, skip_node_update=True
            )
            yield from self._one(CHECK, name, bare, there=there)
        if request.service is None and check is None:
            yield from self._one(NODE, request.node, request, there=known)

    def _has_service(self, node: str, service: NodeService) -> bool:
        found = self._store.catalog.node_services(node).value
        return found is not None and any(one.id.lower() == service.id.lower() for one in found[1])

    def _has_check(self, node: str, check: HealthCheck) -> bool:
        found = self._store.catalog.node_checks(node).value
        return any(one.check_id.lower() == check.check_id.lower() for one in found)

    def _federation_state(self, row: ConsulRow) -> Iterator[tuple[_Tally, str, Command]]:
        request: FederationStateRequest = from_plain(FederationStateRequest, row.value)
        state = request.state
        name = state.datacenter if state is not None else ""
        kind = rows.TYPE_NAMES[rows.FEDERATION_STATE]
        if not self._is_primary:
            self._leave_to_primary(kind, name)
            return
        there = self._store.federation.get(name).value is not None
        if state is not None:  # Indexes are counted anew, those of this primary included.
            state = msgspec.structs.replace(state, primary_modify_index=0)
        command = FederationStateRequest(datacenter=self._dc, op=federation.UPSERT, state=state)
        yield from self._one(kind, name, command, there=there)

    def _config_entry(self, row: ConsulRow) -> Iterator[tuple[_Tally, str, Command]]:
        """An entry as it is: Consul checked it when it was written."""
        kind = rows.TYPE_NAMES[rows.CONFIG_ENTRY]
        try:
            entry = from_blob(ConfigEntryRequest, row.value).entry
        except MalformedPacket as error:  # Or of a kind that later releases of Consul know.
            self._refuse(kind, str(error), str(error))
            return
        if entry is None or not entry.name:
            self._refuse(kind, _NAMELESS, _NAMELESS)
            return
        name = f"{entry.kind}/{entry.name}"
        if not self._is_primary:
            self._leave_to_primary(kind, name)
            return
        there = self._store.config_entries.get(entry.kind, entry.name).value is not None
        command = ConfigEntryRequest(datacenter=self._dc, op=config_entry.COPY, entry=entry)
        yield from self._one(kind, name, command, there=there)

    def _leave_to_primary(self, kind: str, name: str) -> None:
        tally = self._tally(kind)
        tally.found += 1
        tally.reason = tally.reason or _SECONDARY
        tally.leave(name)

    def _refuse(self, kind: str, name: str, reason: str) -> None:
        tally = self._tally(kind)
        tally.found += 1
        tally.refused += 1
        tally.reason = tally.reason or reason
        tally.leave(name)

    def _query(self, query: PreparedQuery) -> Iterator[tuple[_Tally, str, Command]]:
        there = not uuid_fault(query.id) and self._store.queries.row(query.id) is not None
        command = PreparedQueryRequest(datacenter=self._dc, op=QUERY_CREATE, query=query)
        kind = rows.TYPE_NAMES[rows.PREPARED_QUERY]
        yield from self._one(kind, query.name or query.id, command, there=there)

    def _autopilot(self, config: AutopilotConfig) -> Iterator[tuple[_Tally, str, Command]]:
        """The settings; those that only come from our configuration are not there yet."""
        kind, ours = rows.TYPE_NAMES[rows.AUTOPILOT], self._store.autopilot.get()
        config = msgspec.structs.replace(
            config, create_index=ours.create_index, modify_index=ours.modify_index
        )
        if ours.modify_index and config == ours:
            tally = self._tally(kind)
            tally.found += 1
            tally.imported += 1
            return
        command = AutopilotSetConfigRequest(datacenter=self._dc, config=config)
        yield from self._one(kind, "settings", command, there=ours.modify_index > 0)

    def _one(
        self, kind: str, name: str, command: Command, *, there: bool
    ) -> Iterator[tuple[_Tally, str, Command]]:
        tally = self._tally(kind)
        tally.found += 1
        if there and self._keep:
            tally.kept += 1
            tally.reason = tally.reason or _KEPT
            tally.leave(name)
        else:
            yield tally, name, command

    def _leave(self, row: ConsulRow) -> None:
        tally = self._tally(_name_of_type(row.type))
        tally.found += 1
        tally.reason = _OWN.get(row.type) or _OTHER
        if name := _name_of(row):
            tally.leave(name)

    def _tally(self, kind: str) -> _Tally:
        return self._tallies.setdefault(kind, _Tally(kind))


def _name_of_type(kind: int) -> str:
    return rows.TYPE_NAMES.get(kind, f"type {kind}")


def _name_of(row: ConsulRow) -> str:
    """What an operator calls a row that has no place here; empty for what nobody misses."""
    value: Any = row.value
    fields = _NAMES.get(row.type, ()) if isinstance(value, dict) else ()
    return "/".join(str(value[name]) for name in fields if value.get(name))
