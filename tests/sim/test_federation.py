"""Whole federations of production cores: each simulation names its topology and its faults.

Safe always; after healing, live within a bound. A failure prints the one command that replays it.
Two hundred more, drawn from a seed, run with ``make sim``.
"""

import pytest

from isthmus.sim.command import replay_command
from isthmus.sim.language import parse_fault
from isthmus.sim.recording import Recording
from isthmus.sim.run import simulate
from isthmus.sim.scenario import Scenario
from isthmus.sim.topology import Host, Role, Topology

SEEDS = (1, 2)
FAULTS = {
    "nothing goes wrong": (),
    "partition dc1|dc2": ("partition dc1|dc2 at 20s for 90s",),
    "partition dc2|dc3, two secondaries": ("partition dc2|dc3 at 20s for 90s",),
    "one-way, secondary hears nothing": ("partition dc1>dc2 at 20s for 90s",),
    "one-way, secondary is not heard": ("partition dc2>dc1 at 20s for 90s",),
    "primary unreachable": ("partition dc1|* at 20s for 2m",),
    "primary unreachable while a secondary's gateways move": (
        "partition dc1|* at 20s for 2m",
        "move every gateway of dc2 at 60s",
    ),
    "all gateways of a cut-off datacenter replaced": (
        "partition dc2|* at 20s for 2m",
        "move every gateway of dc2 at 60s",
    ),
    "all gateways of the primary replaced, one by one": (
        "move every gateway of dc1 at 20s 20s apart",
    ),
    "all gateways of the primary replaced at once": ("move every gateway of dc1 at 20s",),
    "gateway crashes and stays away": ("crash gateway 1 of dc1 at 20s",),
    "all gateways of a secondary crash": ("crash every gateway of dc3 at 20s for 60s",),
    "hung gateway": ("pause gateway 1 of dc1 at 20s for 60s",),
    "paused leader of the primary": ("pause server 1 of dc1 at 20s for 60s",),
    "paused leader of a secondary, gateways move meanwhile": (
        "pause server 1 of dc2 at 20s for 60s",
        "move gateway 1 of dc1 at 30s",
    ),
    "crashed leader of the primary while gateways move": (
        "crash server 1 of dc1 at 20s for 90s",
        "move gateway 1 of dc2 at 21s",
    ),
    "rolling restart of all servers": ("restart every server of * at 20s 15s apart",),
    "rolling restart of all gateways": ("restart every gateway of * at 20s 15s apart",),
    "20 % loss for a while": ("loss 20% everywhere at 20s for 60s",),
    "duplicated and reordered packets": (
        "duplication 20% everywhere at 20s for 60s",
        "reordering 20% everywhere at 20s for 60s",
    ),
    "slow links": ("latency +1s dc1|* at 20s for 60s",),
    "clock drift": (
        "drift every server of dc2 1.05 at 5s for 120s",
        "drift server 1 of dc1 0.9 at 5s for 120s",
    ),
    "split local pool": ("partition within dc2 at 20s for 60s",),
    "server leaves": ("leave server 3 of dc2 at 20s",),
}


def make_scenario(
    *faults: str, seed: int = 1, datacenters: int = 3, gateways: int = 2, warm: bool = True
) -> Scenario:
    topology = Topology(datacenters=datacenters, gateways=gateways, warm=warm)
    parsed = tuple(parse_fault(text, topology) for text in faults)
    return Scenario(topology=topology, faults=parsed, seed=seed)


def run(scenario: Scenario) -> Recording:
    recording = simulate(scenario)
    told = "\n".join(f"{v.at:.1f} s  {v.invariant}: {v.text}" for v in recording.violations[:20])
    assert not recording.violations, f"{told}\nagain: {replay_command(scenario)}"
    return recording


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_joined_federation_survives(faults: tuple[str, ...], seed: int) -> None:
    recording = run(make_scenario(*faults, seed=seed))
    assert all(convergence.seconds is not None for convergence in recording.convergences)


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("crash gateway 1 of dc1 at 0.1s for 60s",),
        ("crash every gateway of dc1 at 0.05s for 30s",),
        ("partition dc1|* at 0.01s for 60s",),
        ("pause server 1 of dc1 at 0.2s for 30s",),
        ("restart every server of * at 0.1s 1s apart",),
        ("loss 20% everywhere at 0.01s for 60s",),
    ],
    ids=lambda faults: ", ".join(faults) or "nothing goes wrong",
)
def test_federation_forms_from_nothing(faults: tuple[str, ...]) -> None:
    recording = run(make_scenario(*faults, warm=False, seed=3))
    assert recording.samples[-1].known.low == 9
    assert recording.samples[-1].converged == 3


def test_same_seed_same_trace_and_another_seed_another() -> None:
    faults = ("partition dc1|dc2 at 20s for 60s", "loss 20% everywhere at 30s for 60s")
    first, again, other = (run(make_scenario(*faults, seed=seed)) for seed in (5, 5, 6))
    assert first.counters == again.counters
    assert first.samples == again.samples
    assert first.counters["trace"] != other.counters["trace"]


def test_crashed_server_is_detected_by_all_others_in_both_pools() -> None:
    recording = run(make_scenario("crash server 2 of dc3 at 20s"))
    victim = Host("dc3", Role.SERVER, 2)
    assert {detection.victim for detection in recording.detections} == {victim}
    lan = [d.seconds for d in recording.detections if d.pool == "lan"]
    wan = [d.seconds for d in recording.detections if d.pool == "wan"]
    assert (len(lan), len(wan)) == (2, 8)
    assert max(lan) < 10
    assert max(wan) < 60
    assert not recording.false_positives


def test_gateway_change_reaches_all_datacenters_in_a_second() -> None:
    recording = run(make_scenario("move gateway 1 of dc2 at 20s", datacenters=10))
    (convergence,) = recording.convergences
    assert convergence.dc == "dc2"
    assert convergence.seconds is not None
    assert convergence.seconds < 1.0


def test_quiet_federation_declares_nobody_dead() -> None:
    recording = run(make_scenario(datacenters=5))
    assert (recording.detections, recording.false_positives) == ([], [])
