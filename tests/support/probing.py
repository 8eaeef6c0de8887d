"""Watching a federation from outside while it is hurt: calls, and what members think of members."""

import threading
import time
from dataclasses import dataclass

from support.federation import Federation
from support.netns import Site

_CALL_INTERVAL = 0.1
_MEMBERS_INTERVAL = 0.25
_CALL_TIMEOUT = 30.0


@dataclass(frozen=True)
class Call:
    """One read across datacenters. Times in seconds on the monotonic clock."""

    started_at: float
    seconds: float
    error: str
    """Empty when it was answered with data."""


class Caller:
    """Reads one datacenter's nodes from another's server, over and over."""

    def __init__(self, site: Site, dc: str) -> None:
        self.name = f"{site.name} → {dc}"
        self.calls: list[Call] = []
        self._site, self._path = site, f"/v1/catalog/nodes?dc={dc}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_CALL_INTERVAL):
            started = time.monotonic()
            try:
                answer = self._site.request("GET", self._path, timeout=_CALL_TIMEOUT)
                error = "" if answer.status == 200 else answer.body.decode(errors="replace")
            except OSError as failure:
                error = f"HTTP: {failure!r}"
            self.calls.append(Call(started, time.monotonic() - started, error))

    def stop(self) -> None:
        """Stop calling."""
        self._stop.set()
        self._thread.join()

    def failed(self, *, after: float = 0.0, before: float = float("inf")) -> list[Call]:
        """Calls that ended in an error between two moments."""
        return [
            call
            for call in self.calls
            if call.error and after <= call.started_at + call.seconds < before
        ]

    def last_failure(self) -> float:
        """When the last failed call ended; 0 when none failed."""
        return max((call.started_at + call.seconds for call in self.failed()), default=0.0)

    def slowest(self) -> float:
        """Seconds of the slowest call."""
        return max((call.seconds for call in self.calls), default=0.0)


class MemberWatch:
    """Notes every change of what a site's server thinks of the WAN pool's members."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.changes: list[tuple[float, str, int]] = []
        """Moment, member, status (1 alive, 3 left, 4 failed)."""
        self._known: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_MEMBERS_INTERVAL):
            try:
                members = self.site.get("/v1/agent/members?wan=1")
            except (OSError, AssertionError):
                continue
            for member in members:
                name, status = member["Name"], member["Status"]
                if self._known.get(name) != status:
                    self._known[name] = status
                    self.changes.append((time.monotonic(), name, status))

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def failures_of(self, *names: str) -> list[tuple[float, str, int]]:
        """When members of these names were believed failed."""
        return [change for change in self.changes if change[1] in names and change[2] == 4]


class Watching:
    """Calls between all pairs of sites and watches all members. A context manager."""

    def __init__(self, federation: Federation) -> None:
        self._sites = federation.sites.sites

    def __enter__(self) -> "Watching":
        self.callers = {
            (here.name, there.name): Caller(here, there.name)
            for here in self._sites
            for there in self._sites
            if here is not there
        }
        self.members = {site.name: MemberWatch(site) for site in self._sites}
        self.started_at = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self.callers.values():
            caller.stop()
        for watch in self.members.values():
            watch.stop()

    def failed(self, *, after: float = 0.0) -> list[str]:
        """All failed calls after a moment, as text."""
        return [
            f"{caller.name} at {call.started_at - self.started_at:.1f} s: {call.error}"
            for caller in self.callers.values()
            for call in caller.failed(after=after)
        ]

    def last_failure(self) -> float:
        """When the last failed call of all ended."""
        return max(caller.last_failure() for caller in self.callers.values())

    def slowest(self) -> float:
        """Seconds of the slowest call of all."""
        return max(caller.slowest() for caller in self.callers.values())
