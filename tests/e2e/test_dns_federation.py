"""DNS across datacenters whose networks meet at their gateways only."""

import time
from functools import partial

import pytest

from support.dns_client import answers, code, known
from support.federation import Federation
from support.netns import Site, Sites
from support.processes import eventually

pytestmark = [pytest.mark.namespaces, pytest.mark.e2e, pytest.mark.timeout(180)]

DEADLINE = 40.0
FAILURE_MAX = 15.0
"""Seconds; a look-up is given up after four, and the machine may be busy."""


def _ask(site: Site, name: str) -> list[str]:
    return site.inside(partial(known, site.server, name))


def _code(site: Site, name: str) -> str:
    return site.inside(partial(code, site.server, name, timeout=FAILURE_MAX))


def test_names_of_other_datacenters_are_answered_through_gateways(
    federation: Federation, sites: Sites
) -> None:
    """And when one of them is cut off, it fails in time and the others do not notice."""
    for here in sites.sites:
        for there in sites.sites:
            name = f"consul.service.{there.name}.consul"
            assert eventually(partial(_ask, here, name), timeout=DEADLINE) == [there.server]
            node = f"{federation.node(there)}.node.{there.name}.consul"
            assert eventually(partial(_ask, here, node), timeout=DEADLINE) == [there.server]
    near, far, other = sites.sites
    sites.cut(far)
    try:
        started = time.monotonic()
        assert _code(near, f"consul.service.{far.name}.consul") == "SERVFAIL"
        assert time.monotonic() - started < FAILURE_MAX
        for there in (near, other):
            name = f"consul.service.{there.name}.consul"
            assert near.inside(partial(answers, near.server, name)) == [there.server]
    finally:
        sites.heal(far)
    name = f"consul.service.{far.name}.consul"
    assert eventually(partial(_ask, near, name), timeout=DEADLINE) == [far.server]
