"""LZW: against captured bytes, against itself, and against rubbish."""

import contextlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.wire import lzw

# From tests/vectors/gossip/26-tcp-fallback-ping.json: serf 0.9.4.
PING = bytes.fromhex(
    "0085a44e6f6465a3707931a55365714e6f0eaa536f7572636541646472a47f000001"
    "aa536f757263654e6f6465a27331aa536f75726365506f7274cd5461"
)
PING_COMPRESSED = bytes.fromhex(
    "00011422e5e40d9932a3e0e489516a4a9938051da89af2a68e9c31658290212387d41f"
    "0000024cac78b14cc183a2e6c418691123943772e834a3122620"
)


def test_captured_bytes_decompress() -> None:
    assert lzw.decompress(PING_COMPRESSED) == PING


def test_compressing_gives_the_captured_bytes() -> None:
    assert lzw.compress(PING) == PING_COMPRESSED


def test_leading_clear_code_may_be_missing() -> None:
    """Codes 'a', end, 9 bits each: an older encoder's output."""
    codes = ord("a") | 257 << 9
    assert lzw.decompress(codes.to_bytes(3, "little")) == b"a"


def test_nothing_compresses_to_clear_and_end() -> None:
    assert lzw.compress(b"") == (256 | 257 << 9).to_bytes(3, "little")
    assert lzw.decompress(lzw.compress(b"")) == b""


@given(st.binary(max_size=300), st.integers(0, 60))
def test_round_trip(seed: bytes, repeats: int) -> None:
    data = seed * repeats
    assert lzw.decompress(lzw.compress(data)) == data


def test_round_trip_through_a_full_table() -> None:
    data = b"".join(value.to_bytes(2, "big") * (value % 3 + 1) for value in range(0, 60000, 7))
    assert lzw.decompress(lzw.compress(data)) == data


@pytest.mark.parametrize("seed", range(3))
def test_round_trip_where_the_table_fills_at_the_end(seed: int) -> None:
    """Random bytes repeat few pairs, so that about each byte takes a place in the table."""
    data = Random(seed).randbytes(3950)
    for size in range(3830, len(data)):
        assert lzw.decompress(lzw.compress(data[:size])) == data[:size]


def test_bomb_is_refused() -> None:
    with pytest.raises(MalformedPacket, match="larger than limit"):
        lzw.decompress(lzw.compress(bytes(100_000)), size_max=99_999)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(MalformedPacket):
        lzw.decompress(data, size_max=10_000)
