"""What our tags say, what members become in the catalog, and who is refused."""

import pytest

from isthmus.agent.members import (
    Identity,
    address_problem,
    client_tags,
    lan_member_problem,
    member_registration,
    server_tags,
    shared_id_problem,
    wan_member_problem,
)
from isthmus.federation.router import parse_server
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.model.network import Networks

BARE = Identity(
    node="s1",
    node_id="id-1",
    dc="dc1",
    rpc_port=8300,
    wan_port=-1,
    bootstrap=False,
    expect=0,
    uses_tls=False,
)


def test_tags_of_a_server_are_those_of_a_server() -> None:
    tags = server_tags(BARE, wan=True)
    found = parse_server("s1.dc1", "10.0.0.1", tags, alive=True)
    assert found is not None
    assert (found.node, found.dc, found.port, found.wan_join_port) == ("s1", "dc1", 8300, 0)
    assert found.supports_federation_states()


def test_optional_tags_stand_only_where_they_belong() -> None:
    full = Identity(
        node="s1",
        node_id="id-1",
        dc="dc1",
        rpc_port=8300,
        wan_port=8302,
        bootstrap=True,
        expect=3,
        uses_tls=True,
    )
    bare = server_tags(BARE, wan=False)
    added = {"bootstrap": "1", "expect": "3", "use_tls": "1"}
    assert server_tags(full, wan=True) == bare | added
    assert server_tags(full, wan=False) == bare | added | {"wan_join_port": "8302"}


def test_tags_of_a_client() -> None:
    """protocol/gossip.md §14.2."""
    tags = client_tags(BARE)
    server = server_tags(BARE, wan=False)
    common = {"dc", "segment", "id", "vsn", "vsn_min", "vsn_max", "build", "acls"}
    assert tags == {"role": "node"} | {name: server[name] for name in common}
    assert parse_server("c1", "10.0.0.1", tags, alive=True) is None
    assert client_tags(BARE, reconnect_timeout=5400) == tags | {"rc_tm": "1h30m0s"}


@pytest.mark.parametrize(("alive", "status"), [(True, "passing"), (False, "critical")])
def test_member_becomes_a_node_with_its_health(alive: bool, status: str) -> None:
    tags = server_tags(BARE, wan=False)
    server = parse_server("s1", "10.0.0.1", tags, alive=alive)
    written = member_registration(
        node="s1", address="10.0.0.1", tags=tags, server=server, alive=alive
    )
    assert (written.datacenter, written.id, written.node) == ("dc1", "id-1", "s1")
    assert written.check is not None
    assert (written.check.check_id, written.check.status) == ("serfHealth", status)
    assert written.service is not None
    assert (written.service.service, written.service.port) == ("consul", 8300)
    assert written.skip_node_update


def problem(name: str, **tags: str) -> str:
    return lan_member_problem(name, tags, own_name="s1", own_id="id-1", dc="dc1")


def test_who_may_be_in_the_lan_pool() -> None:
    """protocol/gossip.md §14.3."""
    assert problem("x") == ""
    assert problem("c1", role="node", dc="dc1", id="id-2") == ""
    assert problem("S1", role="consul", dc="dc1", id="id-1") == ""
    assert problem("x", role="node", dc="dc9") == "Member 'x' part of wrong datacenter 'dc9'"
    assert problem("x", role="node", dc="dc1", segment="alpha") == (
        "Member 'x' part of wrong segment 'alpha' (expected '')"
    )
    assert problem("x", role="node", dc="dc1", id="id-1") == (
        "Member 'x' has conflicting node ID 'id-1' with this agent's ID"
    )


def test_only_servers_may_be_in_the_wan_pool() -> None:
    tags = server_tags(BARE, wan=True)
    server = parse_server("s1.dc1", "10.0.0.1", tags, alive=True)
    assert wan_member_problem("s1.dc1", tags, server) == ""
    assert wan_member_problem("x", {}, None) == "Member 'x' is not a server"


def test_list_in_which_two_members_share_an_id_is_refused() -> None:
    def member(name: str, own_id: str, status: MemberStatus = MemberStatus.ALIVE) -> Member:
        return Member(name=name, address="10.0.0.1", port=1, tags={"id": own_id}, status=status)

    assert shared_id_problem([member("a", "1"), member("b", "2"), member("c", "")]) is None
    assert shared_id_problem([member("a", "1", MemberStatus.LEFT), member("b", "1")]) is None
    assert shared_id_problem([member("d1", "1"), member("d2", "1")]) == (
        "Member 'd2' has conflicting node ID '1' with member 'd1'"
    )


def test_member_of_a_network_that_is_not_allowed_is_refused() -> None:
    allowed = Networks(["10.0.0.0/8"])
    members = [
        Member(name=name, address=address, port=8301, tags={}, status=MemberStatus.ALIVE)
        for name, address in (("s1", "172.16.0.1"), ("c1", "10.0.0.2"), ("c2", "172.16.0.3"))
    ]

    def problem(networks: Networks, members: list[Member]) -> str | None:
        return address_problem(members, networks, own_name="s1", key="serf_lan_allowed_cidrs")

    assert problem(allowed, members[:2]) is None  # We ourselves are in it anyway.
    assert problem(allowed, members) == (
        "Member 'c2': 172.16.0.3 is not allowed by serf_lan_allowed_cidrs"
    )
    assert problem(Networks([]), members) is None
