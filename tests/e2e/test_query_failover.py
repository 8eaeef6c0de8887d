"""Prepared queries whose service is in other datacenters, behind gateways, one of them cut off."""

import json
import time
from typing import Any

import pytest

from isthmus.net.wan import RPC_DIAL_TIMEOUT
from support.federation import Federation
from support.netns import Site, Sites
from support.processes import eventually

pytestmark = [pytest.mark.namespaces, pytest.mark.e2e, pytest.mark.timeout(180)]

DEADLINE = 60.0
SKIP_MAX = RPC_DIAL_TIMEOUT + 7.0
"""Seconds; one dial, and the machine may be busy. Two dials in a row would still be too many."""


def send(site: Site, method: str, path: str, body: Any) -> None:
    assert site.request(method, path, json.dumps(body).encode()).json()


def execute(site: Site, name: str) -> tuple[str, int, list[str]]:
    """Datacenter that answered, failovers, nodes."""
    found = site.get(f"/v1/query/{name}/execute")
    nodes = sorted(item["Node"]["Node"] for item in found["Nodes"])
    return found["Datacenter"], found["Failovers"], nodes


def test_datacenter_that_is_cut_off_is_skipped_within_one_dial(
    federation: Federation, sites: Sites
) -> None:
    near, far, other = sites.sites
    for site in (far, other):
        service = {"Node": f"db-{site.name}", "Address": "10.9.9.9", "Service": {"Service": "db"}}
        send(site, "PUT", "/v1/catalog/register", service)
    failover = {"Datacenters": [far.name, "nowhere", other.name]}
    template = {"Type": "name_prefix_match"}
    query = {
        "Name": "geo-",
        "Template": template,
        "Service": {"Service": "${name.suffix}", "Failover": failover},
    }
    send(near, "POST", "/v1/query", query)
    from_far, from_other = (far.name, 1, [f"db-{far.name}"]), (other.name, 2, [f"db-{other.name}"])
    assert execute(near, "geo-db") == from_far
    assert execute(near, "geo-nothing") == (near.name, 2, [])
    sites.cut(far)
    try:
        started = time.monotonic()
        assert execute(near, "geo-db") == from_other
        assert time.monotonic() - started < SKIP_MAX
        assert execute(near, "geo-db") == from_other
    finally:
        sites.heal(far)

    eventually(
        lambda: execute(near, "geo-db") == from_far,
        timeout=DEADLINE,
        what="the nearer datacenter answers again",
    )
    log = (federation.folder / f"{near.name}-server.log").read_text()
    assert "a prepared query could not be executed in another datacenter" in log
