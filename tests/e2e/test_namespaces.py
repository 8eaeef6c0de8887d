"""Three networks that meet at their gateways only: the federation forms, works and follows.

Nothing but TCP to the gateways' WAN addresses passes between the namespaces; the counter of
packets from or to a server's address has to stay zero.
"""

import signal
import subprocess
import sys
import threading
import time

import pytest

from support.federation import Federation
from support.netns import Site
from support.processes import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.namespaces, pytest.mark.timeout(240)]

_REGISTER = """
import consul, sys
client = consul.Consul(host=sys.argv[1])
assert client.agent.service.register("web", service_id="web-1", address="10.3.0.77", port=8080)
"""


def test_three_networks_act_as_one(federation: Federation) -> None:
    sites = federation.sites
    dc1, dc2, dc3 = sites.sites

    subprocess.run(
        dc3.command(sys.executable, "-c", _REGISTER, dc3.server),
        check=True,
        timeout=30,
        capture_output=True,
    )
    for site in (dc1, dc2):
        eventually(
            lambda site=site: (
                [  # type: ignore[misc]
                    (entry["Service"]["Address"], entry["Service"]["Port"])
                    for entry in site.get("/v1/health/service/web?dc=dc3")
                ]
                == [("10.3.0.77", 8080)]
            ),
            timeout=10,
            what=f"{site.name} reads the service of dc3",
        )

    for writer, target in ((dc1, "dc2"), (dc2, "dc3"), (dc3, "dc1")):
        path = f"/v1/kv/from/{writer.name}?dc={target}"
        assert writer.request("PUT", path, writer.name.encode()).body.strip() == b"true"
        for reader in sites.sites:
            answer = reader.request("GET", f"/v1/kv/from/{writer.name}?dc={target}&raw")
            assert (answer.status, answer.body) == (200, writer.name.encode())

    def states(site: Site) -> list[tuple[str, object, object]]:
        return [
            (state["Datacenter"], state["PrimaryModifyIndex"], state["MeshGateways"])
            for state in site.get("/v1/internal/federation-states")
        ]

    eventually(
        lambda: states(dc1) == states(dc2) == states(dc3) and len(states(dc1)) == 3,
        timeout=10,
        what="equal federation states",
    )
    assert sites.dropped("servers") == 0
    assert sites.dropped("others") == 0


def test_gateway_that_moves_is_followed_without_a_failed_call(federation: Federation) -> None:
    sites = federation.sites
    dc1, dc2, dc3 = sites.sites
    failures: list[str] = []
    calls = [0]
    stop = threading.Event()

    def call(reader: Site, dc: str) -> None:
        while not stop.is_set():
            answer = reader.request("GET", f"/v1/catalog/nodes?dc={dc}")
            calls[0] += 1
            if answer.status != 200:
                failures.append(f"{reader.name} → {dc}: {answer.status} {answer.body!r}")
            stop.wait(0.02)

    ways = [(dc1, "dc2"), (dc3, "dc2"), (dc2, "dc1"), (dc2, "dc3")]
    threads = [threading.Thread(target=call, args=way) for way in ways]
    for thread in threads:
        thread.start()
    try:
        federation.start_gateway(dc2, 1)
        eventually(
            lambda: all(
                len(site.get("/v1/internal/federation-states/mesh-gateways")["dc2"]) == 2
                for site in sites.sites
            ),
            timeout=20,
            what="new gateway known everywhere",
        )
        federation.gateways["dc2-gateway-0"].stop(signal.SIGTERM)
        moved = [f"{dc2.gateway_wan(1)}"]
        eventually(
            lambda: all(
                [
                    entry["Service"]["TaggedAddresses"]["wan"]["Address"]
                    for entry in site.get("/v1/internal/federation-states/mesh-gateways")["dc2"]
                ]
                == moved
                for site in sites.sites
            ),
            timeout=20,
            what="old gateway forgotten everywhere",
        )
        before = calls[0]
        eventually(lambda: calls[0] > before + 200, timeout=30, what="calls after the move")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[:5]
    assert sites.dropped("servers") == 0


def test_restarted_server_is_federated_again(federation: Federation) -> None:
    dc1, dc2, _ = federation.sites.sites
    assert dc2.request("PUT", "/v1/kv/kept", b"value").status == 200
    federation.servers["dc2"].stop(signal.SIGKILL)
    started = time.monotonic()
    federation.start_server(dc2)
    eventually(
        lambda: dc1.request("GET", "/v1/kv/kept?dc=dc2&raw").body == b"value",
        timeout=30,
        what="calls to the restarted server",
    )
    eventually(federation.formed, timeout=60, what="federation formed again")
    print(f"federated again {time.monotonic() - started:.1f} s after the restart")
    assert federation.sites.dropped("servers") == 0
