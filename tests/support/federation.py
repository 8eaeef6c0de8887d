"""A federation of isthmus processes in network namespaces that meet at their gateways only."""

import signal
from pathlib import Path
from typing import Any

from support.netns import GATEWAY_PORT, Site, Sites
from support.processes import (
    ISTHMUS,
    Process,
    eventually,
    make_certificates,
    server_config,
    shown_on_failure,
)

FORM_TIMEOUT = 60.0


class Federation:
    """A server and gateways in every site.

    Args:
        sites: The networks.
        folder: For configuration, data and logs.
    """

    def __init__(self, sites: Sites, folder: Path) -> None:
        self.sites, self.folder = sites, folder
        self.servers: dict[str, Process] = {}
        self.gateways: dict[str, Process] = {}
        make_certificates(folder, {site.name: self.node(site) for site in sites.sites})

    def node(self, site: Site) -> str:
        """Name of a site's server."""
        return f"{site.name}s0"

    def start_server(self, site: Site, **more: Any) -> Process:
        """Start a site's server, with more configuration if wanted."""
        primary = self.sites.sites[0]
        if site is not primary and "primary_gateways" not in more:
            more["primary_gateways"] = [f"{primary.gateway_wan()}:{GATEWAY_PORT}"]
        config = server_config(
            self.folder, dc=site.name, node=self.node(site), address=site.server, **more
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

    def wait_until_formed(self) -> None:
        """Wait until everybody sees everybody; shows the logs when that does not happen."""
        with shown_on_failure(*self.processes()):
            eventually(self.formed, timeout=FORM_TIMEOUT, what="federation formed")

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
