"""Events of the subscription, beside those that a server of Consul sent."""

import json
from typing import Any

import msgspec
import pytest
from google.protobuf.json_format import MessageToDict

from isthmus.errors import MalformedPacket
from isthmus.model.catalog import (
    CheckServiceNode,
    ConnectProxyConfig,
    HealthCheck,
    HealthCheckDefinition,
    Node,
    NodeService,
    Upstream,
)
from isthmus.units import Duration
from isthmus.wire import msgpack, subscribe
from isthmus.wire.protobuf import make_messages
from isthmus.wire.subscribe import SubscribeRequest, Topic
from support import rpc_vectors

# Read with classes of their own, so that a wrong number would not cancel itself.
MESSAGES = make_messages("isthmus.test_subscribe", subscribe._FIELDS)


def capture(name: str) -> dict[str, Any]:
    path = rpc_vectors.VECTORS / "rpc" / f"{name}.json"
    vector: dict[str, Any] = json.loads(path.read_text())
    return vector


def frames(data: bytes) -> list[bytes]:
    """The messages of a gRPC stream."""
    messages = []
    while data:
        size = int.from_bytes(data[1:5])
        messages.append(data[5 : 5 + size])
        data = data[5 + size :]
    return messages


def meaning(data: bytes) -> dict[str, Any]:
    shown: dict[str, Any] = _without_empty(MessageToDict(MESSAGES["Event"].FromString(data)))
    return shown


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in ({}, "0s", "")}
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    return value


def test_request_of_consul_is_read() -> None:
    (data,) = frames(bytes.fromhex(capture("grpc-subscribe-request")["hex"]))
    request = subscribe.decode_request(data)
    assert (request.topic, request.key, request.datacenter) == (
        Topic.SERVICE_HEALTH,
        "consul",
        "dc1",
    )
    assert subscribe.encode_request(request) == data


def test_events_of_consul_are_written_alike() -> None:
    theirs = frames(bytes.fromhex(capture("grpc-subscribe-events")["hex"]))
    reply = rpc_vectors.load("health-servicenodes-response")
    nodes = msgpack.decode(reply.kind, reply.body).nodes
    assert len(nodes) == 1
    ours = subscribe.encode_updates(15, nodes, ())
    expected = meaning(theirs[0])
    assert expected["serviceHealth"]["checkServiceNode"]["checks"][0]["checkId"] == "serfHealth"
    assert meaning(ours) == expected
    assert subscribe.encode_end_of_snapshot(15) == theirs[1]


def test_every_field_of_an_instance_is_carried() -> None:
    instance = CheckServiceNode(
        node=Node(id="i", node="n", address="a", datacenter="d", meta={"m": "1"}, modify_index=9),
        service=NodeService(
            kind="connect-proxy",
            id="s1",
            service="s",
            tags=("t", "u"),
            port=80,
            proxy=ConnectProxyConfig(
                destination_service_name="x",
                config={"deep": {"n": 1, "l": [True, None]}},
                upstreams=(Upstream(destination_name="up", local_bind_port=9, config={"a": 1}),),
            ),
        ),
        checks=(
            HealthCheck(
                node="n",
                check_id="c",
                status="passing",
                definition=HealthCheckDefinition(
                    http="http://x",
                    header={"A": ("b", "c")},
                    interval=Duration.of(1.5),
                    script_args=("x", "y"),
                ),
            ),
        ),
    )
    event = MESSAGES["Event"].FromString(subscribe.encode_updates(12, (instance,), ()))
    carried = event.service_health.check_service_node
    assert (event.index, event.service_health.op) == (12, 0)
    assert (carried.node.meta["m"], carried.node.raft_index.modify_index) == ("1", 9)
    assert list(carried.service.tags) == ["t", "u"]
    proxy = carried.service.proxy
    assert MessageToDict(proxy.config) == {"deep": {"n": 1.0, "l": [True, None]}}
    assert proxy.upstreams[0].local_bind_port == 9
    definition = carried.checks[0].definition
    assert list(definition.header["A"].value) == ["b", "c"]
    assert (definition.interval.seconds, definition.interval.nanos) == (1, 500_000_000)
    assert not definition.HasField("timeout")


def test_several_updates_are_one_batch() -> None:
    one, two = (
        CheckServiceNode(node=Node(node=name), service=NodeService(id="s")) for name in "ab"
    )
    event = MESSAGES["Event"].FromString(subscribe.encode_updates(7, (one,), (two,)))
    assert not event.HasField("service_health")
    assert [
        (each.index, each.service_health.op, each.service_health.check_service_node.node.node)
        for each in event.event_batch.events
    ] == [(7, 0, "a"), (7, 1, "b")]


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(MalformedPacket, match="subscription request"):
        subscribe.decode_request(b"\x12\xff")
    assert subscribe.decode_request(b"") == SubscribeRequest(topic=0, key="")


def test_new_snapshot_is_told() -> None:
    event = MESSAGES["Event"].FromString(subscribe.encode_new_snapshot(5))
    assert event.new_snapshot_to_follow
    assert not event.end_of_snapshot
    assert msgspec.structs.asdict(subscribe.decode_request(b"\x20\x05"))["index"] == 5
