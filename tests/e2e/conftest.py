"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import netns
from support.datacenter import Datacenter
from support.federation import Federation
from support.processes import shown_on_failure


@pytest.fixture
def sites() -> Iterator[netns.Sites]:
    """Three datacenters in namespaces of their own, joined at their gateways only."""
    if why := netns.missing():
        pytest.skip(why)
    with netns.Sites(3) as sites:
        yield sites


@pytest.fixture
def federation(sites: netns.Sites, tmp_path: Path) -> Iterator[Federation]:
    """A server and a gateway in each of three datacenters, federated."""
    federation = Federation(sites, tmp_path)
    try:
        for site in sites.sites:
            federation.start_server(site)
            federation.start_gateway(site)
        federation.wait_until_formed()
        with shown_on_failure(*federation.processes()):
            yield federation
        assert sites.dropped("servers") == 0
    finally:
        federation.stop()


@pytest.fixture
def datacenter(tmp_path: Path) -> Iterator[Datacenter]:
    """Three servers that keep their data in etcd, at work."""
    with Datacenter(tmp_path) as datacenter:
        datacenter.start()
        with shown_on_failure(*datacenter.processes()):
            yield datacenter
