"""Three networks that meet at their gateways only: the federation forms, works and follows.

Nothing but TCP to the gateways' WAN addresses passes between the namespaces; the counter of
packets from or to a server's address has to stay zero.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.netns import GATEWAY_PORT, Site, Sites
from support.processes import (
    ISTHMUS,
    Process,
    eventually,
    make_certificates,
    server_config,
    shown_on_failure,
)

pytestmark = [pytest.mark.e2e, pytest.mark.namespaces, pytest.mark.timeout(240)]

FORM_TIMEOUT = 60.0
_REGISTER = """
import consul, sys
client = consul.Consul(host=sys.argv[1])
assert client.agent.service.register("web", service_id="web-1", address="10.3.0.77", port=8080)
"""


class Federation:
    """One server and one gateway in every site."""

    def __init__(self, sites: Sites, folder: Path) -> None:
        self.sites, self.folder = sites, folder
        self.servers: dict[str, Process] = {}
        self.gateways: dict[str, Process] = {}
        make_certificates(folder, {site.name: f"{site.name}s0" for site in sites.sites})

    def start_server(self, site: Site) -> Process:
        """Start a site's server."""
        primary = self.sites.sites[0]
        more: dict[str, Any] = {}
        if site is not primary:
            more["primary_gateways"] = [f"{primary.gateway_wan()}:{GATEWAY_PORT}"]
        config = server_config(
            self.folder, dc=site.name, node=f"{site.name}s0", address=site.server, **more
        )
        command = site.command(*ISTHMUS, "agent", "-config-file", str(config))
        self.servers[site.name] = Process(command, self.folder / f"{site.name}-server.log")
        return self.servers[site.name]

    def start_gateway(self, site: Site, index: int = 0) -> Process:
        """Start a gateway of a site on its `index`-th addresses."""
        command = site.command(
            *ISTHMUS,
            *("connect", "gateway", "-mesh-gateway", "-register", "-expose-servers"),
            *("-service", f"gateway-{index}", "-http-addr", f"{site.server}:8500"),
            *("-address", f"{site.gateway(index)}:{GATEWAY_PORT}"),
            *("-wan-address", f"{site.gateway_wan(index)}:{GATEWAY_PORT}"),
        )
        name = f"{site.name}-gateway-{index}"
        self.gateways[name] = Process(command, self.folder / f"{name}.log")
        return self.gateways[name]

    def processes(self) -> list[Process]:
        """All that were started."""
        return [*self.servers.values(), *self.gateways.values()]

    def formed(self) -> bool:
        """Everybody sees everybody, and all know the gateways of all."""
        names = {site.name for site in self.sites.sites}
        for site in self.sites.sites:
            members = site.get("/v1/agent/members?wan=1")
            assert {member["Tags"]["dc"] for member in members if member["Status"] == 1} == names
            gateways = site.get("/v1/internal/federation-states/mesh-gateways")
            assert set(gateways) == names, (site.name, sorted(gateways))
            for other in names:
                assert site.get(f"/v1/catalog/nodes?dc={other}")
        return True

    def stop(self) -> None:
        """Stop everything."""
        for process in self.processes():
            process.stop(signal.SIGKILL)


@pytest.fixture
def federation(sites: Sites, tmp_path: Path) -> Iterator[Federation]:
    with ExitStack() as stack:
        federation = Federation(sites, tmp_path)
        stack.callback(federation.stop)
        for site in sites.sites:
            federation.start_server(site)
            federation.start_gateway(site)
        with shown_on_failure(*federation.processes()):
            eventually(federation.formed, timeout=FORM_TIMEOUT, what="federation formed")
            yield federation


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
    eventually(federation.formed, timeout=FORM_TIMEOUT, what="federation formed again")
    print(f"federated again {time.monotonic() - started:.1f} s after the restart")
    assert federation.sites.dropped("servers") == 0
