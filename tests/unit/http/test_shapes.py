"""Where records have None and JSON has an empty list or object."""

from isthmus.http import shapes
from isthmus.model.catalog import CheckServiceNode, HealthCheck, Node, NodeService, ServiceNode


def test_checks_have_a_list_of_tags() -> None:
    bare, tagged = HealthCheck(check_id="a"), HealthCheck(check_id="b", service_tags=("t",))
    assert shapes.checks([bare, tagged]) == [HealthCheck(check_id="a", service_tags=()), tagged]
    assert shapes.checks(None) == []


def test_services_have_a_list_of_tags_and_may_have_no_metadata() -> None:
    assert shapes.service(NodeService(id="a")) == NodeService(id="a", tags=())
    tagged = NodeService(id="a", tags=("t",))
    assert shapes.service(tagged) is tagged


def test_instances_have_lists_throughout() -> None:
    node = Node(node="n")
    found = [
        CheckServiceNode(node=node, service=NodeService(id="a"), checks=(HealthCheck(),)),
        CheckServiceNode(node=node),
    ]
    assert shapes.instances(found) == [
        CheckServiceNode(
            node=node,
            service=NodeService(id="a", tags=()),
            checks=(HealthCheck(service_tags=()),),
        ),
        CheckServiceNode(node=node, service=None, checks=()),
    ]
    assert shapes.instances(None) == []


def test_flat_instances_have_a_list_of_tags_and_an_object_of_metadata() -> None:
    full = ServiceNode(service_tags=("t",), service_meta={"a": "b"})
    half = ServiceNode(service_tags=("t",))
    assert shapes.service_nodes([ServiceNode(), half, full]) == [
        ServiceNode(service_tags=(), service_meta={}),
        ServiceNode(service_tags=("t",), service_meta={}),
        full,
    ]
    assert shapes.service_nodes(None) == []
