"""A federation whose datacenters have several servers and several gateways each, in namespaces."""

import subprocess
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any

from support.datacenter import Datacenter, ServerProcess
from support.netns import GATEWAY_PORT, Site, Sites
from support.probing import Call
from support.processes import ISTHMUS, Process, eventually, make_certificates, shown_on_failure

FORM_TIMEOUT = 120.0
_INTERVAL = 0.2
_CALL_TIMEOUT = 20.0


class Realm:
    """Servers and gateways in every site. A context manager, which stops them all.

    Args:
        sites: The networks; the first is the primary.
        folder: For configuration, data and logs.
        servers: How many servers each datacenter has.
        gateways: How many gateways; each registers with another server.
    """

    def __init__(self, sites: Sites, folder: Path, *, servers: int = 3, gateways: int = 2) -> None:
        self.sites, self._folder, self._gateway_count = sites, folder, gateways
        self.gateways: dict[str, list[Process]] = {}
        self.datacenters: dict[str, Datacenter] = {}
        make_certificates(folder, {site.name: f"{site.name}s1" for site in sites.sites})
        for site in sites.sites:
            self.datacenters[site.name] = self._datacenter(site, servers)

    def _datacenter(self, site: Site, count: int) -> Datacenter:
        folder, primary = self._folder, self.sites.sites[0]
        for number in range(2, count + 1):
            node = f"{site.name}s{number}"
            subprocess.run(
                [*ISTHMUS, "tls", "cert", "create", "-server", "-dc", site.name, "-node", node],
                cwd=folder,
                check=True,
                capture_output=True,
            )
        config: dict[str, Any] = {
            "datacenter": site.name,
            "primary_datacenter": primary.name,
            "ca_file": str(folder / "consul-agent-ca.pem"),
            "verify_incoming": True,
            "verify_outgoing": True,
            "verify_server_hostname": True,
            "connect": {"enabled": True, "enable_mesh_gateway_wan_federation": True},
        }
        if site is not primary:
            config["primary_gateways"] = [
                f"{primary.gateway_wan(index)}:{GATEWAY_PORT}"
                for index in range(self._gateway_count)
            ]
        found = Datacenter(
            folder,
            count,
            address=lambda number: site.server_address(number - 1),
            places=[site] * count,
            name=f"{site.name}s",
            **config,
        )
        for number, server in enumerate(found.servers):
            server.config["cert_file"] = str(folder / f"{site.name}-server-consul-{number}.pem")
            server.config["key_file"] = str(folder / f"{site.name}-server-consul-{number}-key.pem")
        return found

    # Life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and wait until everybody sees everybody."""
        for datacenter in self.datacenters.values():
            for server in datacenter.servers:
                server.start()
        for datacenter in self.datacenters.values():
            datacenter.wait_until_formed()
        for site in self.sites.sites:
            self.gateways[site.name] = [
                self._start_gateway(site, index) for index in range(self._gateway_count)
            ]
        with shown_on_failure(*self.processes()):
            eventually(self.formed, timeout=FORM_TIMEOUT, every=0.5, what="federation formed")

    def _start_gateway(self, site: Site, index: int) -> Process:
        command = site.command(
            *ISTHMUS,
            *("connect", "gateway", "-mesh-gateway", "-register", "-expose-servers"),
            *("-service", f"gateway-{index}"),
            *("-http-addr", f"{site.server_address(index)}:8500"),
            *("-address", f"{site.gateway(index)}:{GATEWAY_PORT}"),
            *("-wan-address", f"{site.gateway_wan(index)}:{GATEWAY_PORT}"),
        )
        return Process(command, self._folder / f"{site.name}-gateway-{index}.log")

    def processes(self) -> list[Process]:
        """All that were started."""
        found = [gateway for gateways in self.gateways.values() for gateway in gateways]
        for datacenter in self.datacenters.values():
            found += datacenter.processes()
        return found

    @property
    def servers(self) -> list[tuple[str, ServerProcess]]:
        """Datacenter and server of all that run."""
        return [
            (name, server)
            for name, datacenter in self.datacenters.items()
            for server in datacenter.running
        ]

    def formed(self) -> bool:
        """Every server sees every living one, reads from everywhere, and knows all gateways."""
        names = set(self.datacenters)
        living = {f"{server.name}.{dc}" for dc, server in self.servers}
        for dc, server in self.servers:
            members = server.get("/v1/agent/members?wan=1")
            alive = {member["Name"] for member in members if member["Status"] == 1}
            assert alive == living, (server.name, living ^ alive)
            assert self.local_gateways(server) == self.expected_gateways(dc), server.name
            for other in names:
                assert server.get(f"/v1/catalog/nodes?dc={other}")
        return True

    def expected_gateways(self, dc: str) -> set[str]:
        """LAN addresses of a datacenter's gateways that run, and whose servers do."""
        site = next(site for site in self.sites.sites if site.name == dc)
        return {
            f"{site.gateway(index)}:{GATEWAY_PORT}"
            for index, gateway in enumerate(self.gateways[dc])
            if gateway.running() and self.datacenters[dc].servers[index].is_running
        }

    def local_gateways(self, server: ServerProcess) -> set[str]:
        """What a server's locator has for its own datacenter."""
        report = server.get("/v1/isthmus/federation")
        return {
            gateway["Address"]
            for gateway in report["Gateways"]
            if "local" in gateway["Role"].split(", ")
        }

    def __enter__(self) -> "Realm":
        return self

    def __exit__(self, *error: object) -> None:
        for gateways in self.gateways.values():
            for gateway in gateways:
                gateway.stop()
        for datacenter in self.datacenters.values():
            datacenter.__exit__(*error)


class RealmCallers:
    """Every server reads from every other datacenter, over and over. A context manager."""

    def __init__(self, realm: Realm, *, but: set[str]) -> None:
        self._stop = threading.Event()
        self.calls: dict[str, list[Call]] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(server, other))
            for dc, server in realm.servers
            if server.name not in but
            for other in realm.datacenters
            if other != dc
        ]

    def _run(self, server: ServerProcess, dc: str) -> None:
        calls = self.calls.setdefault(f"{server.name} → {dc}", [])
        while not self._stop.wait(_INTERVAL):
            started = time.monotonic()
            try:
                status, body, _ = server.request(
                    "GET", f"/v1/catalog/nodes?dc={dc}", timeout=_CALL_TIMEOUT
                )
                error = "" if status == 200 else body.decode(errors="replace")
            except (OSError, HTTPException) as failure:
                error = f"HTTP: {failure!r}"
            calls.append(Call(started, time.monotonic() - started, error))

    def __enter__(self) -> "RealmCallers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def failures(self) -> list[tuple[float, str, str]]:
        """Failed calls: when each ended, of whom to whom, and why."""
        return [
            (call.started_at + call.seconds, name, call.error)
            for name, calls in self.calls.items()
            for call in calls
            if call.error
        ]

    def slow(self, *, after: float) -> float:
        """When the last call ended that took more than a second, or failed; since a moment."""
        return max(
            (
                call.started_at + call.seconds - after
                for calls in self.calls.values()
                for call in calls
                if call.error or call.seconds > 1.0
            ),
            default=0.0,
        )
