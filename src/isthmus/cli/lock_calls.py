"""What locks ask an agent: sessions, and keys that sessions hold.

Source: protocol/http-api.md §6.4.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from isthmus.cli.client import AgentClient, RequestFailed, key_path, path_part
from isthmus.units import format_duration

_TRUE: Final = b"true"


@dataclass(frozen=True, slots=True)
class Held:
    """A key as it was found.

    Attributes:
        session: Who holds its lock; empty for nobody.
    """

    key: str
    value: bytes
    flags: int
    session: str
    modify_index: int


class LockCalls(Protocol):
    """What locks need of an agent; every call raises `RequestFailed` without a good answer."""

    def create_session(self, name: str, ttl: str, *, behavior: str = "") -> str:
        """Begin a session; return its id."""

    def destroy_session(self, session: str) -> None:
        """End a session."""

    def renew_session(self, session: str) -> bool:
        """Give a session its whole time again; False when there is none."""

    def read(
        self,
        key: str,
        *,
        recurse: bool = False,
        index: int = 0,
        wait: int = 0,
        consistent: bool = False,
    ) -> tuple[list[Held], int]:
        """Read a key, or all under it.

        Args:
            key: Key or prefix.
            recurse: Whether it is a prefix.
            index: Wait until what is read has changed after this.
            wait: Longest wait in nanoseconds.
            consistent: Whether the leader confirms first that it leads.

        Returns:
            What is there, and the index to pass next time.
        """

    def lock(self, key: str, session: str, *, flags: int) -> bool:
        """Take a key's lock; False when it cannot be had now."""

    def unlock(self, key: str, session: str, *, flags: int) -> bool:
        """Give up a key's lock."""

    def swap(self, key: str, value: bytes, *, flags: int, index: int) -> bool:
        """Write a key if it is as it was at an index; 0: if there is none."""

    def delete(self, key: str, *, index: int | None = None) -> bool:
        """Delete a key, if it is as it was at an index."""


class AgentLockCalls:
    """The calls over HTTP.

    Args:
        client: Asks the agent.
    """

    def __init__(self, client: AgentClient) -> None:
        self._client = client

    def create_session(self, name: str, ttl: str, *, behavior: str = "") -> str:
        """See `LockCalls.create_session`."""
        wanted = {"Name": name, "TTL": ttl} | ({"Behavior": behavior} if behavior else {})
        answer = self._client.put("/v1/session/create", None, json.dumps(wanted).encode())
        try:
            return str(json.loads(answer)["ID"])
        except (ValueError, KeyError, TypeError) as error:
            raise RequestFailed(f"the answer has no session id: {error!r}") from error

    def destroy_session(self, session: str) -> None:
        """See `LockCalls.destroy_session`."""
        self._client.put(f"/v1/session/destroy/{path_part(session)}")

    def renew_session(self, session: str) -> bool:
        """See `LockCalls.renew_session`."""
        status, _ = self._client.request("PUT", f"/v1/session/renew/{path_part(session)}")
        return status == 200

    def read(
        self,
        key: str,
        *,
        recurse: bool = False,
        index: int = 0,
        wait: int = 0,
        consistent: bool = False,
    ) -> tuple[list[Held], int]:
        """See `LockCalls.read`."""
        query: dict[str, Any] = {}
        if recurse:
            query["recurse"] = ""
        if index:
            query |= {"index": index, "wait": format_duration(wait)}
        if consistent:
            query["consistent"] = ""
        found, reached = self._client.read_indexed(key_path(key), query)
        return [_held(entry) for entry in found], reached

    def lock(self, key: str, session: str, *, flags: int) -> bool:
        """See `LockCalls.lock`."""
        return self._put(key, b"", {"acquire": session, "flags": flags})

    def unlock(self, key: str, session: str, *, flags: int) -> bool:
        """See `LockCalls.unlock`."""
        return self._put(key, b"", {"release": session, "flags": flags})

    def swap(self, key: str, value: bytes, *, flags: int, index: int) -> bool:
        """See `LockCalls.swap`."""
        return self._put(key, value, {"cas": index, "flags": flags})

    def delete(self, key: str, *, index: int | None = None) -> bool:
        """See `LockCalls.delete`."""
        query = {} if index is None else {"cas": index}
        return self._client.delete(key_path(key), query).strip() == _TRUE

    def _put(self, key: str, value: bytes, query: Mapping[str, Any]) -> bool:
        return self._client.put(key_path(key), query, value).strip() == _TRUE


def _held(entry: Any) -> Held:
    try:
        return Held(
            key=entry["Key"],
            value=base64.b64decode(entry.get("Value") or ""),
            flags=entry.get("Flags", 0),
            session=entry.get("Session", ""),
            modify_index=entry["ModifyIndex"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestFailed(f"the answer is no list of keys: {error!r}") from error
