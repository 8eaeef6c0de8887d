"""Who watches the log sees its own level, and never holds anybody up."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from isthmus.agent import logs
from isthmus.agent.log_stream import WATCHERS_MAX, LogStream, LogStreams
from isthmus.agent.logs import TextFormatter

DEADLINE = 10.0
LOGGER = logging.getLogger("isthmus.watched")


@pytest.fixture(autouse=True)
def written() -> Iterator[logging.Handler]:
    """A log at INFO with nothing but a handler that keeps its records."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    kept = _Kept()
    root.handlers[:] = [kept]
    logs.set_level("info")
    yield kept
    root.handlers[:] = handlers
    root.setLevel(level)


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


async def take(lines: AsyncIterator[bytes]) -> list[str]:
    async with asyncio.timeout(DEADLINE):
        return (await anext(lines)).decode().splitlines()


async def test_watcher_sees_more_than_is_written(written: _Kept) -> None:
    streams = LogStreams()
    lines = streams.watch(logging.DEBUG, as_json=False)
    first = asyncio.ensure_future(take(lines))
    await asyncio.sleep(0)
    LOGGER.debug("small")
    LOGGER.log(logs.TRACE, "tiny")
    LOGGER.info("large", extra={"dc": "dc2"})
    found = await first
    assert [line.partition(" ")[2] for line in found] == [
        "[DEBUG] watched: small",
        "[INFO]  watched: large: dc=dc2",
    ]
    await lines.aclose()
    assert written.texts == ["large"]
    assert (logging.getLogger().level, len(streams)) == (logging.INFO, 0)


async def test_level_of_the_log_changes_while_it_is_watched(written: _Kept) -> None:
    lines = LogStreams().watch(logging.WARNING, as_json=False)
    first = asyncio.ensure_future(take(lines))
    await asyncio.sleep(0)
    logs.set_level("err")
    LOGGER.warning("seen")
    LOGGER.error("both")
    assert [line.rpartition(" ")[2] for line in await first] == ["seen", "both"]
    assert written.texts == ["both"]
    await lines.aclose()
    assert logging.getLogger().level == logging.ERROR


async def test_json_lines() -> None:
    lines = LogStreams().watch(logging.INFO, as_json=True)
    first = asyncio.ensure_future(take(lines))
    await asyncio.sleep(0)
    LOGGER.info("hello %s", "you", extra={"peer": "x"})
    (line,) = await first
    shown = json.loads(line)
    assert (shown["@level"], shown["@message"], shown["peer"]) == ("info", "hello you", "x")
    await lines.aclose()


async def test_lines_without_a_place_are_counted_and_told() -> None:
    stream = LogStream(logging.INFO, TextFormatter(), lines_max=2)
    for number in range(5):
        stream.handle(logging.LogRecord("a", logging.INFO, "", 0, f"line {number}", (), None))
    lines = stream.lines()
    found = await take(lines)
    assert [line.rpartition(" a: ")[2] for line in found[:2]] == ["line 0", "line 1"]
    assert found[2] == "[WARN]  3 lines dropped: they came faster than they were read"
    stream.handle(logging.LogRecord("a", logging.INFO, "", 0, "later", (), None))
    assert len(await take(lines)) == 1


async def test_lines_of_another_thread_arrive() -> None:
    lines = LogStreams().watch(logging.INFO, as_json=False)
    first = asyncio.ensure_future(take(lines))
    await asyncio.sleep(0)
    thread = threading.Thread(target=lambda: LOGGER.info("from afar"))
    thread.start()
    assert (await first)[0].endswith("from afar")
    thread.join()
    await lines.aclose()


async def test_watchers_end_when_the_agent_does() -> None:
    streams = LogStreams()
    lines = streams.watch(logging.INFO, as_json=False)
    first = asyncio.ensure_future(take(lines))
    await asyncio.sleep(0)
    streams.close()
    with pytest.raises(StopAsyncIteration):
        await first
    assert len(streams) == 0


async def test_number_of_watchers_is_bounded() -> None:
    streams = LogStreams()
    waiting = []
    for _ in range(WATCHERS_MAX):
        assert not streams.is_full
        waiting.append(asyncio.ensure_future(take(streams.watch(logging.INFO, as_json=False))))
        await asyncio.sleep(0)
    assert streams.is_full
    streams.close()
    await asyncio.gather(*waiting, return_exceptions=True)
