"""Sessions on both wires."""

from isthmus.model.session import Session, SessionSpecificRequest
from isthmus.units import Duration
from isthmus.wire import gojson, msgpack


def test_lock_delay_is_a_number_on_both_wires() -> None:
    session = Session(id="s", lock_delay=Duration.of(15))
    assert b"\xa9LockDelay\xcf\x00\x00\x00\x03\x7e\x11\xd6\x00" in msgpack.encode(session)
    assert b'"LockDelay":15000000000,' in gojson.encode(session)


def test_old_checks_are_shown_only_when_given() -> None:
    assert b'"Checks"' not in gojson.encode(Session())
    assert b'"Checks":["c"]' in gojson.encode(Session(checks=("c",)))


def test_id_of_a_read_stands_twice() -> None:
    plain = msgpack.to_plain(SessionSpecificRequest(session_id="s", session="s"))
    assert isinstance(plain, dict)
    assert (plain["SessionID"], plain["Session"]) == ("s", "s")
