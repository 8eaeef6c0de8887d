"""How servers agree on who makes up their storage: one cluster, or none yet."""

from collections.abc import Mapping
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.model.storage import MEMBER, NO_STORAGE, PROMISED, StorageMember, StorageReply
from isthmus.server.formation import (
    PROMISE_TIME,
    Coordinate,
    Join,
    Promise,
    Promises,
    Torn,
    Wait,
    decide,
)


def reply(node: str, *, state: str = NO_STORAGE, expect: int = 3) -> StorageReply:
    return StorageReply(member=StorageMember(server_id=node, node=node), state=state, expect=expect)


def answers(*nodes: str, state: str = NO_STORAGE, expect: int = 3) -> dict[str, StorageReply]:
    return {node: reply(node, state=state, expect=expect) for node in nodes}


def test_lowest_of_the_expected_servers_coordinates() -> None:
    assert decide(own_id="a", expect=3, answers=answers("b", "c")) == Coordinate(("b", "c"))
    assert decide(own_id="b", expect=3, answers=answers("a", "c")) == Wait(
        "server a forms the storage cluster"
    )


def test_more_servers_than_expected_make_no_larger_cluster() -> None:
    assert decide(own_id="a", expect=3, answers=answers("b", "c", "d", "e")) == Coordinate(
        ("b", "c")
    )


def test_too_few_servers_wait_and_say_who_is_missing() -> None:
    found = decide(own_id="a", expect=3, answers={"b": reply("b"), "c": None})
    assert found == Wait("2 of 3 servers (bootstrap_expect) are there; do not answer yet: c")
    found = decide(own_id="a", expect=3, answers={"b": reply("b"), "c": reply("c", expect=5)})
    assert found == Wait(
        "2 of 3 servers (bootstrap_expect) are there; expect another number: c (5)"
    )


def test_a_cluster_that_exists_is_joined_and_none_is_formed_beside_it() -> None:
    known: Mapping[str, StorageReply | None] = {
        **answers("b", "c"),
        **answers("z", state=MEMBER),
    }
    for expect in (0, 1, 3, 7):
        assert decide(own_id="a", expect=expect, answers=known) == Join(("z",))


def test_server_joins_neither_of_two_clusters() -> None:
    def member(node: str, token: str) -> StorageReply:
        return replace(reply(node, state=MEMBER), token=token)

    known = {"c": member("c", "t1"), "b": member("b", "t2"), "a": member("a", "t1"), "d": None}
    assert decide(own_id="e", expect=3, answers=known) == Torn((("a", "c"), ("b",)))
    known = {"c": member("c", "t1"), "b": reply("b", state=PROMISED), "a": member("a", "t1")}
    assert decide(own_id="e", expect=3, answers=known) == Join(("a", "c"))


def test_server_that_expects_nothing_only_joins() -> None:
    found = decide(own_id="a", expect=0, answers=answers("b", "c"))
    assert isinstance(found, Wait)
    assert "bootstrap_expect is not set here" in found.reason


def test_alone_is_enough_where_one_is_expected() -> None:
    assert decide(own_id="a", expect=1, answers={}) == Coordinate(())


def test_silent_server_with_a_lower_id_is_waited_for() -> None:
    """It may be a member of a cluster, or coordinate itself."""
    found = decide(own_id="b", expect=2, answers={"a": None, "c": reply("c", expect=2)})
    assert found == Wait("server a has yet to say whether it has data")


def promise(token: str, members: str, *, at: float = 1000.0) -> Promise:
    """Made by the first of the members, one letter each."""
    return Promise(token, members[0], at, tuple(members))


def test_promise_is_kept_until_it_is_old_or_its_coordinator_begins_anew() -> None:
    first = promise("t1", "abc")
    held = Promises((first,))
    assert held.obstacle(promise("t1", "abc", at=1001.0)) is None
    assert held.obstacle(promise("t2", "acd", at=1001.0)) is None
    assert held.obstacle(promise("t2", "bcd", at=1000.0 + PROMISE_TIME - 1)) == first
    assert held.obstacle(promise("t2", "bcd", at=1000.0 + PROMISE_TIME)) is None
    assert held.obstacle(promise("t2", "bcd", at=900.0)) is None  # The clock was set back.
    assert Promises().obstacle(promise("t", "xyz", at=0.0)) is None


def test_old_promise_is_not_broken_for_a_cluster_beside_which_it_could_be_kept() -> None:
    """Of a, b and c, a may have told b to start: then they are a majority without us."""
    first, late = promise("t1", "abc"), 2000.0
    held = Promises((first,))
    assert held.obstacle(promise("t2", "cde", at=late)) == first
    assert held.obstacle(promise("t2", "bcd", at=late)) is None
    assert held.obstacle(promise("t2", "dbc", at=late)) is None
    of_five = Promises((promise("t1", "abcde"),))
    assert of_five.obstacle(promise("t2", "defgh", at=late)) is not None
    assert of_five.obstacle(promise("t2", "cdefg", at=late)) is None
    unknown = Promises((Promise("t1", "a", 1000.0),))
    assert unknown.obstacle(promise("t2", "bcd", at=late)) is not None


def test_promise_that_was_put_aside_counts_again_when_the_later_one_is_cancelled() -> None:
    held = Promises((promise("t1", "abc"),)).adding(promise("t2", "bcd", at=1100.0))
    assert held.token == "t2"
    assert held.without("t2").token == "t1"
    assert held.without("t1").token == "t2"
    assert held.without("t2").without("t1") == Promises()
    # What its coordinator gave up is forgotten; the other one is not.
    again = held.adding(promise("t3", "bcd", at=1200.0))
    assert [each.token for each in again.held] == ["t1", "t3"]
    assert held.obstacle(promise("t4", "cde", at=9999.0)) is not None


@given(count=st.integers(2, 9), expect=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_servers_that_see_different_parts_never_make_two_clusters(
    count: int, expect: int, seed: int
) -> None:
    """Everyone acts on its own view, in any order, for as long as it likes; promises decide.

    Whoever has promised may be told to start much later, or never. Two clusters are made when
    more than half of the members of each have started.
    """
    rng = Random(seed)
    names = [f"s{number}" for number in range(count)]
    promises = dict.fromkeys(names, Promises())
    plans: dict[str, list[str]] = {}
    cluster: dict[str, str] = {}
    clock = 0.0
    for step in range(80):
        clock += rng.choice([1.0, 5.0, 70.0])
        if plans and rng.random() < 0.4:
            token = rng.choice(list(plans))
            member = rng.choice(plans[token])
            if member not in cluster and promises[member].token == token:
                cluster[member] = token
            continue
        own = rng.choice(names)
        if own in cluster:
            continue
        view: dict[str, StorageReply | None] = {}
        for other in names:
            if other != own:
                seen = rng.random()
                if seen < 0.2:
                    continue
                state = MEMBER if other in cluster else PROMISED if promises[other].token else ""
                view[other] = None if seen < 0.4 else reply(other, state=state, expect=expect)
        decision = decide(own_id=own, expect=expect, answers=view)
        if isinstance(decision, Coordinate):
            token, group = f"t{step}", (own, *decision.others)
            assert len(group) == expect
            new = Promise(token, own, clock, group)
            asked = []
            for member in group:
                lost = member != own and rng.random() < 0.1
                if lost or member in cluster or promises[member].obstacle(new):
                    break
                promises[member] = promises[member].adding(new)
                asked.append(member)
            if asked == list(group):
                plans[token], cluster[own] = list(group), token
            else:
                for member in asked:
                    if member == own or rng.random() < 0.8:
                        promises[member] = promises[member].without(token)
    if 2 * expect > count:
        started = {token: list(cluster.values()).count(token) for token in plans}
        made = [token for token, number in started.items() if 2 * number > expect]
        assert len(made) <= 1
