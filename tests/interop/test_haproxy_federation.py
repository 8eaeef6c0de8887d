"""HAProxy in the place of every built-in gateway: the federation forms just the same.

HAProxy knows nothing of agents: its routes are written down once, as an operator would, and the
gateways are registered by hand.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.mesh.routes import Endpoint, GatewayFacts, LocalServer, RouteTable, route_table
from support import haproxy, netns
from support.federation import Federation
from support.netns import GATEWAY_PORT, Site, Sites
from support.processes import eventually

_WHY = netns.missing() or haproxy.missing()
pytestmark = [
    pytest.mark.interop,
    pytest.mark.namespaces,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(_WHY), reason=_WHY or "all there"),
]


def routes(site: Site, sites: Sites) -> RouteTable:
    """What a gateway of the site forwards."""
    return route_table(
        GatewayFacts(
            dc=site.name,
            exposes_servers=True,
            servers=(LocalServer(f"{site.name}s0", site.server, 8300),),
            gateways={
                other.name: (Endpoint(other.gateway_wan(), GATEWAY_PORT),)
                for other in sites.sites
                if other is not site
            },
        )
    )


def register(site: Site) -> bool:
    """Tell the site's agent of its gateway."""
    definition = {
        "Kind": "mesh-gateway",
        "Name": "mesh-gateway",
        "Address": site.gateway(),
        "Port": GATEWAY_PORT,
        "TaggedAddresses": {
            "lan": {"Address": site.gateway(), "Port": GATEWAY_PORT},
            "wan": {"Address": site.gateway_wan(), "Port": GATEWAY_PORT},
        },
        "Meta": {"consul-wan-federation": "1"},
        "Check": {"TCP": f"{site.gateway()}:{GATEWAY_PORT}", "Interval": "1s"},
    }
    body = json.dumps(definition).encode()
    return site.request("PUT", "/v1/agent/service/register", body).status == 200


@pytest.fixture
def sites() -> Iterator[Sites]:
    with netns.Sites(3) as sites:
        yield sites


def test_federation_forms_through_haproxy(sites: Sites, tmp_path: Path) -> None:
    federation = Federation(sites, tmp_path)
    gateways = [
        haproxy.HaproxyGateway(
            routes(site, sites),
            [(site.gateway(), GATEWAY_PORT), (site.gateway_wan(), GATEWAY_PORT)],
            prefix=site.command(),
        )
        for site in sites.sites
    ]
    try:
        for site in sites.sites:
            federation.start_server(site)
        for site in sites.sites:
            eventually(lambda site=site: register(site), timeout=15, what="registered")  # type: ignore[misc]
        federation.wait_until_formed()
        dc1, _, dc3 = sites.sites
        assert dc1.request("PUT", "/v1/kv/hello?dc=dc3", b"through HAProxy").status == 200
        assert dc3.request("GET", "/v1/kv/hello?raw").body == b"through HAProxy"
        assert sites.dropped("servers") == 0
    finally:
        federation.stop()
        for gateway in gateways:
            gateway.close()
