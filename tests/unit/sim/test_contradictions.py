"""Faults that cannot all happen are refused, and the sentence says why."""

import pytest

from isthmus.sim.contradictions import check_faults
from isthmus.sim.language import FaultError, parse_fault
from isthmus.sim.topology import Topology

THREE = Topology(datacenters=3)


def check(*texts: str, ends_at: float = 600.0, topology: Topology = THREE) -> None:
    check_faults([parse_fault(text) for text in texts], topology, ends_at=ends_at)


@pytest.mark.parametrize(
    "texts",
    [
        ("crash server 1 of dc1 at 1m", "restart server 1 of dc1 at 2m"),
        ("leave server 1 of dc1", "restart server 1 of dc1 at 2m", "crash server 1 of dc1 at 3m"),
        ("crash server 1 of dc1 at 1m for 30s", "crash server 1 of dc1 at 90s for 30s"),
        ("crash server 1 of dc1 at 1m for 30s", "pause server 2 of dc1 at 1m for 30s"),
        ("crash gateway 1 of dc1 at 1m", "move gateway 1 of dc1 at 2m"),
        ("loss 5% everywhere", "partition dc1|dc2", "partition dc1|*"),
        ("drift server 1 of dc1 1.05 at 1m for 1m", "drift server 1 of dc1 0.95 at 2m"),
        ("restart server 1 of dc1 at 1m", "restart server 1 of dc1 at 61s"),
    ],
)  # fmt: skip
def test_faults_that_can_happen_pass(texts: tuple[str, ...]) -> None:
    check(*texts)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (
            ("crash server 1 of dc1 at 1m", "pause every server of dc1 at 2m"),
            "server 1 of dc1 does not run then: 'crash server 1 of dc1 at 1m'",
        ),
        (
            ("crash server 1 of dc1 at 1m for 30s", "restart server 1 of dc1 at 80s"),
            "server 1 of dc1 comes back by itself at 1m30s",
        ),
        (
            ("pause server 1 of dc1 at 1m", "restart server 1 of dc1 at 80s"),
            "server 1 of dc1 stands still then",
        ),
        (
            ("drift server 1 of dc1 1.05 at 1m", "drift server 1 of * 0.95 at 2m"),
            "server 1 of dc1 drifts already",
        ),
        (("crash server 1 of dc1", "crash server 1 of dc1 at 10s"), "this fault is there twice"),
        (("crash server 1 of dc1 at 10m",), "would begin at 10m, but the run ends at 10m"),
        (
            ("crash every server of * at 9m for 5s 10s apart",),
            "would begin at 10m, but the run ends at 10m",
        ),
        (("crash server 1 of dc7",), "there is no dc7; there are dc1 to dc3"),
        (("crash server 4 of dc1",), "there is no server 4; every datacenter has servers 1 to 3"),
    ],
)
def test_contradiction_is_named(texts: tuple[str, ...], says: str) -> None:
    with pytest.raises(FaultError) as caught:
        check(*texts)
    assert caught.value.reason.startswith(says)
    marked = str(caught.value).splitlines()[-1]
    assert "^" in marked


def test_the_host_that_clashes_is_marked() -> None:
    with pytest.raises(FaultError) as caught:
        check("leave server 2 of dc3", "crash server 2 of dc3 at 1m")
    assert str(caught.value) == (
        "server 2 of dc3 does not run then: 'leave server 2 of dc3 at 10s'\n"
        "  crash server 2 of dc3 at 1m\n"
        "        ^^^^^^^^^^^^^^^"
    )
