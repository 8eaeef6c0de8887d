"""What instances and nodes add to an answer: protocol/cli-config-dns.md §3.2."""

import pytest

from isthmus.dns import records
from isthmus.dns.instances import Ask, Group, healthy, node_group, service_groups, weight
from isthmus.dns.records import encode_name
from isthmus.model.catalog import (
    CRITICAL,
    PASSING,
    WARNING,
    HealthCheck,
    Node,
    NodeService,
    ServiceAddress,
    Weights,
)
from support.dns import instance


def ask(kind: int = records.A, **fields: object) -> Ask:
    return Ask("web.service.consul", kind, "consul", "dc1", 5, **fields)  # type: ignore[arg-type]


def name(text: str) -> bytes:
    return encode_name(text) or b""


def address(*packed: int, owner: bytes = b"") -> records.Record:
    return records.address(owner, bytes(packed), 5)


def srv(target: bytes, port: int = 80, share: int = 1) -> records.Record:
    return records.srv(b"", weight=share, port=port, target=target, ttl=5)


def test_critical_instances_are_left_out_and_warnings_if_wanted() -> None:
    passing, warning = instance(), instance(states=(PASSING, WARNING))
    critical, unchecked = instance(states=(PASSING, CRITICAL)), instance(states=())
    every = (passing, warning, critical, unchecked)
    assert healthy(every, only_passing=False) == [passing, warning, unchecked]
    assert healthy(every, only_passing=True) == [passing, unchecked]
    assert healthy(None, only_passing=False) == []


def test_address_is_the_service_s_else_its_node_s() -> None:
    assert service_groups([instance()], ask()) == (Group((address(10, 0, 0, 1),)),)
    assert service_groups([instance(own="10.0.0.9")], ask()) == (Group((address(10, 0, 0, 9),)),)


def test_srv_names_the_node_or_the_address() -> None:
    target = name("n1.node.dc1.consul")
    assert service_groups([instance()], ask(records.SRV)) == (
        Group((srv(target),), (address(10, 0, 0, 1, owner=target),)),
    )
    target = name("0a000009.addr.dc1.consul")
    assert service_groups([instance(own="10.0.0.9")], ask(records.SRV)) == (
        Group((srv(target),), (address(10, 0, 0, 9, owner=target),)),
    )


def test_host_name_is_an_alias() -> None:
    host = encode_name("db.example") or b""
    (group,) = service_groups([instance(own="db.example")], ask())
    assert group == Group((records.cname(b"", host, 5),), host="db.example")
    assert group.is_alias
    (group,) = service_groups([instance(own="db.example")], ask(records.SRV))
    assert group == Group((srv(host),), host="db.example")
    assert not group.is_alias


def test_service_whose_address_is_its_own_name_has_its_node_s() -> None:
    """Or its name would lead to itself."""
    groups = service_groups([instance(own="web.service.consul")], ask())
    assert groups == (Group((address(10, 0, 0, 1),)),)


def test_other_family_and_other_types_add_nothing() -> None:
    assert service_groups([instance()], ask(records.AAAA)) == ()
    assert service_groups([instance(own="fd00::9")], ask(records.A)) == ()
    assert service_groups([instance()], ask(records.TXT)) == ()
    assert len(service_groups([instance(own="fd00::9")], ask(records.ANY))) == 1


def test_same_address_is_given_once_and_the_same_port_too() -> None:
    twice = [instance(port=80), instance(port=81), instance(port=81)]
    assert len(service_groups(twice, ask())) == 1
    assert [group.answers for group in service_groups(twice, ask(records.SRV))] == [
        (srv(name("n1.node.dc1.consul"), 80),),
        (srv(name("n1.node.dc1.consul"), 81),),
    ]


def test_metadata_go_along_with_srv_records() -> None:
    groups = service_groups([instance(meta={"rack": "r1"})], ask(records.SRV))
    assert groups[0].texts == (records.txt(name("n1.node.dc1.consul"), b"rack=r1", 5),)
    silent = service_groups([instance(meta={"rack": "r1"})], ask(records.SRV, texts=False))
    assert silent[0].texts == ()


def test_from_another_datacenter_wan_addresses_and_ports_are_given() -> None:
    far = instance(
        own="10.0.0.9", service_wan=ServiceAddress(address="198.51.100.9", port=8443), dc="dc2"
    )
    target = name("c6336409.addr.dc1.consul")
    assert service_groups([far], ask(records.SRV, wan=True)) == (
        Group((srv(target, 8443),), (address(198, 51, 100, 9, owner=target),)),
    )
    # The name of a node would lead to its LAN address.
    of_node = service_groups([instance(wan="198.51.100.1")], ask(records.SRV, wan=True))
    assert of_node[0].answers == (srv(name("c6336401.addr.dc1.consul")),)


def test_node_whose_name_is_no_label_has_no_srv_record() -> None:
    assert service_groups([instance("x" * 64)], ask(records.SRV)) == ()
    assert len(service_groups([instance("x" * 64)], ask())) == 1


@pytest.mark.parametrize(
    ("states", "expected"),
    [((), 10), ((PASSING,), 10), ((PASSING, WARNING), 2), ((CRITICAL,), 0)],
)
def test_weight_follows_the_worst_check(states: tuple[str, ...], expected: int) -> None:
    service = NodeService(service="web", weights=Weights(passing=10, warning=2))
    checks = [HealthCheck(status=state, service_name="web") for state in states]
    assert weight(service, checks) == expected
    assert weight(service, [HealthCheck(status=WARNING, service_name="other")]) == 10
    assert weight(NodeService(), []) == 1


def test_node_has_its_address_and_its_metadata() -> None:
    node = Node(node="n1", address="10.0.0.1", meta={"rack": "r1"})
    text = records.txt(b"", b"rack=r1", 5)
    assert node_group(node, ask()) == Group((address(10, 0, 0, 1),), (), (text,))
    assert node_group(node, ask(records.TXT)) == Group((text,))
    assert node_group(node, ask(records.ANY)) == Group((address(10, 0, 0, 1), text))
    assert node_group(node, ask(records.AAAA, texts=False)) == Group(())


def test_node_with_a_host_name_is_an_alias() -> None:
    host = encode_name("db.example") or b""
    assert node_group(Node(node="n1", address="db.example"), ask()) == Group(
        (records.cname(b"", host, 5),), host="db.example"
    )
