"""The layers that a pool is configured for."""

from dataclasses import replace
from random import Random

import pytest

from isthmus.errors import ProtocolError
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.envelope import COMPRESS_SIZE_MAX, COMPRESS_SIZE_MIN, Envelope
from isthmus.gossip.keyring import Keyring
from isthmus.wire import memberlist as wire

LAN = GossipConfig.lan()
SHORT = b"\x08" + bytes(20)
LONG = b"\x08" + bytes(COMPRESS_SIZE_MIN)


def make(config: GossipConfig = LAN, *keys: bytes) -> Envelope:
    return Envelope(config, Keyring(keys), Random(1).randbytes)


def said(leaf: bytes) -> wire.PacketMessage:
    return wire.decode_message(leaf)


@pytest.mark.parametrize("label", [b"", b"dc1"])
@pytest.mark.parametrize("keys", [(), (bytes(16), bytes(32))])
@pytest.mark.parametrize("checksum", [False, True])
def test_packet_that_goes_in_comes_out(
    label: bytes, keys: tuple[bytes, ...], checksum: bool
) -> None:
    envelope = make(replace(LAN, label=label), *keys)
    data = envelope.packet([SHORT, LONG], checksum=checksum)
    assert envelope.read_packet(data).messages == [said(SHORT), said(LONG)]


def test_what_can_not_be_read_is_counted_and_the_rest_is_used() -> None:
    data = wire.join_compound([SHORT, b"\x04\xc1", b"\x63", b"\x09\x80"])
    read = make().read_packet(data)
    assert read.messages == [said(SHORT)]
    assert read.refused == 3


def test_only_what_gets_shorter_is_compressed() -> None:
    envelope = make()
    assert envelope.packet([SHORT], checksum=False) == SHORT
    assert len(envelope.packet([LONG], checksum=False)) < len(LONG)
    chance = b"\x08" + Random(1).randbytes(COMPRESS_SIZE_MIN)
    assert envelope.packet([chance], checksum=False) == chance
    assert make(replace(LAN, compress=False)).packet([LONG], checksum=False) == LONG


def test_ack_alone_is_sent_as_it_is_but_with_rumours_it_is_compressed() -> None:
    ack = wire.encode_message(wire.Ack(seq_no=7, payload=bytes(200)))
    assert make().packet([ack], checksum=False) == ack
    assert len(make().packet([ack, LONG], checksum=False)) < len(LONG)


def test_budget_leaves_room_for_the_layers() -> None:
    """protocol/gossip.md §1.7: 1400 - 2 - label - encryption."""
    labelled = replace(LAN, label=b"dc1")
    assert make().budget == 1398
    assert make(LAN, bytes(16)).budget == 1398 - 29
    assert make(labelled).budget == 1398 - 5
    assert make(replace(LAN, verify_outgoing=False), bytes(16)).budget == 1398


def test_full_budget_fits_the_packet() -> None:
    envelope = make(replace(LAN, compress=False, label=b"dc1"), bytes(16))
    message = bytes(envelope.budget - 2)
    assert len(envelope.packet([message], checksum=True)) <= LAN.packet_size + 5


def test_encryption_can_be_installed_before_it_is_used_and_demanded() -> None:
    old = make()
    waiting = make(replace(LAN, verify_incoming=False, verify_outgoing=False), bytes(16))
    using = make(replace(LAN, verify_incoming=False), bytes(16))
    strict = make(LAN, bytes(16))
    assert old.read_packet(waiting.packet([SHORT], checksum=False)).messages == [said(SHORT)]
    assert waiting.read_packet(old.packet([SHORT], checksum=False)).messages == [said(SHORT)]
    assert waiting.read_packet(using.packet([SHORT], checksum=False)).messages == [said(SHORT)]
    assert strict.read_packet(using.packet([SHORT], checksum=False)).messages == [said(SHORT)]
    with pytest.raises(ProtocolError):
        strict.read_packet(old.packet([SHORT], checksum=False))


@pytest.mark.parametrize("dialler", [True, False])
@pytest.mark.parametrize("keys", [(), (bytes(16),)])
def test_stream_that_goes_in_comes_out(dialler: bool, keys: tuple[bytes, ...]) -> None:
    envelope = make(replace(LAN, label=b"dc1"), *keys)
    for size in (10, COMPRESS_SIZE_MIN, COMPRESS_SIZE_MAX + 1):
        message = wire.UserMessage(bytes(size))
        reader = envelope.reader(dialler=not dialler)
        reader.receive_data(envelope.stream(message, dialler=dialler))
        assert reader.message == message


def test_long_streams_are_not_compressed() -> None:
    """Compressing them would hold up the loop; sending them as they are is always legal."""
    size = COMPRESS_SIZE_MAX + 1
    assert len(make().stream(wire.UserMessage(bytes(size)), dialler=True)) > size
