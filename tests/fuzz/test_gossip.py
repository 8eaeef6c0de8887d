"""Any bytes at any entrance of gossip: a value or a protocol error, which changes nothing.

The same target runs under libFuzzer: ``make fuzz SECONDS=600``.
"""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isthmus.wire import lzw
from isthmus.wire import memberlist as packets
from support.gossip_fuzz import ACCEPTED, KEYED, LABELLED, PACKET, feed, seeds, user_seeds

FOUND = Path(__file__).parent / "found"
SEEDS = [*seeds(), *user_seeds()]
heads = st.integers(0, 31)
EMPTY_PING = packets.encode_message(packets.Ping())
PINGS = packets.join_compound([packets.join_compound([EMPTY_PING] * 255)] * 200)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A seed with some bytes replaced, cut out, repeated, or those of another seed put in."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        match draw(st.integers(0, 3)):
            case 0:
                data[start:end] = draw(st.binary(max_size=8))
            case 1:
                del data[start:]
            case 2:
                data[start:start] = data[start:end] * draw(st.integers(1, 4))
            case _:
                data[start:end] = draw(st.sampled_from(SEEDS))[:200]
    return bytes(data)


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_captured_messages_pass_every_entrance(number: int) -> None:
    feed(SEEDS[number])


@settings(max_examples=300, deadline=None)
@given(st.builds(lambda head, rest: bytes((head,)) + rest, heads, st.binary(max_size=300)))
def test_any_bytes_are_harmless(data: bytes) -> None:
    feed(data)


@settings(max_examples=400, deadline=None)
@given(mutated())
@example(bytes((PACKET, 0)) + packets.compress(PINGS))  # Each would be answered.
@example(bytes((PACKET, 0)) + packets.compress(bytes(2**20 - 100)))
@example(bytes((ACCEPTED, 255)) + b"\x09\x82\xa4Algo\x00\xa3Buf\xda\x75\x30" + bytes(30000))
@example(bytes((KEYED | LABELLED, 0)) + b"\xf4\x04pool\x01" + bytes(40))
def test_changed_messages_are_harmless(data: bytes) -> None:
    feed(data)


@pytest.mark.parametrize("path", [None, *sorted(FOUND.glob("*"))], ids=str)
def test_what_the_fuzzer_found_stays_mended(path: Path | None) -> None:
    feed(b"" if path is None else path.read_bytes())


def bomb(size: int) -> bytes:
    """LZW codes of so many zeros: each code the longest that there is."""
    bits = count = made = 0
    width, next_code, length = 9, 258, 1
    while made < size:
        code = 0 if made == 0 else min(next_code, 4095)
        bits |= code << count
        count += width
        made += length
        if code and next_code < 4096:
            next_code += 1
            width += next_code == 1 << width and width < 12
        length = min(length + 1, 4096 - 257)
    bits |= 257 << count
    return bits.to_bytes((count + width + 7) // 8, "little")


def test_bomb_is_what_it_should_be() -> None:
    assert set(lzw.decompress(bomb(1 << 16))) == {0}


def test_stream_of_a_bomb_is_refused_before_it_fills_memory() -> None:
    """41 MiB of zeros out of 17 kB; the bound is 40 MiB, as the newest memberlist has it."""
    data = bomb(lzw.DECOMPRESSED_SIZE_MAX + 1)
    head = b"\x09\x82\xa4Algo\x00\xa3Buf\xdb" + len(data).to_bytes(4, "big")
    tracemalloc.start()
    try:
        feed(bytes((ACCEPTED, 255)) + head + data)
        assert tracemalloc.get_traced_memory()[1] < 20 * 1024 * 1024
    finally:
        tracemalloc.stop()
