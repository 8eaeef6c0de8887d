"""Bodies that pass through in pieces: bounded, and broken off in words."""

import asyncio

import pytest

from isthmus.http.streams import AHEAD_MAX, SILENCE_MAX, BodyBroken, BodyStream
from support.virtual_loop import run_virtual


def make_stream() -> tuple[BodyStream, list[str]]:
    told: list[str] = []
    return BodyStream(lambda: told.append("pause"), lambda: told.append("resume")), told


async def test_body_comes_in_pieces_of_one_size() -> None:
    stream, _ = make_stream()
    for part in (b"12", b"345", b"", b"6789"):
        stream.feed(part)
    stream.end()
    assert [piece async for piece in stream.pieces(4)] == [b"1234", b"5678", b"9"]


async def test_reading_pauses_while_the_handler_is_behind() -> None:
    stream, told = make_stream()
    stream.feed(bytes(AHEAD_MAX))
    assert told == []
    stream.feed(b"x")
    stream.feed(b"y")
    assert told == ["pause"]
    pieces = stream.pieces(AHEAD_MAX)
    await anext(pieces)
    stream.end()
    assert [piece async for piece in pieces] == [b"xy"]
    assert told == ["pause", "resume"]


async def test_discarded_body_is_read_on_and_dropped() -> None:
    stream, told = make_stream()
    stream.feed(bytes(AHEAD_MAX + 1))
    stream.discard()
    stream.feed(bytes(AHEAD_MAX + 1))
    assert told == ["pause", "resume"]


async def test_body_that_breaks_off_is_an_error() -> None:
    stream, _ = make_stream()
    stream.feed(b"x")
    stream.fail("the client went away")
    with pytest.raises(BodyBroken, match="went away"):
        await anext(stream.pieces(10))


def test_body_that_stays_silent_is_an_error() -> None:
    async def act() -> None:
        stream, _ = make_stream()
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(BodyBroken, match="no byte of the body for 60 s"):
            await anext(stream.pieces(10))
        assert loop.time() - started == SILENCE_MAX

    run_virtual(act())
