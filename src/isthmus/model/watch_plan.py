"""Watches as users set them up: what is asked over and over, and which answers are news.

``isthmus watch`` and the ``watches`` of an agent's configuration are the same thing with other ways
to ask and to tell. The texts of errors are Consul's. Source: protocol/cli-config-dns.md §1.2, §2.3.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from isthmus.errors import IsthmusError
from isthmus.model.event import event_index

RETRY_FIRST: Final = 5.0
"""Seconds after a failure; four, nine, sixteen … times as long after those that follow it."""
RETRY_MAX: Final = 180.0
_PAIR_DEFAULTS: Final[Mapping[str, Any]] = {
    "Key": "",
    "CreateIndex": 0,
    "ModifyIndex": 0,
    "LockIndex": 0,
    "Flags": 0,
    "Value": None,
    "Session": "",
}
"""A key as handlers get it: all fields are there."""
_ESCAPES: Final = str.maketrans(
    {char: f"\\u{ord(char):04x}" for char in "<>&\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}"}
)


class InvalidWatch(IsthmusError):
    """A watch cannot be set up as it is written; the text says why."""


class WatchFailed(IsthmusError):
    """An answer is none to go by; nothing is known that was not known before."""


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What is asked.

    Attributes:
        type: What kind of thing is watched: ``key``, ``service`` …
        path: Path of the request, escaped.
        query: Its parameters, besides those that make it wait.
        token: ACL token of the request; empty for none.
    """

    type: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    token: str = ""

    @property
    def by_hash(self) -> bool:
        """Whether it waits for another hash instead of another index."""
        return self.type == "agent_service"


@dataclass(frozen=True, slots=True)
class WatchAnswer:
    """What came back.

    Attributes:
        status: HTTP status.
        body: As received.
        index: Value of ``X-Consul-Index``; empty for none.
        content_hash: Value of ``X-Consul-ContentHash``; empty for none.
    """

    status: int
    body: bytes
    index: str = ""
    content_hash: str = ""


@dataclass(frozen=True, slots=True)
class WatchNews:
    """What a handler is told.

    Attributes:
        data: What is there now.
        index: That it was seen at, or the hash.
    """

    data: Any
    index: str

    def encode(self, *, indent: bool = False) -> bytes:
        """The data as JSON, with a line's end."""
        text = json.dumps(
            self.data,
            ensure_ascii=False,
            indent=4 if indent else None,
            separators=(",", ": ") if indent else (",", ":"),
        )
        return text.translate(_ESCAPES).encode("utf-8", "replace") + b"\n"


class WatchProgress:
    """What a watch has seen.

    Args:
        plan: What it asks.
    """

    def __init__(self, plan: WatchPlan) -> None:
        self.plan: Final = plan
        self._mark = ""  # Index or hash of the last answer; empty: ask without waiting.
        self._told: tuple[Any, str] | None = None  # What was news last, and its mark.
        self._failures = 0

    def target(self, *, wait: str = "") -> str:
        """Path and query of the next request.

        Args:
            wait: Longest wait as a duration; empty for the agent's default.
        """
        query = list(self.plan.query)
        if self._mark:
            query.append(("hash" if self.plan.by_hash else "index", self._mark))
            if wait:
                query.append(("wait", wait))
        return (
            f"{self.plan.path}?{urlencode(query, errors='surrogateescape')}"
            if query
            else self.plan.path
        )

    def receive_answer(self, answer: WatchAnswer) -> WatchNews | None:
        """Take an answer; what is new in it, or None.

        Raises:
            WatchFailed: It is an error, or cannot be understood. Call `fail`.
        """
        data = _data(self.plan, answer)
        mark = answer.content_hash if self.plan.by_hash else answer.index
        if not mark:
            raise WatchFailed(f"{self.plan.path} answered without saying at which index")
        self._failures = 0
        told, same = self._told, mark == self._mark
        self._mark = mark
        if self.plan.type == "event":
            return self._news_of_events(data, mark)
        if told is not None and (same or told[0] == data):
            return None
        self._told = (data, mark)
        return WatchNews(data, mark)

    def _news_of_events(self, events: Any, mark: str) -> WatchNews | None:
        """Events after the last one that was told."""
        if self._told is not None:
            if self._told[1] == mark:
                return None
            for number, event in enumerate(events):
                if _event_mark(event) == self._told[1]:
                    events = events[number + 1 :]
                    break
        self._told = (None, mark)
        return WatchNews(events, mark)

    def fail(self) -> float:
        """The request failed, or its answer did: seconds to wait before the next one."""
        self._mark = ""
        self._failures += 1
        return min(RETRY_MAX, RETRY_FIRST * self._failures**2)


def _event_mark(event: Any) -> str:
    try:
        return str(event_index(event["ID"]))
    except (TypeError, KeyError, ValueError):
        return ""


def _data(plan: WatchPlan, answer: WatchAnswer) -> Any:
    """What an answer shows.

    Raises:
        WatchFailed: It is an error, or no JSON.
    """
    if answer.status == 404 and plan.type in {"key", "keyprefix"}:
        return None
    if answer.status != 200:
        text = answer.body[:1024].decode(errors="replace").strip()
        raise WatchFailed(f"Unexpected response code: {answer.status} ({text})")
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise WatchFailed(f"{plan.path} did not answer with JSON: {error}") from None
    if plan.type in {"key", "keyprefix"}:
        if not isinstance(found, list) or not all(isinstance(pair, dict) for pair in found):
            raise WatchFailed(f"{plan.path} did not answer with keys")
        pairs = [{**_PAIR_DEFAULTS, **pair} for pair in found]
        return pairs if plan.type == "keyprefix" else next(iter(pairs), None)
    if plan.type == "event" and not isinstance(found, list):
        raise WatchFailed(f"{plan.path} did not answer with events")
    return found


# Setting up ---------------------------------------------------------------------------------------


class WatchParameters:
    """The parameters of a watch, each to be taken once.

    Args:
        values: By name, as written.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = dict(values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def take(self, name: str) -> object:
        """Any value; None for none."""
        return self._values.pop(name, None)

    def text(self, name: str) -> str:
        """A text; empty for none.

        Raises:
            InvalidWatch: It is something else.
        """
        value = self._values.pop(name, "")
        if not isinstance(value, str):
            raise InvalidWatch(f"Expecting {name} to be a string")
        return value

    def truth(self, name: str) -> bool:
        """A truth value; False for none.

        Raises:
            InvalidWatch: It is something else.
        """
        value = self._values.pop(name, False)
        if not isinstance(value, bool):
            raise InvalidWatch(f"Expecting {name} to be a boolean")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A text or a list of texts; empty for none.

        Raises:
            InvalidWatch: It is something else.
        """
        value = self._values.pop(name, ())
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list | tuple):
            raise InvalidWatch(f"Expecting {name} to be a string or []string")
        for number, item in enumerate(value):
            if not isinstance(item, str):
                raise InvalidWatch(f"Index {number} of {name} expected to be string")
        return tuple(value)

    def finish(self) -> None:
        """Refuse what nobody has taken.

        Raises:
            InvalidWatch: There is something.
        """
        if self._values:
            raise InvalidWatch(f"Invalid parameters: [{' '.join(sorted(self._values))}]")


def read_plan(parameters: WatchParameters) -> WatchPlan:
    """Read what is to be asked; other parameters are left.

    Raises:
        InvalidWatch: A parameter is missing or wrong.
    """
    dc, token, kind = (parameters.text(name) for name in ("datacenter", "token", "type"))
    if not kind:
        raise InvalidWatch("Watch type must be specified")
    make = _MAKERS.get(kind)
    if make is None:
        raise InvalidWatch(f"Unsupported watch type: {kind}")
    path, query = make(parameters)
    if dc:
        query = [*query, ("dc", dc)]
    return WatchPlan(kind, path, tuple(query), token)


_Made = tuple[str, list[tuple[str, str]]]


def _part(text: str, *, safe: str = "") -> str:
    """Part of a path; text that came as other bytes keeps them."""
    return quote(text, safe=safe, errors="surrogateescape")


def _stale(parameters: WatchParameters) -> list[tuple[str, str]]:
    return [("stale", "")] if parameters.truth("stale") else []


def _key(parameters: WatchParameters) -> _Made:
    query, key = _stale(parameters), parameters.text("key")
    if not key:
        raise InvalidWatch("Must specify a single key to watch")
    return f"/v1/kv/{_part(key.removeprefix('/'), safe='/')}", query


def _keyprefix(parameters: WatchParameters) -> _Made:
    query, prefix = _stale(parameters), parameters.text("prefix")
    if not prefix:
        raise InvalidWatch("Must specify a single prefix to watch")
    return f"/v1/kv/{_part(prefix.removeprefix('/'), safe='/')}", [("recurse", ""), *query]


def _services(parameters: WatchParameters) -> _Made:
    return "/v1/catalog/services", _stale(parameters)


def _nodes(parameters: WatchParameters) -> _Made:
    return "/v1/catalog/nodes", _stale(parameters)


def _service(parameters: WatchParameters) -> _Made:
    query, service = _stale(parameters), parameters.text("service")
    if not service:
        raise InvalidWatch("Must specify a single service to watch")
    query += [("tag", tag) for tag in parameters.texts("tag")]
    if parameters.truth("passingonly"):
        query.append(("passing", "1"))
    return f"/v1/health/service/{_part(service)}", query


def _checks(parameters: WatchParameters) -> _Made:
    query = _stale(parameters)
    service, state = parameters.text("service"), parameters.text("state")
    if service and state:
        raise InvalidWatch("Cannot specify service and state")
    if service:
        return f"/v1/health/checks/{_part(service)}", query
    return f"/v1/health/state/{_part(state or 'any')}", query


def _event(parameters: WatchParameters) -> _Made:
    name = parameters.text("name")
    return "/v1/event/list", [("name", name)] if name else []


def _connect_roots(parameters: WatchParameters) -> _Made:
    return "/v1/agent/connect/ca/roots", []


def _connect_leaf(parameters: WatchParameters) -> _Made:
    service = parameters.text("service")
    if not service:
        raise InvalidWatch("Must specify a single service to watch")
    return f"/v1/agent/connect/ca/leaf/{_part(service)}", []


def _agent_service(parameters: WatchParameters) -> _Made:
    service = parameters.text("service_id")
    if not service:
        raise InvalidWatch("Must specify a single service_id to watch")
    return f"/v1/agent/service/{_part(service)}", []


_MAKERS: Final[Mapping[str, Callable[[WatchParameters], _Made]]] = {
    "key": _key,
    "keyprefix": _keyprefix,
    "services": _services,
    "nodes": _nodes,
    "service": _service,
    "checks": _checks,
    "event": _event,
    "connect_roots": _connect_roots,
    "connect_leaf": _connect_leaf,
    "agent_service": _agent_service,
}
