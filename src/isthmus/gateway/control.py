"""What the gateway learns from its agent: one thread, beside the one that carries traffic.

It registers the gateway (when it shall), then asks for the route table again and again; each
request hangs at the agent until the table differs. While the agent is away the gateway goes on
with the last table, and a copy in a file lets it even start without the agent.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Final
from urllib.parse import quote

from isthmus.errors import IsthmusError, RequestError, Unavailable
from isthmus.gateway.agent import Agent, Reply
from isthmus.gateway.registration import Registrar
from isthmus.mesh.routes import RouteTable

_log = logging.getLogger(__name__)

WAIT: Final = 60
"""Seconds that the agent is asked to hold a request while nothing changes."""
WAIT_GRACE: Final = 15.0
"""Seconds beyond `WAIT` after which a silent agent counts as gone."""
RETRY_MIN: Final = 0.2
RETRY_MAX: Final = 5.0
_UNCHANGED_PAUSE: Final = 1.0
"""An agent that answers at once with the table we have is asked again no sooner."""


class Backoff:
    """Growing pauses between attempts, with jitter so that many gateways spread out."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._next = RETRY_MIN

    def reset(self) -> None:
        """Begin again with the shortest pause: something worked."""
        self._next = RETRY_MIN

    def take(self) -> float:
        """Seconds to wait before the next attempt: the pause, less up to half of it."""
        pause, self._next = self._next, min(self._next * 2, RETRY_MAX)
        return pause * self._rng.uniform(0.5, 1.0)


class RoutesFile:
    """The last table on disk.

    Args:
        path: Where; empty: nowhere.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self) -> RouteTable | None:
        """The table of an earlier run; None when there is none that can be used."""
        if not self._path or not os.path.exists(self._path):
            return None
        try:
            with open(self._path, "rb") as file:
                return RouteTable.from_json(file.read())
        except (OSError, IsthmusError) as error:
            _log.warning("routes file is not usable: %s", error)
            return None

    def save(self, table: RouteTable) -> None:
        """Replace the file in one step; a failure is logged and otherwise ignored."""
        if not self._path:
            return
        fresh = f"{self._path}.new"
        try:
            with open(fresh, "wb") as file:
                file.write(table.to_json())
            os.replace(fresh, self._path)
        except OSError as error:
            _log.warning("routes file is not written: %s", error)
            with contextlib.suppress(OSError):
                os.unlink(fresh)


class Control:
    """Keeps the gateway registered and its routes up to date, in a thread of its own.

    Args:
        agent: The local agent.
        service_id: Of the gateway; selects its route table.
        apply: Called with each new table, in the control thread.
        registrar: None when somebody else registers the gateway.
        file: Where the last table is kept.
        rng: Source of the jitter.
    """

    def __init__(
        self,
        agent: Agent,
        service_id: str,
        apply: Callable[[RouteTable], None],
        *,
        registrar: Registrar | None,
        file: RoutesFile,
        rng: Random,
    ) -> None:
        self._agent, self._apply, self._registrar, self._file = agent, apply, registrar, file
        self._path = f"/v1/isthmus/gateway/{quote(service_id, safe='')}/routes"
        self._backoff = Backoff(rng)
        self._stopped = threading.Event()
        self._registered = False
        self._trouble = ""  # What was logged last, so that a lasting fault is logged once.
        self._hash = ""
        self._lock = threading.Lock()  # Held while registering or deregistering.

    def start(self) -> None:
        """Apply the table of the file, if there is one, and start the thread."""
        table = self._file.load()
        if table is not None:
            self._hash = table.hash
            self._apply(table)
            _log.info("routes of the last run", extra={"routes": len(table.routes)})
        threading.Thread(target=self.run, name="control", daemon=True).start()

    def stop(self, *, timeout: float) -> None:
        """Learn nothing more, and deregister the gateway if it was registered here.

        Args:
            timeout: Seconds that the agent may take to answer.
        """
        self._stopped.set()
        with self._lock:
            if self._registrar is None or not self._registered:
                return
            self._registered = False
            try:
                self._registrar.deregister(timeout=timeout)
            except IsthmusError as error:
                _log.warning("cannot deregister: %s", error)

    def run(self) -> None:
        """Register and follow the routes until stopped."""
        while not self._stopped.is_set():
            try:
                pause = self._step()
            except IsthmusError as error:
                pause = self._backoff.take()
                self._report(str(error))
            if pause:
                self._stopped.wait(pause)

    def _step(self) -> float:
        """One registration or one request for routes.

        Returns:
            Seconds to wait before the next step.

        Raises:
            IsthmusError: It failed and shall be tried again.
        """
        if self._registrar is not None and not self._registered:
            self._register(self._registrar)
        began = time.monotonic()
        reply = self._agent.request(
            "GET",
            self._path,
            query={"hash": self._hash, "wait": f"{WAIT}s"},
            timeout=WAIT + WAIT_GRACE,
        )
        changed = self._take(reply)
        self._backoff.reset()
        self._report("")
        quick = time.monotonic() - began < _UNCHANGED_PAUSE
        return _UNCHANGED_PAUSE if quick and not changed else 0.0

    def _register(self, registrar: Registrar) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            registrar.register()
            self._registered = True
        _log.info("registered with the agent", extra={"agent": str(self._agent.address)})

    def _take(self, reply: Reply) -> bool:
        """Apply an answer; True when the table is a new one.

        Raises:
            Unavailable: The agent does not know the gateway (any more), or cannot say now.
            RequestError: It refuses to tell us.
        """
        if reply.status == 404:
            self._registered = False
            raise Unavailable(f"the agent does not know this gateway: {reply.text}")
        if reply.status != 200:
            raise RequestError(f"routes: {reply.status} {reply.text}", status=reply.status)
        table = RouteTable.from_json(reply.body)
        if table.hash == self._hash:
            return False
        self._hash = table.hash
        self._apply(table)
        self._file.save(table)
        _log.info("routes changed", extra={"routes": len(table.routes), "hash": table.hash})
        return True

    def _report(self, trouble: str) -> None:
        """Log a fault when it begins or changes, and its end."""
        if trouble == self._trouble or self._stopped.is_set():
            return
        if trouble:
            _log.warning("no news from the agent, going on with the known routes: %s", trouble)
        else:
            _log.info("the agent answers again")
        self._trouble = trouble
