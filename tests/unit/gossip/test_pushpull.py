import pytest

from isthmus.gossip.members import OUR_VSN
from isthmus.gossip.pushpull import scaled_interval, version_conflict
from isthmus.wire.memberlist import NodeState, NodeStatus


def state(name: str, vsn: bytes, status: NodeStatus = NodeStatus.ALIVE) -> NodeState:
    return NodeState(name=name, addr=bytes(4), port=1, state=status, vsn=vsn)


OURS = (state("we", OUR_VSN),)


@pytest.mark.parametrize(("size", "factor"), [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3)])
def test_large_pools_exchange_less_often(size: int, factor: int) -> None:
    assert scaled_interval(30.0, member_count=size) == 30.0 * factor


def test_versions_of_the_field_go_together() -> None:
    serf = bytes((1, 5, 2, 2, 5, 5))
    assert version_conflict(OURS, [state("x", serf)]) is None


def test_foreign_versions_are_named_as_memberlist_names_them() -> None:
    """protocol/gossip.md §3."""
    assert version_conflict(OURS, [state("x", bytes((1, 5, 9, 2, 5, 4)))]) == (
        "Node 'x' protocol version (9) is incompatible: [1, 5]"
    )
    assert version_conflict(OURS, [state("x", bytes((1, 5, 2, 2, 5, 9)))]) == (
        "Node 'x' delegate protocol version (9) is incompatible: [2, 5]"
    )


def test_the_dead_and_the_malformed_have_no_say() -> None:
    strange = bytes((7, 9, 9, 7, 9, 9))
    assert version_conflict(OURS, [state("x", strange, NodeStatus.DEAD)]) is None
    assert version_conflict(OURS, [state("x", b""), state("y", strange[:3])]) is None
