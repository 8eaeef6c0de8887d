"""One probe at a time: its times, its answers, and what it does to our health."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.gossip.awareness import Awareness
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.probe import AskHelpers, ProbeFailed, Prober, ProbeSucceeded

LAN = GossipConfig.lan()  # Interval 1 s, time-out 0.5 s.


def make_prober(score: int = 0, seed: int = 1) -> tuple[Prober, Awareness]:
    awareness = Awareness(8)
    awareness.apply(score)
    return Prober(LAN, awareness, rng=Random(seed), now=0.0), awareness


def test_ack_ends_the_probe() -> None:
    prober, awareness = make_prober(score=2)
    prober.start("x", 7, now=10.0)
    assert prober.receive_ack(7, b"coordinate", now=10.1) == ProbeSucceeded(
        "x", 10.1 - 10.0, b"coordinate", by_stream=False
    )
    assert awareness.score == 1
    assert not prober.running


def test_ack_of_another_probe_changes_nothing() -> None:
    prober, awareness = make_prober(score=2)
    prober.start("x", 7, now=10.0)
    assert prober.receive_ack(6, b"", now=10.1) is None
    assert prober.running
    prober.receive_ack(7, b"", now=10.2)
    assert prober.receive_ack(7, b"", now=10.3) is None
    assert awareness.score == 1


def test_silence_asks_helpers_then_fails() -> None:
    prober, awareness = make_prober()
    prober.start("x", 7, now=10.0)
    assert prober.next_timer() == 10.5
    assert prober.handle_timer(now=10.4) is None
    assert prober.handle_timer(now=10.5) == AskHelpers("x", 7)
    assert prober.handle_timer(now=10.5) is None
    assert prober.next_timer() == 11.0
    assert prober.handle_timer(now=11.0) == ProbeFailed("x")
    assert awareness.score == 1


def test_ack_through_a_helper_saves_the_target() -> None:
    prober, _ = make_prober()
    prober.start("x", 7, now=10.0)
    prober.handle_timer(now=10.5)
    result = prober.receive_ack(7, b"", now=10.9)
    assert isinstance(result, ProbeSucceeded)
    assert prober.handle_timer(now=11.0) is None


def test_stream_counts_only_at_the_deadline() -> None:
    prober, awareness = make_prober(score=1)
    prober.start("x", 7, now=10.0)
    prober.handle_timer(now=10.5)
    prober.receive_stream_ack(7)
    assert prober.running
    assert prober.handle_timer(now=12.0) == ProbeSucceeded("x", 2.0, b"", by_stream=True)
    assert awareness.score == 0


def test_lost_ping_is_not_waited_for() -> None:
    prober, _ = make_prober()
    prober.start("x", 7, now=10.0)
    prober.lost(7, now=10.01)
    assert prober.next_timer() == 10.01
    assert prober.handle_timer(now=10.01) == AskHelpers("x", 7)


def test_missing_nacks_worsen_our_health_by_their_number() -> None:
    """If no helper says that it, too, heard nothing, it is us who are cut off."""
    for received, score in ((0, 3), (2, 1), (3, 0)):
        prober, awareness = make_prober()
        prober.start("x", 7, now=10.0)
        prober.handle_timer(now=10.5)
        prober.expect_nacks(3)
        for _ in range(received):
            prober.receive_nack(7)
        prober.receive_nack(8)
        assert prober.handle_timer(now=11.0) == ProbeFailed("x")
        assert awareness.score == score


def refused_probe(*, nacks: int, silent: int = 0) -> tuple[Prober, Awareness]:
    """A probe of a target that is gone: packet and stream were refused, helpers asked."""
    prober, awareness = make_prober(score=2)
    prober.start("x", 7, now=10.0)
    prober.receive_refusal(now=10.001)
    assert prober.next_timer() == 10.001
    assert prober.handle_timer(now=10.001) == AskHelpers("x", 7)
    prober.expect_nacks(nacks, silent=silent)
    prober.receive_stream_refusal(7)
    return prober, awareness


def test_target_that_everyone_finds_gone_is_not_waited_for() -> None:
    prober, awareness = refused_probe(nacks=2)
    prober.receive_nack(7)
    assert prober.handle_timer(now=10.01) is None
    prober.receive_nack(7)
    assert prober.next_timer() <= 10.01
    assert prober.handle_timer(now=10.01) == ProbeFailed("x")
    assert awareness.score == 2  # Nothing of it speaks against us.


def test_refusals_suffice_where_nobody_can_help() -> None:
    prober, awareness = refused_probe(nacks=0)
    assert prober.handle_timer(now=10.01) == ProbeFailed("x")
    assert awareness.score == 2


def test_helper_that_sends_no_nacks_is_waited_for() -> None:
    prober, _ = refused_probe(nacks=1, silent=1)
    prober.receive_nack(7)
    assert prober.handle_timer(now=12.9) is None
    assert isinstance(prober.receive_ack(7, b"", now=12.9), ProbeSucceeded)


def test_helpers_ack_beats_our_refusals() -> None:
    """The target may have moved, or we may stand before a fence of our own."""
    prober, _ = refused_probe(nacks=2)
    prober.receive_nack(7)
    assert isinstance(prober.receive_ack(7, b"", now=10.02), ProbeSucceeded)
    assert prober.handle_timer(now=10.02) is None


@pytest.mark.parametrize("missing", ["packet", "stream", "nack"])
def test_silence_is_no_refusal(missing: str) -> None:
    """A lost packet, or a process that stands still, never shortens a probe."""
    prober, _ = make_prober()
    prober.start("x", 7, now=10.0)
    if missing != "packet":
        prober.receive_refusal(now=10.0)
    assert prober.handle_timer(now=10.5) == AskHelpers("x", 7)
    prober.expect_nacks(1)
    if missing != "stream":
        prober.receive_stream_refusal(7)
    if missing != "nack":
        prober.receive_nack(7)
    assert prober.next_timer() == 11.0
    assert prober.handle_timer(now=10.999) is None


def test_refusals_of_another_probe_change_nothing() -> None:
    prober, _ = make_prober()
    prober.receive_refusal(now=9.0)
    prober.start("x", 7, now=10.0)
    prober.receive_stream_refusal(6)
    prober.handle_timer(now=10.5)
    prober.receive_refusal(now=10.6)
    assert prober.handle_timer(now=10.6) is None
    assert prober.next_timer() == 11.0


def test_stream_that_got_through_outweighs_a_refusal() -> None:
    prober, _ = refused_probe(nacks=0)
    prober.receive_stream_ack(7)
    assert prober.handle_timer(now=10.1) is None


def test_bad_health_stretches_the_deadline_not_the_first_timeout() -> None:
    prober, _ = make_prober(score=2)
    prober.start("x", 7, now=10.0)
    assert prober.next_timer() == 10.5
    prober.handle_timer(now=10.5)
    assert prober.next_timer() == 13.0


def test_next_probe_waits_for_the_running_one_and_keeps_the_phase() -> None:
    prober, _ = make_prober(score=3)
    phase = prober.next_timer()
    assert 0 <= phase < 1
    assert prober.is_due(now=phase)
    prober.start("x", 1, now=phase)
    assert not prober.is_due(now=phase + 2)
    prober.handle_timer(now=phase + 4)
    prober.handle_timer(now=phase + 4)
    assert prober.is_due(now=phase + 4)
    assert not prober.is_due(now=phase + 4)
    assert abs(prober.next_timer() - phase - 5) < 1e-6


@given(st.floats(0, 1000), st.integers(0, 2**32))
def test_ticks_missed_are_skipped(late: float, seed: int) -> None:
    prober, _ = make_prober(seed=seed)
    now = prober.next_timer() + late
    assert prober.is_due(now=now)
    assert now < prober.next_timer() <= now + LAN.probe_interval + 1e-6
