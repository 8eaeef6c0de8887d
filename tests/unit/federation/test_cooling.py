"""Who cools down, and for how long."""

from isthmus.federation.cooling import COOLING_FIRST, COOLING_MAX, Cooling


def cooling_times(cooling: Cooling, *, failures: int) -> list[float]:
    """Seconds after each of several failures until a server has cooled down."""
    now, found = 0.0, []
    for _ in range(failures):
        cooling.failed("a", now=now)
        end = now
        while cooling.is_cooling("a", now=end):
            end += 0.5
        found.append(end - now)
        now = end
    return found


def test_server_cools_down_for_longer_after_each_failure() -> None:
    assert cooling_times(Cooling(), failures=6) == [5, 10, 20, 40, 60, 60]
    assert (COOLING_FIRST, COOLING_MAX) == (5, 60)


def test_calls_that_fail_together_are_one_failure() -> None:
    cooling = Cooling()
    for moment in (0.0, 0.1, 4.9):
        cooling.failed("a", now=moment)
    assert not cooling.is_cooling("a", now=5.0)


def test_writes_come_back_later_than_reads() -> None:
    cooling = Cooling()
    cooling.failed("a", now=0.0)
    assert cooling.is_cooling("a", now=64.9, repeatable=False)
    assert not cooling.is_cooling("a", now=65.0, repeatable=False)
    cooling.failed("a", now=5.0)
    cooling.forget("a")
    assert not cooling.is_cooling("a", now=5.0, repeatable=False)


def test_who_answered_starts_anew() -> None:
    cooling = Cooling()
    cooling_times(cooling, failures=3)
    cooling.forget("a")
    assert not cooling.is_cooling("a", now=0.0)
    assert cooling_times(cooling, failures=1) == [5]


def test_only_who_failed_cools_down() -> None:
    cooling = Cooling()
    cooling.failed("a", now=0.0)
    assert not cooling.is_cooling("b", now=0.0)
