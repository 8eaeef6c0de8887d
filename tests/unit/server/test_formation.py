"""How servers agree on who makes up their storage: one cluster, or none yet."""

from collections.abc import Mapping
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.storage import MEMBER, NO_STORAGE, PROMISED, StorageMember, StorageReply
from isthmus.server.formation import PROMISE_TIME, Coordinate, Join, Promise, Wait, decide


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


def test_promise_is_kept_until_it_is_old_or_its_coordinator_begins_anew() -> None:
    promise = Promise("t1", "a", made_at=1000.0)
    assert promise.allows("t1", "a", wall=1001.0)
    assert promise.allows("t2", "a", wall=1001.0)
    assert not promise.allows("t2", "b", wall=1000.0 + PROMISE_TIME - 1)
    assert promise.allows("t2", "b", wall=1000.0 + PROMISE_TIME)
    assert promise.allows("t2", "b", wall=900.0)  # The clock was set back: it says nothing.
    assert Promise().allows("t", "x", wall=0.0)


@given(count=st.integers(2, 9), expect=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_servers_that_see_different_parts_never_start_in_two_clusters(
    count: int, expect: int, seed: int
) -> None:
    """Everyone acts on its own view, in any order; promises decide."""
    rng = Random(seed)
    names = [f"s{number}" for number in range(count)]
    promises = dict.fromkeys(names, Promise())
    cluster: dict[str, str] = {}
    for step in range(60):
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
        if isinstance(decision, Join):
            cluster[own] = cluster[decision.servers[0]]
        elif isinstance(decision, Coordinate):
            token, group = f"t{step}", [own, *decision.others]
            assert len(group) == expect
            asked = []
            for member in group:
                lost = member != own and rng.random() < 0.1
                if lost or member in cluster or not promises[member].allows(token, own, wall=step):
                    break
                promises[member] = Promise(token, own, made_at=step)
                asked.append(member)
            if asked == group:
                for member in group:
                    cluster[member] = token
            else:
                for member in asked:
                    promises[member] = Promise()
    if 2 * expect > count:
        assert len(set(cluster.values())) <= 1
