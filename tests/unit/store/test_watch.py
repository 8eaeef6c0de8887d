"""Watches wake exactly those concerned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.store.watch import TooManyWatches, Topic, Watches, table_topic

KEYS = st.text(alphabet="ab/", max_size=4).map(str.encode)


def make_log(watches: Watches, *topics: Topic) -> list[str]:
    log: list[str] = []
    watches.register(topics, lambda: log.append("woken"))
    return log


def test_reader_wakes_once_for_several_topics_of_its_own() -> None:
    watches = Watches()
    log = make_log(watches, Topic("service", b"web"), table_topic("services"))
    assert watches.wake([Topic("service", b"web"), table_topic("services")]) == 1
    assert watches.wake([Topic("service", b"web")]) == 0
    assert log == ["woken"]
    assert len(watches) == 0


def test_reader_of_another_service_sleeps_on() -> None:
    watches = Watches()
    log = make_log(watches, Topic("service", b"db"))
    watches.wake([Topic("service", b"web"), Topic("kv", b"db")])
    assert log == []


@given(watched=KEYS, prefix=st.booleans(), written=KEYS)
def test_prefix_wakes_for_keys_under_it(watched: bytes, prefix: bool, written: bytes) -> None:
    watches = Watches()
    log = make_log(watches, Topic("kv", watched, prefix))
    watches.wake([Topic("kv", written)])
    concerned = written.startswith(watched) if prefix else written == watched
    assert log == (["woken"] if concerned else [])


def test_cancelled_reader_is_forgotten_and_may_be_cancelled_again() -> None:
    watches = Watches()
    watch = watches.register((Topic("kv", b"a", True), Topic("kv", b"b")), lambda: None)
    watches.cancel(watch)
    watches.cancel(watch)
    assert len(watches) == 0
    assert watches.wake([Topic("kv", b"a/b"), Topic("kv", b"b")]) == 0
    assert watches._waiting == {}
    assert watches._prefix_lengths == {"kv": {}}


def test_readers_have_a_bound() -> None:
    watches = Watches(watches_max=2)
    first = watches.register((Topic("kv", b"a"),), lambda: None)
    watches.register((Topic("kv", b"a"),), lambda: None)
    with pytest.raises(TooManyWatches, match="max: 2"):
        watches.register((Topic("kv", b"a"),), lambda: None)
    watches.cancel(first)
    watches.register((Topic("kv", b"a"),), lambda: None)
    assert len(watches) == 2


def test_all_can_be_woken() -> None:
    watches = Watches()
    logs = [make_log(watches, Topic("kv", b"%d" % number, True)) for number in range(3)]
    assert watches.wake_all() == 3
    assert logs == [["woken"]] * 3
    assert len(watches) == 0


def test_reader_may_wait_again_from_its_notification() -> None:
    watches, log = Watches(), list[str]()

    def again() -> None:
        log.append("woken")
        watches.register((Topic("kv", b"a"),), again)

    again()
    watches.wake([Topic("kv", b"a")])
    assert log == ["woken", "woken"]
    assert len(watches) == 1
