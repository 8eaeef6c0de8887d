"""Writers that go on through faults, and what must be true of their writes afterwards."""

import base64
import hashlib
import itertools
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

from support.datacenter import Datacenter, ServerProcess
from support.processes import eventually

VALUE_SIZES = (16, 100, 1_000)
_ERROR_PAUSE = 0.02
_REQUEST_TIMEOUT = 15.0


def value_of(key: str) -> bytes:
    """The value that belongs to a key, so that a part or a mixture of values is seen."""
    digest = hashlib.sha256(key.encode()).digest()
    size = VALUE_SIZES[digest[0] % len(VALUE_SIZES)]
    return (digest * (size // len(digest) + 1))[:size]


@dataclass
class Journal:
    """What one writer asked for, in order.

    Attributes:
        name: Which writer.
        attempted: Keys whose write was sent.
        acknowledged: Of these: answered with success, and when on the monotonic clock.
        errors: What the others were answered, and when.
    """

    name: str
    attempted: list[str] = field(default_factory=list)
    acknowledged: dict[str, float] = field(default_factory=dict)
    errors: list[tuple[float, str]] = field(default_factory=list)

    def next_key(self) -> str:
        """A key that was never written."""
        key = f"{self.name}-{len(self.attempted):06}"
        self.attempted.append(key)
        return key


class Writers:
    """Threads that write keys of their own over and over. A context manager.

    Each begins with one server and goes to the next when it is told an error or hears nothing.

    Args:
        datacenter: Whom to write to.
        count: How many writers for each server.
        through: The servers; None: all.
        timeout: Seconds that a writer waits for an answer.
        name: Tells their keys from those of other writers.
        pause: Seconds that each waits after an acknowledged write.
    """

    def __init__(
        self,
        datacenter: Datacenter,
        *,
        count: int = 1,
        through: Sequence[ServerProcess] | None = None,
        timeout: float = _REQUEST_TIMEOUT,
        name: str = "w",
        pause: float = 0.0,
    ) -> None:
        self._servers = list(through or datacenter.servers)
        self._timeout, self._pause = timeout, pause
        self._stop = threading.Event()
        self.journals = [Journal(f"{name}{i}") for i in range(count * len(self._servers))]
        self._threads = [
            threading.Thread(target=self._run, args=(journal, number))
            for number, journal in enumerate(self.journals)
        ]

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Finish the writes in flight. Idempotent."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, journal: Journal, turn: int) -> None:
        connection: HTTPConnection | None = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = self._servers[turn % len(self._servers)].connect(1.0)
                    assert connection.sock is not None
                    connection.sock.settimeout(self._timeout)
                key = journal.next_key()
                connection.request("PUT", f"/v1/kv/{key}", value_of(key))
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200 and body.strip() == b"true":
                    journal.acknowledged[key] = time.monotonic()
                    if self._pause:
                        self._stop.wait(self._pause)
                    continue
                error = f"{answer.status} {body[:200]!r}"
            except (OSError, HTTPException) as failure:
                error = repr(failure)
            journal.errors.append((time.monotonic(), error))
            if connection is not None:
                connection.close()
                connection = None
            turn += 1
            self._stop.wait(_ERROR_PAUSE)
        if connection is not None:
            connection.close()

    # What came of it --------------------------------------------------------------------------

    @property
    def acknowledged_count(self) -> int:
        """Writes that were answered with success."""
        return sum(len(journal.acknowledged) for journal in self.journals)

    def gap(self, *, after: float = 0.0, before: float = float("inf")) -> float:
        """Longest time without an acknowledged write of anyone, between two moments."""
        moments = sorted(
            moment
            for journal in self.journals
            for moment in list(journal.acknowledged.values())
            if after <= moment <= before
        )
        edges = [*([after] if after else []), *moments]
        if before < float("inf"):
            edges.append(before)
        pairs = itertools.pairwise(edges)
        return max((later - earlier for earlier, later in pairs), default=0.0)

    def next_acknowledged(self, after: float) -> float:
        """When the first write was acknowledged after a moment."""
        return min(
            moment
            for journal in self.journals
            for moment in list(journal.acknowledged.values())
            if moment > after
        )

    def errors(self) -> list[str]:
        """All that writers were told but success."""
        return [error for journal in self.journals for _, error in journal.errors]


def check_writes(journals: Iterable[Journal], tables: dict[str, Any]) -> None:
    """Assert that the tables hold what journals allow, whole, each at an index of its own."""
    modify: dict[str, int] = {}
    for entry in tables["kv/?recurse"] or ():
        key = entry["Key"]
        if not key.startswith("formed/"):
            assert base64.b64decode(entry["Value"]) == value_of(key), f"{key} is not whole"
        assert entry["CreateIndex"] == entry["ModifyIndex"], key
        modify[key] = entry["ModifyIndex"]
    assert len(set(modify.values())) == len(modify), "two writes have one index"
    allowed = {key for journal in journals for key in journal.attempted}
    assert {key for key in modify if not key.startswith("formed/")} <= allowed
    for journal in journals:
        lost = [key for key in journal.acknowledged if key not in modify]
        assert not lost, f"acknowledged and lost: {lost[:5]} ({len(lost)} in all)"
        order = [modify[key] for key in journal.acknowledged]
        assert order == sorted(order), f"indexes of writer {journal.name} are out of order"
    check_indexes(tables)


def check_indexes(tables: dict[str, Any]) -> None:
    """Assert that no index is of two commands: keys and other rows never share one."""
    keys = {entry["ModifyIndex"] for entry in tables["kv/?recurse"] or ()}
    others = {
        row[name]
        for path in ("catalog/nodes", "health/state/any")
        for row in tables[path] or ()
        for name in ("CreateIndex", "ModifyIndex")
    }
    assert not keys & others, f"indexes used twice: {sorted(keys & others)[:5]}"


def check_datacenter(datacenter: Datacenter, *writers: Writers) -> None:
    """Assert that nothing is lost and that all servers are equal; every server takes writes."""
    for each in writers:
        each.stop()
    for server in datacenter.running:
        eventually(
            lambda server=server: server.put(f"formed/again-{server.name}"),  # type: ignore[misc]
            timeout=60,
            what=f"{server.name} takes writes",
        )
    tables = datacenter.wait_until_equal()
    check_writes([journal for each in writers for journal in each.journals], tables)
    for server in datacenter.servers:
        before, found, after = server.process.output().partition("Traceback")
        assert not found, f"{server.name}: {before[-300:]}{found}{after[:6000]}"
    print(
        f"{sum(each.acknowledged_count for each in writers)} acknowledged writes, errors:",
        sorted({error for each in writers for error in each.errors()})[:6],
    )
