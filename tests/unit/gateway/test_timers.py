from isthmus.gateway.timers import Timers


def make_timers(delay: float = 5.0) -> tuple[Timers[str], list[str]]:
    expired: list[str] = []
    return Timers(delay, expired.append), expired


def test_timers_expire_in_order_when_due() -> None:
    timers, expired = make_timers()
    timers.start("a", now=0.0)
    timers.start("b", now=1.0)
    assert timers.next_timer() == 5.0
    timers.handle_timer(now=4.9)
    assert expired == []
    timers.handle_timer(now=5.0)
    assert (expired, timers.next_timer()) == (["a"], 6.0)
    timers.handle_timer(now=100.0)
    assert (expired, timers.next_timer(), len(timers)) == (["a", "b"], None, 0)


def test_timer_started_again_runs_its_whole_delay() -> None:
    timers, expired = make_timers()
    timers.start("a", now=0.0)
    timers.start("b", now=1.0)
    timers.start("a", now=2.0)
    assert timers.oldest() == "b"
    timers.handle_timer(now=6.5)
    assert expired == ["b"]


def test_stopped_timer_does_not_expire() -> None:
    timers, expired = make_timers()
    timers.start("a", now=0.0)
    timers.stop("a")
    timers.stop("never started")
    timers.handle_timer(now=10.0)
    assert expired == []


def test_timer_that_its_own_end_starts_again_waits_for_the_next_call() -> None:
    def again(key: str) -> None:
        ends.append(key)
        timers.start(key, now=0.0)

    ends: list[str] = []
    timers: Timers[str] = Timers(1.0, again)
    timers.start("a", now=0.0)
    timers.handle_timer(now=50.0)
    assert ends == ["a"]


def test_none_is_a_key_like_any_other() -> None:
    ended: list[None] = []
    timers: Timers[None] = Timers(1.0, ended.append)
    timers.start(None, now=0.0)
    timers.handle_timer(now=1.0)
    assert ended == [None]
