"""How long a run lasts, and what cannot be run."""

from typing import Any

import pytest

from isthmus.sim.scenario import DURATION_MIN, Scenario
from isthmus.sim.topology import Topology
from support.recordings import make_scenario


def test_quiet_run_lasts_the_least() -> None:
    assert Scenario().ends_at == DURATION_MIN


def test_run_lasts_until_the_last_fault_has_had_time_to_heal() -> None:
    scenario = make_scenario("partition dc1|dc2 at 1m for 10m", "crash server 1 of dc1 at 2m")
    assert scenario.healed_at == 660.0
    assert scenario.ends_at == 660.0 + scenario.settle_time


def test_last_turn_of_hosts_one_after_another_counts() -> None:
    scenario = make_scenario("restart every server of * at 30s for 5s 20s apart")
    assert scenario.healed_at == 30 + 8 * 20 + 5


def test_large_pools_get_more_time_to_settle() -> None:
    small, large = Scenario(), Scenario(topology=Topology(datacenters=1000))
    assert small.settle_time == 180.0  # Two shortest WAN suspicions: 2 × 6 × 5 s.
    assert large.settle_time == 329.0  # The same with log10(3000).
    assert Scenario(settle=9.0).settle_time == 9.0


def test_what_is_said_has_precedence() -> None:
    assert make_scenario("loss 1% everywhere", duration=60.0).ends_at == 60.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": -1}, "seed: -1 is not within"),
        ({"duration": 0.0}, "duration: 0 s is not within"),
        ({"settle": -1.0}, "settle: -1 s is not within"),
        ({"topology": Topology(datacenters=1)}, "there is no dc2"),
        ({"duration": 5.0}, "would begin at 10s, but the run ends at 5s"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_scenario("partition dc1|dc2", **changes)


def test_too_many_faults_are_refused() -> None:
    texts = [f"crash server 1 of dc1 at {second}s for 1s" for second in range(0, 2002, 2)]
    with pytest.raises(ValueError, match="1001 faults; at most 1000 fit"):
        make_scenario(*texts)
