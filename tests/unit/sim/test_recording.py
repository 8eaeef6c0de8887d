"""A recording keeps what it is told, within bounds."""

import pytest

from isthmus.sim import recording as module
from isthmus.sim.recording import LAN, WAN, Recording, Spread
from isthmus.sim.topology import Host, Role
from support.recordings import make_scenario

ALPHA, BETA = Host("dc1", Role.SERVER, 1), Host("dc2", Role.SERVER, 1)


def take(recording: Recording, at: float) -> None:
    recording.sample(
        at,
        known=[3, 1, 2],
        lan_rates=[10.0],
        wan_rates=[],
        gateway_rates=[5.0, 7.0],
        connections=[1, 2, 3, 4],
        converged=2,
    )


def test_sample_keeps_the_spread_over_hosts() -> None:
    recording = Recording(make_scenario())
    take(recording, 1.0)
    sample = recording.samples[0]
    assert (sample.known, sample.alive) == (Spread(1, 2, 3, 2), 3)
    assert (sample.lan_rate, sample.wan_rate) == (Spread(10, 10, 10, 10), Spread(0, 0, 0, 0))
    assert (sample.connections, sample.converged) == (Spread(1, 3, 4, 2.5), 2)


def test_samples_go_forward_in_time() -> None:
    recording = Recording(make_scenario())
    take(recording, 1.0)
    with pytest.raises(AssertionError):
        take(recording, 1.0)


def test_only_named_invariants_can_be_violated() -> None:
    recording = Recording(make_scenario(), invariants={"indexes": "no index goes back"})
    recording.violated(1.0, "indexes", "9 → 8")
    with pytest.raises(AssertionError):
        recording.violated(1.0, "indices", "9 → 8")
    assert [one.text for one in recording.violations] == ["9 → 8"]


def test_events_beyond_the_bound_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVENTS_MAX", 2)
    recording = Recording(make_scenario())
    for second in range(5):
        recording.mistaken(second, pool=WAN, victim=ALPHA, observer=BETA)
    recording.detected(9.0, pool=LAN, victim=ALPHA, observer=BETA, seconds=3.0)
    assert (len(recording.false_positives), recording.dropped) == (2, {"false_positives": 3})
    assert len(recording.detections) == 1


def test_totals_add_up() -> None:
    recording = Recording(make_scenario())
    recording.count("probes")
    recording.count("probes", 4)
    assert recording.counters == {"probes": 5}
