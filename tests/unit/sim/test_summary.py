"""Figures and verdicts of a recording."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.sim.recording import WAN, Recording
from isthmus.sim.scenario import Expect
from isthmus.sim.summary import Summary, Times, Verdict, format_summary
from isthmus.sim.topology import Host, Role
from support.recordings import make_recording, make_scenario

ALPHA, BETA = Host("dc1", Role.SERVER, 1), Host("dc2", Role.SERVER, 1)


def record(expect: Expect | None = None, *faults: str) -> Recording:
    """An empty recording that expects this."""
    scenario = make_scenario(*faults)
    recording = Recording(replace(scenario, expect=expect or Expect()))
    recording.ended_at = scenario.ends_at
    return recording


def see(recording: Recording, at: float, known: Sequence[float], *, rate: float = 0.0) -> None:
    recording.sample(
        at,
        known=known,
        lan_rates=[rate] * 3,
        wan_rates=[2 * rate] * 3,
        gateway_rates=[3 * rate],
        connections=[rate],
        converged=3,
    )


def found(recording: Recording, name: str) -> Verdict:
    return next(one for one in Summary.of(recording).verdicts if one.name == name)


def test_percentiles_are_values_that_occurred() -> None:
    assert Times.of([5.0, 1.0, 3.0]) == Times(3, 3.0, 5.0, 5.0)
    assert Times.of(float(value) for value in range(1, 101)) == Times(100, 50.0, 95.0, 100.0)
    assert Times.of([]) == Times(0, 0.0, 0.0, 0.0)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_in_order(values: list[float]) -> None:
    times = Times.of(values)
    assert min(values) <= times.median <= times.p95 <= times.longest == max(values)


def test_rates_are_means_over_time() -> None:
    recording = record()
    see(recording, 1.0, [9] * 9, rate=100.0)
    see(recording, 2.0, [9] * 9, rate=300.0)
    summary = Summary.of(recording)
    assert (summary.lan.rate, summary.lan.rate_peak) == (200.0, 300.0)
    assert (summary.wan.rate, summary.gateway_rate) == (400.0, 600.0)
    assert (summary.connections, summary.connections_peak) == (200.0, 300.0)


def test_whole_again_counts_from_the_last_fault() -> None:
    recording = record(Expect(members_within=30), "partition dc1|dc2 at 10s for 50s")
    for at, known in ((40, 9), (50, 6), (60, 6), (80, 6), (90, 9), (100, 9)):
        see(recording, at, [9] * 8 + [known])
    assert Summary.of(recording).whole_after == 30.0
    assert found(recording, "members_within").held
    late = replace(
        recording, scenario=replace(recording.scenario, expect=Expect(members_within=29))
    )
    assert found(late, "members_within") == Verdict(
        "members_within",
        "all servers know all members after the last fault within 29 s",
        False,
        "30.0 s",
    )


def test_never_whole_again_is_a_failure() -> None:
    recording = record(Expect(members_within=30))
    see(recording, 1.0, [9] * 9)
    see(recording, 2.0, [9] * 8 + [8])
    assert Summary.of(recording).whole_after is None
    assert found(recording, "members_within").found == "not before the run ended"


def test_dead_server_is_not_missed() -> None:
    recording = record()
    see(recording, 1.0, [8] * 8)  # Eight run and know each other; the ninth is down.
    assert Summary.of(recording).whole_after == 1.0


def test_convergence_counts_from_the_change_or_the_last_fault() -> None:
    recording = record(Expect(converged_within=5), "partition dc1|* at 10s for 50s")
    recording.converged("dc2", changed_at=30.0, seconds=34.0)  # 64: 4 s after the fault.
    recording.converged("dc3", changed_at=70.0, seconds=5.0)
    assert found(recording, "converged_within") == Verdict(
        "converged_within",
        "all datacenters have the newest federation states within 5 s",
        True,
        "5.0 s",
    )
    recording.converged("dc2", changed_at=80.0, seconds=5.1)
    assert not found(recording, "converged_within").held


def test_state_that_never_arrives_is_a_failure() -> None:
    recording = record(Expect(converged_within=5))
    recording.converged("dc2", changed_at=30.0, seconds=None)
    verdict = found(recording, "converged_within")
    assert (verdict.held, verdict.found) == (False, "the state of dc2 of 30.0 s is not everywhere")
    assert Summary.of(recording).unconverged == 1


@pytest.mark.parametrize(("bound", "held"), [(6.0, True), (5.9, False)])
def test_slowest_detection_counts(bound: float, held: bool) -> None:
    recording = record(Expect(detection=bound))
    for seconds in (1.0, 6.0, 3.0):
        recording.detected(20.0, pool=WAN, victim=ALPHA, observer=BETA, seconds=seconds)
    assert found(recording, "detection").held is held


@pytest.mark.parametrize(("bound", "held"), [(1, True), (0, False)])
def test_false_positives_are_counted(bound: int, held: bool) -> None:
    recording = record(Expect(false_positives=bound))
    recording.mistaken(20.0, pool=WAN, victim=ALPHA, observer=BETA)
    verdict = found(recording, "false_positives")
    assert (verdict.held, verdict.found) == (held, "1")


def test_false_positives_that_were_dropped_count_too() -> None:
    recording = record(Expect(false_positives=5))
    recording.dropped["false_positives"] = 6
    assert not found(recording, "false_positives").held


def test_stopped_run_is_not_held_to_what_comes_later() -> None:
    recording = record(Expect(members_within=1, converged_within=1, false_positives=0))
    recording.interrupted = True
    see(recording, 1.0, [9] * 8 + [8])
    recording.converged("dc2", changed_at=0.5, seconds=None)
    assert [verdict.name for verdict in Summary.of(recording).verdicts] == ["false_positives"]


def test_violated_invariant_is_named_with_its_first_violation() -> None:
    recording = record()
    recording.invariants = {"indexes": "no index goes back", "quiet": "nothing happens"}
    recording.violated(1.0, "indexes", "first")
    recording.violated(2.0, "indexes", "second")
    summary = Summary.of(recording)
    assert not summary.held
    assert [(one.held, one.found) for one in summary.verdicts] == [
        (False, "2 times, first: first"),
        (True, "held"),
    ]


def test_json_is_one_line_and_the_same_for_the_same_run() -> None:
    line = Summary.of(make_recording(seed=3)).as_json()
    assert line == Summary.of(make_recording(seed=3)).as_json()
    assert line != Summary.of(make_recording(seed=4)).as_json()
    assert "\n" not in line
    document = json.loads(line)
    assert document["Wan"]["Members"] == 150
    assert document["Wan"]["Detection"]["Count"] == 147
    assert document["Held"] is True
    assert document["Replay"].endswith("-seed 7")


def test_text_has_both_pools_side_by_side() -> None:
    lines = format_summary(Summary.of(make_recording())).splitlines()
    assert lines[0].split() == ["LAN", "WAN"]
    assert lines[1].split() == ["members", "of", "a", "pool", "3", "150"]
    assert "ok    indexes: no index goes back (held)" in lines


def test_run_without_losses_shows_dashes() -> None:
    rows = [line.split() for line in format_summary(Summary.of(record())).splitlines()]
    assert ["detection:", "median", "–", "–"] in rows
