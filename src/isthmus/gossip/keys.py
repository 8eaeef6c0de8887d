"""Key changes that go through the pool: internal queries that install, use, remove and list keys.

Every member carries them out on its own keyring and says how it went; the asker counts.

Source: protocol/gossip.md §1.6, §13.5.
"""

import base64
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from isthmus.errors import InvalidRequest, ProtocolError
from isthmus.gossip.keyring import Keyring
from isthmus.gossip.queries import INTERNAL_QUERY_PREFIX, QueryResult
from isthmus.wire import serf as wire

KEY_CHANGES_PENDING_MAX: Final = 64
"""Key queries whose change is not stored yet; further ones are answered with an error."""
NO_KEYRING: Final = "No keyring to modify (encryption not enabled)"
EMPTY_KEYRING: Final = "Keyring is empty (encryption not enabled)"


class KeyOperation(Enum):
    """What a key query asks for."""

    INSTALL = "install-key"
    """Add a key that decrypts from now on."""
    USE = "use-key"
    """Encrypt with an installed key."""
    REMOVE = "remove-key"
    """Forget a key, not the primary one."""
    LIST = "list-keys"

    @property
    def query(self) -> str:
        """Name of the query."""
        return INTERNAL_QUERY_PREFIX + self.value


@dataclass(frozen=True, slots=True)
class KeyResult:
    """What the members of a pool said to a key operation.

    Attributes:
        member_count: Members that were alive.
        response_count: How many answered.
        error_count: How many could not do it.
        messages: What members had to say, by name.
        keys: When listing: how many members hold a key, by the key in base64.
        primary_keys: When listing: how many members encrypt with a key.
    """

    member_count: int
    response_count: int
    error_count: int
    messages: Mapping[str, str]
    keys: Mapping[str, int]
    primary_keys: Mapping[str, int]

    @property
    def error(self) -> str:
        """What went wrong as a whole, worded as serf does; empty: every member did it."""
        if self.error_count:
            return f"{self.error_count}/{self.member_count} nodes reported failure"
        if self.response_count != self.member_count:
            return f"{self.response_count}/{self.member_count} nodes reported success"
        return ""


@dataclass(frozen=True, slots=True)
class KeysAnswered:
    """Event: the key operation of that number is finished."""

    id: int
    result: KeyResult


@dataclass(frozen=True, slots=True)
class StoreKeyring:
    """Action: write the keys, primary first, where the next start finds them.

    Answer `Serf.keyring_stored` once; where nothing is to be kept, at once.
    """

    id: int
    keys: tuple[bytes, ...]


def key_request(key: bytes) -> bytes:
    """Payload of a key query; no key when listing."""
    return wire.encode_message(wire.KeyRequest(key=key))


def count_answers(result: QueryResult, *, member_count: int) -> KeyResult:
    """Sum up the answers to a key query."""
    messages: dict[str, str] = {}
    keys: Counter[str] = Counter()
    primary_keys: Counter[str] = Counter()
    error_count = 0
    for member, payload in result.responses.items():
        answer = _read(payload)
        if isinstance(answer, str):
            messages[member] = answer
            error_count += 1
            continue
        if answer.message or not answer.result:
            messages[member] = answer.message
        error_count += not answer.result
        keys.update(list(dict.fromkeys(answer.keys)))  # Each once, in their order.
        if answer.primary_key:
            primary_keys[answer.primary_key] += 1
    return KeyResult(
        member_count, len(result.responses), error_count, messages, dict(keys), dict(primary_keys)
    )


def _read(payload: bytes) -> wire.KeyResponse | str:
    """An answer, or why it is none."""
    try:
        answer = wire.decode_message(payload)
    except ProtocolError as error:
        return f"malformed answer to a key query: {error}"
    if isinstance(answer, wire.KeyResponse):
        return answer
    return f"malformed answer to a key query: it is a {type(answer).__name__}"


class KeyKeeper:
    """Carries out on our keyring what key queries ask.

    A change counts at once, for packets and streams; it is answered when it is stored.

    Args:
        keyring: Our keys; none: the pool is not encrypted, and stays so.
        store: Asks for the keys to be stored.
        respond: Answers a query; raises InvalidRequest if that is too long or late.
    """

    def __init__(
        self,
        keyring: Keyring,
        *,
        store: Callable[[StoreKeyring], None],
        respond: Callable[[wire.Query, bytes, float], None],
    ) -> None:
        self._keyring, self._store, self._respond = keyring, store, respond
        self._pending: dict[int, wire.Query] = {}
        self._number = 0

    def receive(self, operation: KeyOperation, query: wire.Query, *, now: float) -> None:
        """Do what a query asks, and answer it now or when the change is stored."""
        if operation is KeyOperation.LIST:
            self._list(query, now=now)
            return
        problem = self._change(operation, query.payload)
        if problem:
            self._answer(query, wire.KeyResponse(message=problem), now=now)
            return
        self._number += 1
        self._pending[self._number] = query
        self._store(StoreKeyring(self._number, self._keyring.keys))

    def stored(self, store_id: int, problem: str, *, now: float) -> None:
        """The keys of a StoreKeyring are stored, or why not; then they hold until the next start.

        Args:
            store_id: From the action.
            problem: What went wrong; empty: nothing.
            now: Seconds on the driver's monotonic clock.
        """
        query = self._pending.pop(store_id)
        answer = wire.KeyResponse(result=not problem, message=problem)
        self._answer(query, answer, now=now)

    def _change(self, operation: KeyOperation, payload: bytes) -> str:
        """Change the keyring, or say why not."""
        if not self._keyring:
            return NO_KEYRING
        if len(self._pending) >= KEY_CHANGES_PENDING_MAX:
            return f"{KEY_CHANGES_PENDING_MAX} changes of the keyring wait to be stored; try later"
        try:
            request = wire.decode_message(payload)
        except ProtocolError as error:
            return f"malformed key request: {error}"
        if not isinstance(request, wire.KeyRequest):
            return f"malformed key request: it is a {type(request).__name__}"
        try:
            match operation:
                case KeyOperation.INSTALL:
                    self._keyring.add(request.key)
                case KeyOperation.USE:
                    self._keyring.use(request.key)
                case _:
                    self._keyring.remove(request.key)
        except InvalidRequest as error:
            return str(error)
        return ""

    def _list(self, query: wire.Query, *, now: float) -> None:
        """Answer with all keys, or with as many as an answer holds."""
        if not self._keyring:
            self._answer(query, wire.KeyResponse(message=EMPTY_KEYRING), now=now)
            return
        keys = tuple(base64.b64encode(key).decode() for key in self._keyring.keys)
        for count in range(len(keys), -1, -1):
            cut = f"truncated key list response, showing first {count} of {len(keys)} keys"
            answer = wire.KeyResponse(
                result=True,
                message="" if count == len(keys) else cut,
                keys=keys[:count],
                primary_key=keys[0],
            )
            try:
                self._respond(query, wire.encode_message(answer), now)
            except InvalidRequest:
                continue
            return

    def _answer(self, query: wire.Query, answer: wire.KeyResponse, *, now: float) -> None:
        with suppress(InvalidRequest):  # Too late: nobody waits for it any more.
            self._respond(query, wire.encode_message(answer), now)
