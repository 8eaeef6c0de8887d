"""Events of the state change subscription, which Consul's agents follow a service's health by.

A field of a message has the name of the record's attribute that it carries; only its number is
on the wire. Source: protocol/rpc.md §9.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from isthmus.errors import MalformedPacket
from isthmus.model.catalog import CheckServiceNode
from isthmus.model.record import Record
from isthmus.units import SECOND, Duration
from isthmus.wire.protobuf import make_messages

METHOD: Final = "/subscribe.StateChangeSubscription/Subscribe"
"""Path of the only method."""

_FIELDS: Final[Mapping[str, str]] = {
    "SubscribeRequest": "topic:int32=1 key:string=2 token:string=3 index:uint64=4 "
    "datacenter:string=5 namespace:string=6",
    "Event": "index:uint64=1 end_of_snapshot:bool=2 new_snapshot_to_follow:bool=3 "
    "event_batch:EventBatch=4 service_health:ServiceHealthUpdate=10",
    "EventBatch": "events:Event*=1",
    "ServiceHealthUpdate": "op:int32=1 check_service_node:CheckServiceNode=2",
    "CheckServiceNode": "node:Node=1 service:NodeService=2 checks:HealthCheck*=3",
    "RaftIndex": "create_index:uint64=1 modify_index:uint64=2",
    "Node": "id:string=1 node:string=2 address:string=3 datacenter:string=4 "
    "tagged_addresses:string{}=5 meta:string{}=6 raft_index:RaftIndex=7",
    "NodeService": "kind:string=1 id:string=2 service:string=3 tags:string*=4 address:string=5 "
    "meta:string{}=6 port:int32=7 weights:Weights=8 enable_tag_override:bool=9 "
    "proxy:ConnectProxyConfig=11 connect:ServiceConnect=12 "
    "locally_registered_as_sidecar:bool=13 raft_index:RaftIndex=14 "
    "tagged_addresses:ServiceAddress{}=15 socket_path:string=17",
    "ServiceAddress": "address:string=1 port:int32=2",
    "Weights": "passing:int32=1 warning:int32=2",
    "ServiceConnect": "native:bool=1",
    "ConnectProxyConfig": "destination_service_name:string=1 destination_service_id:string=2 "
    "local_service_address:string=3 local_service_port:int32=4 config:Struct=5 "
    "upstreams:Upstream*=6 mesh_gateway:MeshGatewayConfig=7 expose:ExposeConfig=8 mode:string=9 "
    "transparent_proxy:TransparentProxyConfig=10 local_service_socket_path:string=11",
    "Upstream": "destination_type:string=1 destination_namespace:string=2 "
    "destination_name:string=3 datacenter:string=4 local_bind_address:string=5 "
    "local_bind_port:int32=6 config:Struct=7 mesh_gateway:MeshGatewayConfig=8 "
    "centrally_configured:bool=9 local_bind_socket_path:string=10 local_bind_socket_mode:string=11",
    "MeshGatewayConfig": "mode:string=1",
    "ExposeConfig": "checks:bool=1 paths:ExposePath*=2",
    "ExposePath": "listener_port:int32=1 path:string=2 local_path_port:int32=3 protocol:string=4 "
    "parsed_from_check:bool=5",
    "TransparentProxyConfig": "outbound_listener_port:int32=1 dialed_directly:bool=2",
    "HealthCheck": "node:string=1 check_id:string=2 name:string=3 status:string=4 notes:string=5 "
    "output:string=6 service_id:string=7 service_name:string=8 service_tags:string*=9 "
    "definition:HealthCheckDefinition=10 raft_index:RaftIndex=11 type:string=12 "
    "exposed_port:int32=14 interval:string=15 timeout:string=16",
    "HealthCheckDefinition": "http:string=1 tls_skip_verify:bool=2 header:HeaderValue{}=3 "
    "method:string=4 tcp:string=5 interval:Duration=6 timeout:Duration=7 "
    "deregister_critical_service_after:Duration=8 output_max_size:uint32=9 script_args:string*=10 "
    "docker_container_id:string=11 shell:string=12 grpc:string=13 grpc_use_tls:bool=14 "
    "alias_node:string=15 alias_service:string=16 ttl:Duration=17 body:string=18 "
    "tls_server_name:string=19 h2ping:string=20 disable_redirects:bool=22",
    "HeaderValue": "value:string*=1",
}
_MESSAGES: Final = make_messages("isthmus.subscribe", _FIELDS)


class Topic(IntEnum):
    """What can be followed."""

    SERVICE_HEALTH = 1
    CONNECT_HEALTH = 2
    """Proxies of a service, and what of it speaks the mesh's TLS itself."""


class SubscribeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscriber wants to follow.

    Attributes:
        topic: Number of a `Topic`, or of one that we do not know.
        key: Name of the service.
        index: Of the data that it has; 0 for none.
        datacenter: Whose; empty for ours.
        token: ACL token.
    """

    topic: int
    key: str
    index: int = 0
    datacenter: str = ""
    token: str = ""


_REGISTER, _DEREGISTER = 0, 1


def decode_request(data: bytes) -> SubscribeRequest:
    """Read a request.

    Raises:
        MalformedPacket: It is none.
    """
    message = _MESSAGES["SubscribeRequest"]()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MalformedPacket(f"subscription request: {error}") from error
    return SubscribeRequest(
        topic=message.topic,
        key=message.key,
        index=message.index,
        datacenter=message.datacenter,
        token=message.token,
    )


def encode_request(request: SubscribeRequest) -> bytes:
    """Write a request."""
    return bytes(
        _MESSAGES["SubscribeRequest"](**msgspec.structs.asdict(request)).SerializeToString()
    )


def encode_end_of_snapshot(index: int) -> bytes:
    """The event behind the last one of a snapshot."""
    return _event(index, end_of_snapshot=True)


def encode_new_snapshot(index: int) -> bytes:
    """The event that tells a subscriber to drop what it has: a snapshot follows."""
    return _event(index, new_snapshot_to_follow=True)


def encode_updates(
    index: int, changed: tuple[CheckServiceNode, ...], gone: tuple[CheckServiceNode, ...]
) -> bytes:
    """An event that some instances of a service are now as given, and that others are gone.

    A single one stands by itself, several in a batch.
    """
    updates = [(_REGISTER, each) for each in changed] + [(_DEREGISTER, each) for each in gone]
    whole = _MESSAGES["Event"](index=index)
    for operation, each in updates:
        event = whole if len(updates) == 1 else whole.event_batch.events.add(index=index)
        event.service_health.op = operation
        _fill(event.service_health.check_service_node, each)
    return bytes(whole.SerializeToString())


def _event(index: int, **fields: Any) -> bytes:
    return bytes(_MESSAGES["Event"](index=index, **fields).SerializeToString())


def _fill(message: Any, record: Record) -> None:
    """Set a message's fields from the record's attributes of the same names."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "raft_index":
            message.raft_index.create_index = getattr(record, "create_index", 0)
            message.raft_index.modify_index = getattr(record, "modify_index", 0)
            continue
        value: Any = getattr(record, field.name)
        if value is None:
            continue
        if isinstance(value, Record):
            _fill(getattr(message, field.name), value)
        elif isinstance(value, tuple):
            _fill_list(getattr(message, field.name), value)
        elif isinstance(value, dict):
            _fill_map(message, field, value)
        elif isinstance(value, Duration):
            if value:
                length = getattr(message, field.name)
                length.seconds, length.nanos = divmod(int(value), SECOND)
        else:
            setattr(message, field.name, value)


def _fill_list(items: Any, values: tuple[Any, ...]) -> None:
    for value in values:
        if isinstance(value, Record):
            _fill(items.add(), value)
        else:
            items.append(value)


def _fill_map(message: Any, field: Any, values: dict[str, Any]) -> None:
    if field.message_type.full_name == "google.protobuf.Struct":
        json_format.ParseDict(msgspec.to_builtins(values), getattr(message, field.name))
        return
    target = getattr(message, field.name)
    for key, value in values.items():
        if isinstance(value, Record):
            _fill(target[key], value)
        elif isinstance(value, tuple):
            target[key].value.extend(value)
        else:
            target[key] = value
