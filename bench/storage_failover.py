"""How long a datacenter of three servers takes no writes: its leader is killed, or leaves.

Default timing. ``--against=PATH`` measures another Consul-compatible executable too.
"""

import bisect
import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException

from bench.figures import show
from bench.storage_datacenter import HTTP_PORT, Datacenter, Server, programs, running, show_ratio
from bench.storage_writes import option

_SETTLE = 4.0
"""Seconds of quiet before each trial, so that no election is still on its way."""
_WATCHED = 4.0
"""Seconds after a hand-over in which gaps are looked for."""
_DEADLINE = 40.0
_WRITERS = 2  # To each server that stays.


def main() -> None:
    """Measure and print."""
    rounds = option("--rounds", 10)
    killed, handed, left = [], [], []
    for program in programs():
        with running(program, 3) as datacenter:
            print(f"-- {program.name}", flush=True)
            samples = [_killed(datacenter) for _ in range(rounds)]
            show("leader killed to next acknowledged write", samples, "s", "<= 1.5")
            killed.append(statistics.median(samples))
            samples = _transferred(datacenter, rounds)
            if samples:
                show("leadership transferred: longest gap", samples, "s", "<= 0.2")
                handed.append(statistics.median(samples))
            samples = [_left(datacenter) for _ in range(rounds)]
            show("leader leaves: longest gap", samples, "s", "<= 0.2")
            left.append(statistics.median(samples))
    show_ratio("leader killed to next acknowledged write", killed)
    show_ratio("leadership transferred: longest gap", handed)
    show_ratio("leader leaves: longest gap", left)


class _Writers:
    """Writers to some servers, who note when their writes began and were acknowledged."""

    def __init__(self, servers: list[Server]) -> None:
        self.acknowledged: list[tuple[float, float]] = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(server, f"{server.host}-{number}"))
            for server in servers
            for number in range(_WRITERS)
        ]

    def __enter__(self) -> "_Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _write(self, server: Server, name: str) -> None:
        connection = HTTPConnection(server.host, HTTP_PORT, timeout=_DEADLINE)
        number = 0
        while not self._stopped.is_set():
            number += 1
            began = time.perf_counter()
            try:
                connection.request("PUT", f"/v1/kv/bench/{name}", str(time.monotonic_ns()))
                if connection.getresponse().read().strip() == b"true":
                    self.acknowledged.append((began, time.perf_counter()))
                    continue
            except (OSError, HTTPException):
                connection.close()
            time.sleep(0.005)
        connection.close()

    def next_after(self, moment: float) -> float:
        """When the first write that began after a moment was acknowledged.

        Raises:
            RuntimeError: None was in time.
        """
        while time.perf_counter() < moment + _DEADLINE:
            found = [done for began, done in list(self.acknowledged) if began > moment]
            if found:
                return min(found)
            time.sleep(0.01)
        raise RuntimeError(f"no write was acknowledged within {_DEADLINE:g} s")

    def longest_gap(self, since: float) -> float:
        """Longest time without an acknowledged write, from a moment on."""
        moments = sorted(done for _, done in self.acknowledged)
        moments = moments[max(0, bisect.bisect_left(moments, since) - 1) :]
        return max(after - before for before, after in itertools.pairwise(moments))


def _trial(datacenter: Datacenter, act: Callable[[Server, _Writers], float]) -> float:
    """Have something happen to the leader while others are written to; then bring it back."""
    datacenter.start()
    time.sleep(_SETTLE)
    leader = datacenter.leader()
    others = [server for server in datacenter.servers if server is not leader]
    with _Writers(others) as writers:
        time.sleep(0.5)
        figure = act(leader, writers)
    datacenter.start()
    return figure


def _killed(datacenter: Datacenter) -> float:
    def kill(leader: Server, writers: _Writers) -> float:
        moment = time.perf_counter()
        leader.kill()
        return writers.next_after(moment) - moment

    return _trial(datacenter, kill)


def _left(datacenter: Datacenter) -> float:
    def leave(leader: Server, writers: _Writers) -> float:
        moment = time.perf_counter()
        with contextlib.suppress(OSError, HTTPException):
            leader.request("PUT", "/v1/agent/leave", timeout=30)
        time.sleep(_WATCHED)
        writers.next_after(time.perf_counter())
        assert leader.process is not None
        leader.process.wait(30)
        return writers.longest_gap(moment)

    return _trial(datacenter, leave)


def _transferred(datacenter: Datacenter, rounds: int) -> list[float]:
    """Gaps; empty when the program knows no such request."""
    path = "/v1/operator/raft/transfer-leader"
    samples = []
    for _ in range(rounds):
        statuses: list[int] = []

        def transfer(leader: Server, writers: _Writers, statuses: list[int] = statuses) -> float:
            moment = time.perf_counter()
            status, _ = leader.request("PUT", path)
            if status == 405:
                status, _ = leader.request("POST", path)
            statuses.append(status)
            time.sleep(_WATCHED if status == 200 else 0)
            writers.next_after(time.perf_counter())
            return writers.longest_gap(moment)

        figure = _trial(datacenter, transfer)
        if statuses != [200]:
            return []
        samples.append(figure)
    return samples


if __name__ == "__main__":
    main()
