"""Consul's user events: its bytes are ours, in both directions."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.model.event import UserEvent
from isthmus.wire.user_event import decode_user_event, encode_user_event

VECTOR = json.loads(
    (Path(__file__).parents[2] / "vectors/gossip/33-consul-user-event.json").read_text()
)
PAYLOADS = [
    bytes.fromhex(message["serf"]["body"]["Payload"].removeprefix("0x"))
    for message in VECTOR["messages"]
]
DEPLOY = UserEvent(
    id="51369dc4-01a5-d7b7-aab7-f9513c6c9672", name="deploy", payload=b"hello-payload", version=1
)
SVC = UserEvent(
    id="79e02f18-ad19-5443-f255-3156ead4e46e",
    name="svc",
    payload=b"x",
    node_filter=".*",
    service_filter="web",
    version=1,
)


@pytest.mark.parametrize(("event", "payload"), list(zip([DEPLOY, SVC], PAYLOADS, strict=True)))
def test_captured_events_in_both_directions(event: UserEvent, payload: bytes) -> None:
    assert decode_user_event(payload) == event
    assert encode_user_event(event) == payload


@given(
    event=st.builds(
        UserEvent,
        id=st.text(max_size=40),
        name=st.text(max_size=40),
        payload=st.none() | st.binary(min_size=1, max_size=300),
        node_filter=st.text(max_size=10),
        service_filter=st.text(max_size=10),
        tag_filter=st.text(max_size=10),
        version=st.integers(0, 200),
        ltime=st.integers(0, 2**64 - 1),
    )
)
def test_what_is_encoded_is_decoded(event: UserEvent) -> None:
    assert decode_user_event(encode_user_event(event), ltime=event.ltime) == event


@given(data=st.binary(max_size=60))
def test_any_bytes_are_an_event_or_malformed(data: bytes) -> None:
    try:
        decode_user_event(data)
    except MalformedPacket:
        return


@pytest.mark.parametrize("size", range(len(PAYLOADS[1])))
def test_what_is_cut_off_is_malformed(size: int) -> None:
    with pytest.raises(MalformedPacket):
        decode_user_event(PAYLOADS[1][:size])


def test_key_that_a_later_version_adds_is_ignored() -> None:
    later = b"\x84" + PAYLOADS[0][1:] + b"\xa1z\x01"
    with pytest.raises(MalformedPacket):
        decode_user_event(later)  # The map says 4 keys, there are 5.
    assert decode_user_event(b"\x85" + later[1:]) == DEPLOY
