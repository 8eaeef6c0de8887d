"""Clients of keys that are read consistently, written, and compared and set; what they saw."""

import base64
import json
import threading
import time
from collections import defaultdict
from http.client import HTTPConnection, HTTPException
from random import Random

from support.datacenter import Datacenter
from support.linearizability import FOREVER, Operation

_TIMEOUT = 12.0
_ERROR_PAUSE = 0.1


class RegisterClients:
    """Threads that use a few keys, and note what they were told. A context manager.

    Args:
        datacenter: Whose keys.
        count: How many clients; each uses one server until that fails it.
        keys: How many keys.
        seed: Of what they do.
        pause: Seconds that a client waits between two calls.
    """

    def __init__(
        self, datacenter: Datacenter, *, count: int, keys: int, seed: int, pause: float = 0.02
    ) -> None:
        self._servers, self._keys, self._pause = datacenter.servers, keys, pause
        self._stop = threading.Event()
        self.histories: dict[str, list[Operation]] = defaultdict(list)
        self.unknown_count = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number, Random(seed * 1000 + number)))
            for number in range(count)
        ]

    def __enter__(self) -> "RegisterClients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, rng: Random) -> None:
        client = _Client(number, rng, self.histories, self._keys)
        turn = number
        while not self._stop.wait(self._pause):
            server = self._servers[turn % len(self._servers)]
            if client.connection is None:
                try:
                    client.connection = server.connect(1.0)
                except OSError:
                    turn += 1
                    continue
                assert client.connection.sock is not None
                client.connection.sock.settimeout(_TIMEOUT)
            if not client.act():
                self.unknown_count += 1
                client.close()
                turn += 1
                self._stop.wait(_ERROR_PAUSE)
        client.close()


class _Client:
    """One that does one thing after the other."""

    def __init__(
        self, number: int, rng: Random, histories: dict[str, list[Operation]], keys: int
    ) -> None:
        self._number, self._rng, self._histories, self._keys = number, rng, histories, keys
        self._seen: dict[str, tuple[int, str | None]] = {}
        self._count = 0
        self.connection: HTTPConnection | None = None

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def act(self) -> bool:
        """One operation; whether its outcome is known."""
        key = f"register/{self._rng.randrange(self._keys)}"
        kind = self._rng.choice(("read", "read", "write", "cas", "cas"))
        if kind == "read" or (kind == "cas" and key not in self._seen):
            return self._read(key)
        self._count += 1
        value, path = f"{self._number}-{self._count}", f"/v1/kv/{key}"
        expected: str | None = None
        if kind == "cas":
            index, expected = self._seen.pop(key)
            path += f"?cas={index}"
        started = time.monotonic()
        answer = self._ask("PUT", path, value)
        known = answer is not None and answer[0] == 200
        done: bool | None = None
        if answer is not None and known:
            done = answer[1].strip() == b"true"
            assert done or kind == "cas", answer
        ended = time.monotonic() if known else FOREVER
        self._histories[key].append(Operation(started, ended, kind, value, expected, done))
        return known

    def _read(self, key: str) -> bool:
        started = time.monotonic()
        answer = self._ask("GET", f"/v1/kv/{key}?consistent")
        if answer is None or answer[0] not in {200, 404}:
            return False  # It changed nothing and was told nothing.
        index, value = 0, None
        if answer[0] == 200:
            (row,) = json.loads(answer[1])
            index, value = row["ModifyIndex"], base64.b64decode(row["Value"]).decode()
        self._seen[key] = (index, value)
        self._histories[key].append(Operation(started, time.monotonic(), "read", value))
        return True

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes] | None:
        assert self.connection is not None
        try:
            self.connection.request(method, path, body)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, HTTPException):
            return None
