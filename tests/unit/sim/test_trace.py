import logging

from isthmus.sim.loop import HostLoop, Timeline
from isthmus.sim.trace import LINES_MAX, Trace, TraceHandler


def make_trace() -> tuple[Trace, list[str]]:
    lines: list[str] = []
    return Trace(lambda: 1.5, sink=lines.append), lines


def test_lines_carry_the_moment_and_make_the_digest() -> None:
    trace, lines = make_trace()
    other, _ = make_trace()
    assert trace.digest == other.digest
    trace.add("tcp", "a b 10")
    assert lines == ["1.500000000 tcp a b 10"]
    assert trace.digest != other.digest
    other.add("tcp", "a b 10")
    assert (trace.digest, trace.count) == (other.digest, 1)


def test_digest_covers_lines_that_are_not_kept() -> None:
    trace, _ = make_trace()
    other, _ = make_trace()
    other.add("tcp", "first")
    for number in range(LINES_MAX):
        trace.add("tcp", str(number))
        other.add("tcp", str(number))
    assert list(trace.latest) == list(other.latest)
    assert trace.digest != other.digest


def test_text_that_is_no_unicode_is_taken_down_too() -> None:
    trace, lines = make_trace()
    trace.add("log", "bad \udc80 name")
    assert trace.count == len(lines) == len(trace.logged) == 1


def _log(loop: HostLoop, logger: logging.Logger) -> None:
    def fail() -> None:
        try:
            raise ValueError("why")
        except ValueError:
            logger.exception("said by %s", loop.name)

    loop.call_soon_threadsafe(fail)
    loop.turn()


def test_only_processes_of_the_simulation_that_are_not_muted_are_heard() -> None:
    timeline = Timeline()
    heard, muted = timeline.loop("heard"), timeline.loop("muted")
    trace, lines = make_trace()
    handler = TraceHandler(trace, {muted}.__contains__)
    logger = logging.getLogger("test of the trace")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        logger.error("outside")
        _log(muted, logger)
        _log(heard, logger)
    finally:
        logger.removeHandler(handler)
        timeline.close()
    text = "heard ERROR test of the trace: said by heard: ValueError('why')"
    assert lines == [f"1.500000000 log {text}"]
