"""A plain model of what a datacenter knows: dicts, and Consul's rules for changing them.

It shares no code with what it is compared with. Every write is told its index and the time, and
returns what a caller should be answered. Source: protocol/http-api.md §6.1, §6.2, §6.4.
"""

import base64
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

Json: TypeAlias = Any
LOCK_DELAY_MAX = 60.0
NO_NODE = "Missing node registration"
NO_SERVICE = "Missing service registration"


class Refused(Exception):
    """A write is refused, with this text; nothing changes."""


@dataclass(frozen=True)
class Key:
    value: bytes = b""
    flags: int = 0
    session: str = ""
    lock_index: int = 0
    created: int = 0
    modified: int = 0

    def show(self, name: str, *, with_value: bool = True) -> Json:
        shown: dict[str, Json] = {
            "LockIndex": self.lock_index,
            "Key": name,
            "Flags": self.flags,
            "Value": base64.b64encode(self.value).decode() if self.value and with_value else None,
        }
        if self.session:
            shown["Session"] = self.session
        return shown | {"CreateIndex": self.created, "ModifyIndex": self.modified}


@dataclass(frozen=True)
class Session:
    node: str
    checks: tuple[str, ...]
    behavior: str
    delay: float
    ttl: float
    created: int
    ends: float

    def show(self, session_id: str) -> Json:
        return {
            "ID": session_id,
            "Name": "",
            "Node": self.node,
            "LockDelay": int(self.delay * 1e9),
            "Behavior": self.behavior,
            "TTL": f"{self.ttl:g}s" if self.ttl else "",
            "NodeChecks": list(self.checks),
            "ServiceChecks": None,
            "CreateIndex": self.created,
            "ModifyIndex": self.created,
        }


@dataclass(frozen=True)
class Row:
    """A node, a service or a check: its fields as JSON shows them, and its indexes."""

    fields: dict[str, Json]
    created: int = 0
    modified: int = 0

    def show(self) -> Json:
        return self.fields | {"CreateIndex": self.created, "ModifyIndex": self.modified}


Rows: TypeAlias = dict[tuple[str, str], Row]


@dataclass
class Model:
    """One datacenter.

    Attributes:
        keys: By name.
        graves: Index at which keys that are gone were deleted.
        kv_index: Of the last change of any key.
        closed: Until when the lock of a key stays closed.
        services, checks: By node and id.
    """

    keys: dict[str, Key] = field(default_factory=dict)
    graves: dict[str, int] = field(default_factory=dict)
    kv_index: int = 0
    closed: dict[str, float] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    nodes: dict[str, Row] = field(default_factory=dict)
    services: Rows = field(default_factory=dict)
    checks: Rows = field(default_factory=dict)
    index: int = 0
    now: float = 0.0

    # Keys ----------------------------------------------------------------------------------------

    def _store(self, name: str, key: Key) -> Key:
        old = self.keys.get(name)
        if old is None:
            key = replace(key, created=self.index, modified=self.index)
        else:
            key = replace(key, created=old.created, modified=old.modified)
            if key == old:
                return old
            key = replace(key, modified=self.index)
        self.keys[name] = key
        self.kv_index = self.index
        return key

    def put(self, name: str, value: bytes, flags: int) -> Key:
        """Write; the session stays, the count of locks begins anew."""
        old = self.keys.get(name, Key())
        return self._store(name, Key(value, flags, session=old.session))

    def cas(self, name: str, value: bytes, flags: int, index: int) -> Key | None:
        """Write if it was last modified at that index; 0: if it is not there."""
        if index != self.keys.get(name, Key()).modified:
            return None
        return self.put(name, value, flags)

    def lock(self, name: str, value: bytes, flags: int, session: str) -> Key | None:
        """Write and take the lock, if nobody else has it."""
        if session not in self.sessions:
            raise Refused(f'invalid session "{session}"')
        old = self.keys.get(name, Key())
        if old.session not in ("", session):
            return None
        count = old.lock_index + (old.session == "")
        return self._store(name, Key(value, flags, session, count))

    def unlock(self, name: str, value: bytes, flags: int, session: str) -> Key | None:
        """Write and give the lock up, if we have it."""
        old = self.keys.get(name)
        if old is None or old.session != session:
            return None
        return self._store(name, Key(value, flags, "", old.lock_index))

    def delete(self, name: str) -> None:
        """Delete a key if it is there."""
        if self.keys.pop(name, None) is not None:
            self.graves[name] = self.kv_index = self.index

    def delete_cas(self, name: str, index: int) -> bool:
        """Delete a key if it was last modified at that index; gone is as good as deleted."""
        old = self.keys.get(name)
        if old is not None and old.modified != index:
            return False
        self.delete(name)
        return True

    def delete_tree(self, prefix: str) -> None:
        """Delete all keys under a prefix."""
        for name in [name for name in self.keys if name.startswith(prefix)]:
            self.delete(name)

    def is_closed(self, name: str) -> bool:
        """Whether a lost lock may not be taken yet."""
        return self.closed.get(name, 0.0) > self.now

    def list_keys(self, prefix: str) -> list[str]:
        """Names under a prefix, in order of their bytes."""
        return sorted((name for name in self.keys if name.startswith(prefix)), key=str.encode)

    def tree_index(self, prefix: str) -> int:
        """Index of a listing: of the last change under the prefix, else of any."""
        if not prefix:
            return self.kv_index
        rows = [key.modified for name, key in self.keys.items() if name.startswith(prefix)]
        graves = [index for name, index in self.graves.items() if name.startswith(prefix)]
        return max([*rows, *graves], default=0) or self.kv_index

    # Sessions ------------------------------------------------------------------------------------

    def check_session(self, node: str, checks: tuple[str, ...]) -> None:
        """Refuse a session whose node or checks are not as they must be."""
        if node not in self.nodes:
            raise Refused(NO_NODE)
        for check in checks:
            row = self.checks.get((node, check))
            if row is None:
                raise Refused(f"Missing check '{check}' registration")
            if row.fields["Status"] == "critical":
                raise Refused(f"Check '{check}' is in critical state")

    def destroy(self, session_id: str) -> None:
        """End a session: its locks are released, or their keys deleted, and closed for a while."""
        session = self.sessions.pop(session_id, None)
        if session is None:
            return
        for name, key in list(self.keys.items()):
            if key.session != session_id:
                continue
            if session.behavior == "delete":
                self.delete(name)
            else:
                self._store(name, replace(key, session=""))
            if session.delay > 0:
                self.closed[name] = self.now + min(session.delay, LOCK_DELAY_MAX)

    def _end_sessions(self, holds: Callable[[Session], bool]) -> None:
        for session_id in [one for one, session in self.sessions.items() if holds(session)]:
            self.destroy(session_id)

    # Catalog -------------------------------------------------------------------------------------

    def _put_row(self, rows: dict[Any, Row], at: object, fields: dict[str, Json]) -> None:
        old = rows.get(at)
        if old is None:
            rows[at] = Row(fields, self.index, self.index)
        elif old.fields != fields:
            rows[at] = Row(fields, old.created, self.index)

    def set_node(self, fields: dict[str, Json]) -> None:
        """Write a node."""
        self._put_row(self.nodes, fields["Node"], fields)

    def set_service(self, node: str, fields: dict[str, Json]) -> None:
        """Write a service; its checks learn of its name and tags, which Consul leaves to agents."""
        if node not in self.nodes:
            raise Refused(NO_NODE)
        self._put_row(self.services, (node, fields["ID"]), fields)
        told = {"ServiceName": fields["Service"], "ServiceTags": fields["Tags"]}
        for at, row in list(self.checks.items()):
            if at[0] == node and row.fields["ServiceID"] == fields["ID"]:
                self._put_row(self.checks, at, row.fields | told)

    def set_check(self, fields: dict[str, Json]) -> None:
        """Write a check; a critical one ends sessions, changed or not."""
        node = fields["Node"]
        if node not in self.nodes:
            raise Refused(NO_NODE)
        fields = {"ServiceName": "", "ServiceTags": [], **fields}
        if fields["ServiceID"]:
            service = self.services.get((node, fields["ServiceID"]))
            if service is None:
                raise Refused(NO_SERVICE)
            fields["ServiceName"] = service.fields["Service"]
            fields["ServiceTags"] = service.fields["Tags"]
        fields["Status"] = fields["Status"] or "critical"
        check = fields["CheckID"]
        self._put_row(self.checks, (node, check), fields)
        if fields["Status"] == "critical":
            self._end_sessions(lambda one: one.node == node and check in one.checks)

    def remove_check(self, node: str, check: str) -> None:
        """Delete a check and end the sessions that depend on it."""
        if self.checks.pop((node, check), None) is not None:
            self._end_sessions(lambda one: one.node == node and check in one.checks)

    def remove_service(self, node: str, service: str) -> None:
        """Delete a service and its checks."""
        if self.services.pop((node, service), None) is not None:
            for at, row in list(self.checks.items()):
                if at[0] == node and row.fields["ServiceID"] == service:
                    self.remove_check(*at)

    def remove_node(self, node: str) -> None:
        """Delete a node with all that is on it."""
        if self.nodes.pop(node, None) is not None:
            for at in [at for at in self.services if at[0] == node]:
                self.remove_service(*at)
            for at in [at for at in self.checks if at[0] == node]:
                self.remove_check(*at)
            self._end_sessions(lambda one: one.node == node)

    def instances(self, name: str) -> list[Json]:
        """All instances of a service with their checks, those of the node first."""
        return [
            {
                "Node": self.nodes[node].show(),
                "Service": row.show(),
                "Checks": [
                    check.show()
                    for owner in ("", service)
                    for at, check in sorted(self.checks.items())
                    if at[0] == node and check.fields["ServiceID"] == owner
                ],
            }
            for (node, service), row in sorted(self.services.items())
            if row.fields["Service"] == name
        ]

    # Writes of several operations ----------------------------------------------------------------

    def all_or_nothing(self, write: Callable[["Model"], Json]) -> Json:
        """Carry out a write on a copy, and keep the copy if it is not refused."""
        trial = copy.deepcopy(self)
        result = write(trial)
        self.__dict__.update(trial.__dict__)
        return result

    def txn(self, ops: Iterable[Json]) -> tuple[list[Json], list[Json]]:
        """Carry out a transaction: results, or errors, and then nothing has changed."""
        ops, results, errors = list(ops), list[Json](), list[Json]()
        for at, op in enumerate(ops):
            kv = op.get("KV", {})
            if kv.get("Verb") == "lock" and self.is_closed(kv["Key"]):
                what = f'failed to lock key "{kv["Key"]}" due to lock delay'
                errors.append({"OpIndex": at, "What": what})
        if errors:
            return [], errors
        trial = copy.deepcopy(self)
        for at, op in enumerate(ops):
            ((kind, body),) = op.items()
            try:
                results += getattr(trial, f"_txn_{kind.lower()}")(body["Verb"], body)
            except Refused as error:
                errors.append({"OpIndex": at, "What": str(error)})
        if errors:
            return [], errors
        self.__dict__.update(trial.__dict__)
        return results, []

    def _txn_kv(self, verb: str, body: Json) -> list[Json]:
        name, value = body["Key"], base64.b64decode(body.get("Value", ""))
        flags, session, index = body.get("Flags", 0), body.get("Session", ""), body.get("Index", 0)
        key: Key | None = self.keys.get(name)
        if verb == "get-tree":
            return [{"KV": self.keys[one].show(one)} for one in self.list_keys(name)]
        if verb == "set":
            key = self.put(name, value, flags)
        elif verb == "cas":
            key = self.cas(name, value, flags, index)
            _require(key, f'failed to set key "{name}", index is stale')
        elif verb == "lock":
            key = self.lock(name, value, flags, session)
            _require(key, f'failed to lock key "{name}", lock is already held')
        elif verb == "unlock":
            key = self.unlock(name, value, flags, session)
            _require(
                key,
                f'failed to unlock key "{name}", lock isn\'t held, or is held by another session',
            )
        elif verb == "get":
            _require(key, f'key "{name}" doesn\'t exist')
        elif verb == "check-not-exists":
            _require(key is None, f'key "{name}" exists')
        elif verb == "check-index":
            found = _require(key, f'failed to check index, key "{name}" doesn\'t exist')
            text = f"current modify index {found.modified} != {index}"
            _require(found.modified == index, f'failed index check for key "{name}", {text}')
        elif verb == "check-session":
            found = _require(key, f'failed to check session, key "{name}" doesn\'t exist')
            text = f'current session "{found.session}" != "{session}"'
            _require(found.session == session, f'failed session check for key "{name}", {text}')
        else:
            key = None
            if verb == "delete":
                self.delete(name)
            elif verb == "delete-tree":
                self.delete_tree(name)
            else:
                assert verb == "delete-cas"
                done = self.delete_cas(name, index)
                _require(done, f'failed to delete key "{name}", index is stale')
        return [] if key is None else [{"KV": key.show(name, with_value=verb == "get")}]

    def _txn_node(self, verb: str, body: Json) -> list[Json]:
        fields, name = dict(body["Node"]), body["Node"]["Node"]
        index = fields.pop("ModifyIndex", 0)
        old = self.nodes.get(name)
        if verb == "get":
            _require(old, f'node "{name}" doesn\'t exist')
        elif verb in ("set", "cas"):
            if verb == "cas":
                _require(_is_at(old, index), f'failed to set node "{name}", index is stale')
            self.set_node(fields)
        else:
            if verb == "delete-cas":
                fits = old is not None and old.modified == index
                _require(fits, f'failed to delete node "{name}", index is stale')
            self.remove_node(name)
            return []
        return [{"Node": self.nodes[name].show()}]

    def _txn_service(self, verb: str, body: Json) -> list[Json]:
        node, fields = body["Node"], dict(body["Service"])
        index, name = fields.pop("ModifyIndex", 0), fields["ID"]
        old = self.services.get((node, name))
        what = f'service "{name}" on node "{node}"'
        if verb == "get":
            _require(old, f"{what} doesn't exist")
        elif verb in ("set", "cas"):
            if verb == "cas":
                _require(_is_at(old, index), f"failed to set {what}, index is stale")
            self.set_service(node, fields)
        else:
            if verb == "delete-cas":
                fits = old is not None and old.modified == index
                _require(fits, f"failed to delete {what}, index is stale")
            self.remove_service(node, name)
            return []
        return [{"Service": self.services[node, name].show()}]

    def _txn_check(self, verb: str, body: Json) -> list[Json]:
        fields = dict(body["Check"])
        index, node, name = fields.pop("ModifyIndex", 0), fields["Node"], fields["CheckID"]
        old = self.checks.get((node, name))
        what = f'check "{name}" on node "{node}"'
        if verb == "get":
            _require(old, f"{what} doesn't exist")
        elif verb in ("set", "cas"):
            if verb == "cas":
                _require(_is_at(old, index), f"failed to set {what}, index is stale")
            self.set_check(fields)
        else:
            if verb == "delete-cas":
                fits = old is not None and old.modified == index
                _require(fits, f"failed to delete {what}, index is stale")
            self.remove_check(node, name)
            return []
        return [{"Check": self.checks[node, name].show()}]


def _is_at(old: Row | None, index: int) -> bool:
    return index == (0 if old is None else old.modified)


def _require(found: Any, text: str) -> Any:
    if not found:
        raise Refused(text)
    return found
