"""User events as captured."""

import msgpack as library
import pytest

from isthmus.model.event import EventFireRequest, event_index
from isthmus.wire import msgpack
from support.rpc_vectors import load


def test_payload_of_a_captured_event_stays_as_it_came() -> None:
    request = msgpack.decode(EventFireRequest, load("internal-eventfire-request").body)
    assert (request.name, request.datacenter, request.allow_stale) == ("ev", "dc1", True)
    # Agents pack it by the newer specification, which has a family of its own for bytes.
    assert library.unpackb(request.payload)["p"] == b"pl"


def test_index_lays_the_halves_of_the_id_over_each_other() -> None:
    assert event_index("00000000-0000-0001-0000-000000000002") == 3
    assert event_index("51369dc4-01a5-d7b7-aab7-f9513c6c9672") == 0xFB8164953DC941C5
    assert event_index("00000000-0000-0001-0000-000000000001") == 1  # 0 would not block.


def test_index_of_what_is_no_id() -> None:
    with pytest.raises(ValueError, match="badly formed"):
        event_index("newest")
