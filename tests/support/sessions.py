"""Sessions, locked keys and transactions for tests."""

from typing import Any

from isthmus.model import kv as ops
from isthmus.model.catalog import PASSING, HealthCheck, NodeService, RegisterRequest
from isthmus.model.kv import DirEntry, KVSRequest
from isthmus.model.session import SESSION_CREATE, SESSION_DESTROY, Session, SessionRequest
from isthmus.units import SECOND, Duration
from support.stores import Driven

DELAY = Duration(15 * SECOND)


def session_id(number: int) -> str:
    """A UUID with a number in it."""
    return f"aaaaaaaa-0000-4000-8000-{number:012d}"


def node(
    name: str = "x", *checks: str, status: str = PASSING, service: str = ""
) -> RegisterRequest:
    """Register a node with checks of it, or of a service on it."""
    return RegisterRequest(
        node=name,
        address="10.0.0.1",
        service=NodeService(id=service, service=service) if service else None,
        checks=tuple(
            HealthCheck(node=name, check_id=check, name=check, status=status, service_id=service)
            for check in checks
        ),
    )


def create(number: int = 1, **fields: Any) -> SessionRequest:
    """Begin a session, on the node ``x`` unless told otherwise."""
    fields = {"node": "x", "lock_delay": DELAY, **fields}
    return SessionRequest(op=SESSION_CREATE, session=Session(id=session_id(number), **fields))


def destroy(number: int = 1) -> SessionRequest:
    """End a session."""
    return SessionRequest(op=SESSION_DESTROY, session=Session(id=session_id(number)))


def lock(key: str, number: int = 1, value: bytes = b"v", flags: int = 0) -> KVSRequest:
    """Take a key's lock."""
    return _entry(ops.KV_LOCK, key, number, value, flags)


def unlock(key: str, number: int = 1, value: bytes = b"v") -> KVSRequest:
    """Give up a key's lock."""
    return _entry(ops.KV_UNLOCK, key, number, value, 0)


def _entry(op: str, key: str, number: int, value: bytes, flags: int) -> KVSRequest:
    entry = DirEntry(key=key, value=value, flags=flags, session=session_id(number))
    return KVSRequest(op=op, dir_ent=entry)


def driven(*commands: Any) -> Driven:
    """A store with the node ``x``, after some commands, each a batch of its own."""
    store = Driven()
    store.execute(node("x", "serfHealth"))
    for command in commands:
        store.execute(command)
    return store


def holder(store: Driven, key: str) -> str | None:
    """Which session holds a key; None for a key that is not there."""
    row = store.store.kv.get(key).value
    return None if row is None else row.session
