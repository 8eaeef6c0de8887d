"""User events as captured."""

import msgpack as library

from isthmus.model.event import EventFireRequest
from isthmus.wire import msgpack
from support.rpc_vectors import load


def test_payload_of_a_captured_event_stays_as_it_came() -> None:
    request = msgpack.decode(EventFireRequest, load("internal-eventfire-request").body)
    assert (request.name, request.datacenter, request.allow_stale) == ("ev", "dc1", True)
    # Agents pack it by the newer specification, which has a family of its own for bytes.
    assert library.unpackb(request.payload)["p"] == b"pl"
