"""Serf's half of a push/pull: encoded once, and recognised when it comes back."""

from msgspec.structs import replace

from isthmus.gossip.recent import RecentEvents
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.gossip.userstate import UserState
from isthmus.wire import serf as wire


def member(name: str, *, ltime: int = 3, status: MemberStatus = MemberStatus.ALIVE) -> Member:
    return Member(name=name, address="10.0.0.1", port=1, tags={}, status=status, status_ltime=ltime)


class Teller:
    """A user state with what it is made of."""

    def __init__(self, *members: Member) -> None:
        self.members, self.events, self.state = members, RecentEvents(4), UserState()
        self.ltime = 5

    def tell(self) -> bytes:
        return self.state.encode(
            self.members, self.events, ltime=self.ltime, event_ltime=2, query_ltime=1
        )

    def told(self) -> wire.SerfPushPull:
        message = wire.decode_message(self.tell())
        assert isinstance(message, wire.SerfPushPull)
        return message


def test_state_tells_clocks_and_status_times_in_order_of_names() -> None:
    told = Teller(member("b"), member("a", status=MemberStatus.LEFT)).told()
    assert list(told.status_ltimes.items()) == [("a", 3), ("b", 3)]
    assert told.left_members == ("a",)
    assert (told.ltime, told.event_ltime, told.query_ltime) == (5, 2, 1)


def test_time_of_a_leave_under_way_is_not_told_before_the_leave() -> None:
    teller = Teller(member("a", status=MemberStatus.LEAVING))
    assert teller.told().status_ltimes == {"a": 2}


def test_state_is_encoded_anew_only_after_a_change() -> None:
    teller = Teller(member("a"))
    first = teller.tell()
    assert teller.tell() is first
    teller.members = (member("a"),)
    assert teller.tell() is first, "another object that says the same"
    teller.members = (replace(teller.members[0], status_ltime=4),)
    second = teller.tell()
    assert second != first
    teller.ltime = 6
    third = teller.tell()
    assert third != second
    teller.events.add(1, wire.UserEventBody(name="deploy"), clock=2)
    assert teller.tell() != third


def test_own_state_from_a_peer_tells_nothing_another_does() -> None:
    teller = Teller(member("a"))
    same = bytes(bytearray(teller.tell()))
    assert teller.state.tells_nothing(same)
    assert teller.tell() is same, "both are kept once"
    assert not teller.state.tells_nothing(same + b"x")


def test_state_with_members_that_left_always_counts() -> None:
    teller = Teller(member("a", status=MemberStatus.LEFT))
    assert not teller.state.tells_nothing(teller.tell())
