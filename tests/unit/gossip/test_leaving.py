"""The steps of our own leaving."""

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.leaving import Leaving, Stage


def stages(leaving: Leaving, *moments: float) -> list[Stage]:
    """Stages that are entered at these moments, with nothing but time passing."""
    return [leaving.stage for now in moments if leaving.go_on(intent_sent=False, now=now)]


def test_member_that_stays_never_goes_on() -> None:
    leaving = Leaving(GossipConfig.lan())
    assert leaving.is_member
    assert stages(leaving, 0.0, 1e9) == []
    assert not leaving.go_on(intent_sent=True, now=0.0)


def test_each_stage_has_its_longest_time() -> None:
    leaving = Leaving(GossipConfig.lan())
    leaving.begin(alone=False, now=10.0)
    assert leaving.due == 15.0
    assert stages(leaving, 14.9, 15.0, 99.0) == [Stage.DEPARTURE]  # Memberlist ends that.
    leaving.departed(alone=False, now=100.0)
    assert leaving.due == 103.0
    assert stages(leaving, 102.9, 103.0, 999.0) == [Stage.LEFT]
    assert not leaving.is_member


def test_intent_that_was_sent_out_needs_no_more_time() -> None:
    leaving = Leaving(GossipConfig.lan())
    leaving.begin(alone=False, now=10.0)
    assert leaving.go_on(intent_sent=True, now=10.4)
    assert leaving.stage is Stage.DEPARTURE


def test_last_member_waits_for_nobody() -> None:
    leaving = Leaving(GossipConfig.lan())
    leaving.begin(alone=True, now=10.0)
    assert stages(leaving, 10.0) == [Stage.DEPARTURE]
    leaving.departed(alone=True, now=10.0)
    assert stages(leaving, 10.0) == [Stage.LEFT]
