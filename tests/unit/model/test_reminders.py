"""What was said is said again in time, and what is forgotten is bounded."""

from isthmus.model.reminders import Reminders


def test_the_same_is_said_again_after_the_interval() -> None:
    reminders = Reminders(60.0)
    assert reminders.due("full", now=-5.0)
    assert not reminders.due("full", now=54.9)
    assert reminders.due("slow", now=54.9)
    assert reminders.due("full", now=55.0)
    assert not reminders.due("full", now=114.0)


def test_what_is_forgotten_is_said_at_once() -> None:
    reminders = Reminders(60.0)
    assert reminders.due(now=0.0)
    assert not reminders.due(now=1.0)
    reminders.forget()
    assert reminders.due(now=2.0)


def test_the_oldest_is_forgotten_first() -> None:
    reminders = Reminders(60.0, size_max=2)
    for what in "abc":
        assert reminders.due(what, now=0.0)
    assert not reminders.due("c", now=1.0)
    assert not reminders.due("b", now=1.0)
    assert reminders.due("a", now=1.0)
