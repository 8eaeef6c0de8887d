"""How fast a federation forms and follows, with default intervals, on loopback.

A fresh secondary joins a running primary; then a gateway's address changes, and the other
datacenters' stores are watched with blocking queries.
"""

import json
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path

from bench.figures import show
from isthmus.cli.certificates import ca_paths, create_ca, create_certificate
from isthmus.cli.demo import Datacenter

ROUNDS = 5
CHANGES = 15
_DEADLINE = 60.0


def _until(condition: Callable[[], bool], since: float) -> float:
    """Seconds since `since` when the condition first holds."""
    while True:
        try:
            if condition():
                return time.perf_counter() - since
        except OSError:
            pass
        if time.perf_counter() - since > _DEADLINE:
            raise RuntimeError("did not form in time")
        time.sleep(0.01)


def _alive(dc: Datacenter, names: set[str]) -> bool:
    members = dc.request("GET", "/v1/agent/members?wan=1")
    return {m["Tags"]["dc"] for m in members if m["Status"] == 1} == names


def _states(dc: Datacenter, names: set[str]) -> bool:
    return {s["Datacenter"] for s in dc.request("GET", "/v1/internal/federation-states")} == names


def _start(dc: Datacenter, primary: Datacenter, folder: Path) -> None:
    certificate, key = ca_paths(folder)
    create_certificate(folder, dc=dc.name, node=dc.node, ca=certificate, ca_key=key)
    dc.start(primary, also_default=False)


def _join(folder: Path, primary: Datacenter) -> tuple[float, float, float]:
    """Seconds until members, states and calls of a fresh secondary are there on both sides."""
    names = {"dc1", "dc2"}
    secondary = Datacenter(2, folder)
    certificate, key = ca_paths(folder)
    create_certificate(folder, dc=secondary.name, node=secondary.node, ca=certificate, ca_key=key)
    started = time.perf_counter()
    secondary.start(primary, also_default=False)
    try:
        sides = (primary, secondary)
        members = _until(lambda: all(_alive(side, names) for side in sides), started)
        states = _until(lambda: all(_states(side, names) for side in sides), started)
        calls = _until(
            lambda: (
                bool(primary.request("GET", "/v1/catalog/nodes?dc=dc2"))
                and bool(secondary.request("GET", "/v1/catalog/nodes?dc=dc1"))
                and len(primary.request("GET", "/v1/internal/federation-states/mesh-gateways")) == 2
            ),
            started,
        )
        secondary.request("PUT", "/v1/agent/leave")
        _until(lambda: _states(primary, {"dc1"}), time.perf_counter())
    finally:
        secondary.stop()
        for process in secondary.processes:
            process.wait(20)
    return members, states, calls


class _Watcher(threading.Thread):
    """Follows a datacenter's copy of all gateways with blocking queries."""

    def __init__(self, dc: Datacenter) -> None:
        super().__init__(daemon=True)
        self._connection = HTTPConnection(dc.host, 8500, timeout=60)
        self.seen: dict[str, float] = {}

    def has_seen(self, address: str) -> bool:
        """Whether an address has been seen."""
        return address in self.seen

    def run(self) -> None:
        """Note when each WAN address of dc2's gateway is first seen."""
        index = "0"
        while True:
            path = f"/v1/internal/federation-states/mesh-gateways?index={index}&wait=50s"
            self._connection.request("GET", path)
            try:
                answer = self._connection.getresponse()
            except RemoteDisconnected:
                return  # The datacenter was stopped: we are done.
            gateways = json.loads(answer.read())
            now = time.perf_counter()
            index = answer.headers["X-Consul-Index"]
            for gateway in gateways.get("dc2", ()):
                address = gateway["Service"]["TaggedAddresses"]["wan"]["Address"]
                self.seen.setdefault(address, now)


def _follow(datacenters: list[Datacenter]) -> dict[str, list[float]]:
    """Milliseconds from registering a new address in dc2 to seeing it in the others' stores."""
    first, second, third = datacenters
    watchers = {dc.name: _Watcher(dc) for dc in (first, third)}
    for watcher in watchers.values():
        watcher.start()
    samples: dict[str, list[float]] = {name: [] for name in watchers}
    for number in range(CHANGES):
        address = f"192.0.2.{number + 1}"
        definition = {
            "Kind": "mesh-gateway",
            "ID": "moving",
            "Name": "moving",
            "Address": second.gateway,
            "Port": 8443,
            "TaggedAddresses": {"wan": {"Address": address, "Port": 8443}},
        }
        started = time.perf_counter()
        second.request("PUT", "/v1/agent/service/register", definition)
        for name, watcher in watchers.items():
            _until(partial(watcher.has_seen, address), started)
            samples[name].append((watcher.seen[address] - started) * 1000)
        time.sleep(1.2)  # Beyond the pacing of announcements.
    return samples


def main() -> None:
    """Print the medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create_ca(folder)
        primary = Datacenter(1, folder)
        others = [Datacenter(number, folder) for number in (2, 3)]
        try:
            _start(primary, primary, folder)
            _until(
                lambda: (
                    "dc1" in primary.request("GET", "/v1/internal/federation-states/mesh-gateways")
                ),
                time.perf_counter(),
            )
            rounds = [_join(folder, primary) for _ in range(ROUNDS)]
            show(
                "fresh secondary: WAN members alive on both sides", [r[0] for r in rounds], "s", "2"
            )
            show("   both states in both stores", [r[1] for r in rounds], "s", "3")
            show("   own gateway up, calls both ways", [r[2] for r in rounds], "s", "4")
            for dc in others:
                dc.processes.clear()
                _start(dc, primary, folder)
            names = {"dc1", "dc2", "dc3"}
            everybody = [primary, *others]
            started = time.perf_counter()
            _until(lambda: all(_states(dc, names) for dc in everybody), started)
            time.sleep(3)
            for name, samples in _follow(everybody).items():
                show(f"address changed in dc2: known in {name}", samples, "ms", "30")
        finally:
            for dc in (primary, *others):
                dc.stop()
            for dc in (primary, *others):
                for process in dc.processes:
                    process.wait(20)


if __name__ == "__main__":
    main()
