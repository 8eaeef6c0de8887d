"""Encode and decode a list of 48 service instances, as health queries answer it (63 kB)."""

import time
from collections.abc import Callable

from bench.figures import repeat, show
from isthmus.model.catalog import (
    CheckServiceNode,
    HealthCheck,
    IndexedCheckServiceNodes,
    Node,
    NodeService,
    Weights,
)
from isthmus.wire import gojson, msgpack

_INSTANCE_COUNT = 48
_ADDRESSES = {"lan": "10.9.0.1", "lan_ipv4": "10.9.0.1", "wan": "198.18.0.1"}


def main() -> None:
    """Print one line per direction and format."""
    reply = IndexedCheckServiceNodes(
        nodes=tuple(_instance(number) for number in range(_INSTANCE_COUNT)), index=15
    )
    packed, text = msgpack.encode(reply), gojson.encode(reply)
    plain = msgpack.to_plain(reply)
    kind = IndexedCheckServiceNodes
    _measure(f"MessagePack, encode {len(packed)} bytes", lambda: msgpack.encode(reply))
    _measure("  of which the library", lambda: msgpack.pack(plain))
    _measure("MessagePack, decode", lambda: msgpack.decode(kind, packed))
    _measure("  of which records", lambda: msgpack.from_plain(kind, plain))
    _measure(f"JSON, encode {len(text)} bytes", lambda: gojson.encode(reply))
    _measure("JSON, decode", lambda: gojson.decode(kind, text))


def _measure(what: str, run: Callable[[], object]) -> None:
    def once() -> float:
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) * 1e3

    show(what, repeat(51, once), "ms")


def _instance(number: int) -> CheckServiceNode:
    name = f"node-{number}"
    serf = HealthCheck(node=name, check_id="serfHealth", name="Serf Health Status")
    return CheckServiceNode(
        node=Node(
            id="c3d54c8f-c392-f082-4672-f81d74c72579",
            node=name,
            address="10.9.0.1",
            datacenter="dc1",
            tagged_addresses=_ADDRESSES,
            meta={"consul-network-segment": ""},
        ),
        service=NodeService(
            id=f"web-{number}",
            service="web",
            tags=("v1", "primary"),
            port=8080,
            meta={"version": "1.10.11"},
            weights=Weights(passing=1, warning=1),
        ),
        checks=(serf,),
    )


if __name__ == "__main__":
    main()
