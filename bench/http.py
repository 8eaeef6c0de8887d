"""Requests per second of the HTTP door, with answers that are ready: the door's own cost.

wrk and the door share one processor core, as on a small machine.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import wrk
from bench.figures import resident, show

ROUNDS = 3
POLLS = 2000
CASES = (
    ("kv get", "/v1/kv/config/web/limit", 12_000),
    ("kv get, stale", "/v1/kv/config/web/limit?stale", 12_000),
    ("health/service, 10 instances", "/v1/health/service/web", 8_000),
    ("health/service, 10 instances, passing", "/v1/health/service/web?passing", 8_000),
    ("catalog/services", "/v1/catalog/services", 8_000),
)


def main() -> None:
    """Start a door in a process of its own and ask it."""
    core = str(min(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "bench.http", "serve"]
    door = subprocess.Popen(["taskset", "-c", core, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert door.stdout is not None
        address = door.stdout.readline().strip()
        show("resident memory of the door's process", [resident(door.pid)], "MiB")
        for name, path, target in CASES:
            rates = [_rate(core, f"http://{address}{path}") for _ in range(ROUNDS)]
            show(name, rates, "/s", f">= {target}")
        before = resident(door.pid)
        asyncio.run(_polls(address, door.pid, before))
    finally:
        door.terminate()
        door.wait()


def _rate(core: str, url: str) -> float:
    return wrk.run(url, threads=2, before=("taskset", "-c", core)).rate


async def _polls(address: str, pid: int, before: float) -> None:
    host, _, port = address.rpartition(":")
    request = b"GET /v1/kv/waits?index=9 HTTP/1.1\r\nHost: bench\r\n\r\n"
    writers = []
    for _ in range(POLLS):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        writers.append(writer)
    await asyncio.sleep(1)
    show("memory of a blocked query", [(resident(pid) - before) * 1024 / POLLS], "KiB")
    for writer in writers:
        writer.close()


async def _serve() -> None:
    from isthmus.http.server import HttpConfig, HttpServer
    from isthmus.net.sockets import SocketNetwork

    config = HttpConfig(port=0, max_conns_per_client=POLLS + wrk.CONNECTIONS)
    server = HttpServer(config, _Data(), _Local(), network=SocketNetwork())  # type: ignore[arg-type]
    (address,) = await server.start()
    print(address, flush=True)
    await asyncio.Event().wait()


class _Local:
    """As much of the local agent as is asked for."""

    datacenter, node_name = "dc1", "alpha"


class _Data:
    """Ready answers in the records of the store."""

    def __init__(self) -> None:
        from isthmus.model import catalog, kv
        from isthmus.model.record import Record

        node = catalog.Node(
            id="01e0c200-e38a-88ef-3610-1d2ec91d0dab",
            node="alpha",
            address="10.0.0.1",
            datacenter="dc1",
            tagged_addresses={"lan": "10.0.0.1", "wan": "10.0.0.1"},
            meta={"consul-network-segment": ""},
        )
        checks = (
            catalog.HealthCheck(node="alpha", check_id="serfHealth", status="passing"),
            catalog.HealthCheck(node="alpha", check_id="service:web", status="passing"),
        )
        instances = tuple(
            catalog.CheckServiceNode(
                node=node,
                service=catalog.NodeService(
                    id=f"web-{number}",
                    service="web",
                    port=8000 + number,
                    weights=catalog.Weights(passing=1, warning=1),
                ),
                checks=checks,
            )
            for number in range(10)
        )
        entry = kv.DirEntry(key="config/web/limit", value=b"a value", modify_index=9)
        tags: dict[str, tuple[str, ...]] = {f"service-{number}": ("v1",) for number in range(20)}
        self._answers: Mapping[str, Record] = {
            "KVS.Get": kv.IndexedDirEntries(index=9, known_leader=True, entries=(entry,)),
            "Health.ServiceNodes": catalog.IndexedCheckServiceNodes(
                index=9, known_leader=True, nodes=instances
            ),
            "Catalog.ListServices": catalog.IndexedServices(
                index=9, known_leader=True, services=tags
            ),
        }

    async def __call__(self, method: str, request: object) -> object:
        if getattr(request, "min_query_index", 0):
            await asyncio.get_running_loop().create_future()
        return self._answers[method]


def _is_server(arguments: Sequence[str]) -> bool:
    return list(arguments) == ["serve"]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    if _is_server(sys.argv[1:]):
        asyncio.run(_serve())
    else:
        main()
