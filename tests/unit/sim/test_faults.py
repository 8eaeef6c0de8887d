"""Faults: whom they befall and when, and what they do to links."""

from dataclasses import replace

import pytest

from isthmus.sim.faults import Partition, format_datacenters
from isthmus.sim.language import parse_fault
from isthmus.sim.network import LinkModel
from isthmus.sim.topology import Host, Role, Topology

TWO = Topology(datacenters=2, servers=2)
LINK = LinkModel(loss=0.2, extra=0.1, bandwidth=10**6)


def test_hosts_take_turns_in_order() -> None:
    fault = parse_fault("restart every server of * at 1m for 5s 10s apart", TWO)
    assert not isinstance(fault, Partition)
    assert list(fault.turns(TWO)) == [  # type: ignore[union-attr]
        (60.0, 65.0, Host("dc1", Role.SERVER, 1)),
        (70.0, 75.0, Host("dc1", Role.SERVER, 2)),
        (80.0, 85.0, Host("dc2", Role.SERVER, 1)),
        (90.0, 95.0, Host("dc2", Role.SERVER, 2)),
    ]


def test_numbered_host_of_every_datacenter_is_one_in_each() -> None:
    fault = parse_fault("crash gateway 2 of *", TWO)
    assert list(fault.turns(TWO)) == [  # type: ignore[union-attr]
        (10.0, None, Host("dc1", Role.GATEWAY, 2)),
        (10.0, None, Host("dc2", Role.GATEWAY, 2)),
    ]


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("loss 50% dc1|dc2", replace(LINK, loss=0.6)),
        ("latency +200ms dc1|dc2", replace(LINK, extra=0.3)),
        ("bandwidth 64kB/s dc1|dc2", replace(LINK, bandwidth=64_000)),
        ("bandwidth 2MB/s dc1|dc2", LINK),
        ("duplication 5% dc1|dc2", replace(LINK, duplication=0.05)),
        ("reordering 5% dc1|dc2", replace(LINK, reordering=0.05)),
    ],
)  # fmt: skip
def test_fault_adds_to_what_the_link_does_already(text: str, changed: LinkModel) -> None:
    link = parse_fault(text, TWO).change(LINK)  # type: ignore[union-attr]
    assert (link.bandwidth, link.loss, link.extra, link.duplication, link.reordering) == (
        changed.bandwidth,
        pytest.approx(changed.loss),
        pytest.approx(changed.extra),
        pytest.approx(changed.duplication),
        pytest.approx(changed.reordering),
    )


def test_bandwidth_limits_a_link_without_a_limit() -> None:
    fault = parse_fault("bandwidth 64kB/s dc1|dc2", TWO)
    assert fault.change(LinkModel()).bandwidth == 64_000  # type: ignore[union-attr]


def test_runs_of_datacenters_are_shortened() -> None:
    names = tuple(f"dc{number}" for number in (1, 3, 4, 5, 6, 8, 9))
    assert format_datacenters(names) == "dc1,dc3..dc6,dc8,dc9"
    assert format_datacenters(()) == "*"
