"""Handlers of watches: real programs and a real HTTP server, on this machine."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.agent.watch_handlers import OUTPUT_SIZE_MAX, tell
from isthmus.model.watch_definition import HttpHandler, ProgramHandler
from isthmus.model.watch_plan import WatchNews

NEWS = WatchNews([{"Node": "<n1>"}], "42")
JSON = '[{"Node":"\\u003cn1\\u003e"}]\n'


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="isthmus.agent.watch_handlers")
    return caplog


def logged(log: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [
        (record.levelno, record.getMessage())
        for record in log.records
        if record.name == "isthmus.agent.watch_handlers"
    ]


async def test_program_gets_news_and_their_index(
    log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    seen = tmp_path / "seen file"
    script = 'cat > "$1"; echo "$CONSUL_INDEX"'
    await tell(ProgramHandler(("/bin/sh", "-c", script, "sh", str(seen))), NEWS)
    assert seen.read_text() == JSON
    assert logged(log) == [(logging.DEBUG, "watch handler done: 42\n")]


async def test_script_runs_in_the_users_shell(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shell in ("/bin/sh", ""):
        monkeypatch.setenv("SHELL", shell)
        await tell(ProgramHandler(script="cat | tr a-z A-Z"), NEWS)
    assert [text for _, text in logged(log)] == [f"watch handler done: {JSON.upper()}"] * 2


async def test_failing_programs_are_errors(log: pytest.LogCaptureFixture) -> None:
    await tell(ProgramHandler(script="echo no; exit 3"), NEWS)
    await tell(ProgramHandler(("/nonexistent/program",)), NEWS)
    (first, failed), (second, missing) = logged(log)
    assert first == second == logging.ERROR
    assert failed == "watch handler failed with code 3: no\n"
    assert missing.startswith("watch handler cannot be started: ")
    assert vars(log.records[-1])["watch_handler"] == "/nonexistent/program"


async def test_long_output_is_cut(log: pytest.LogCaptureFixture) -> None:
    await tell(ProgramHandler(script="head -c 10000 /dev/zero | tr '\\0' x"), NEWS)
    ((_, text),) = logged(log)
    assert text.startswith(f"watch handler done: Captured {OUTPUT_SIZE_MAX} of 10000 bytes\n...\nx")
    assert len(text) < OUTPUT_SIZE_MAX + 100


class Receiver:
    """An HTTP server that keeps requests and answers what it is told to."""

    def __init__(self) -> None:
        self.status, self.body = "200 OK", b""
        self.requests: list[bytes] = []
        self.url = ""
        self.silent = False

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        sizes = [
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ]
        self.requests.append(head + await reader.readexactly(sizes[0]))
        if self.silent:
            await reader.read()
        else:
            answer = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.body)}\r\n\r\n"
            writer.write(answer.encode() + self.body)
            await writer.drain()
        writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.take, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?a=b"
    async with server:
        yield receiver


async def test_url_gets_news_and_their_index(
    receiver: Receiver, log: pytest.LogCaptureFixture
) -> None:
    receiver.body = b"thanks"
    headers = (("X-A", "1"), ("X-A", "2"))
    await tell(HttpHandler(receiver.url, "PUT", 60.0, headers), NEWS)
    (request,) = receiver.requests
    head, _, body = request.decode().partition("\r\n\r\n")
    lines = head.lower().split("\r\n")
    assert lines[0] == "put /hook?a=b http/1.1"
    assert {"content-type: application/json", "x-consul-index: 42", "x-a: 1", "x-a: 2"} <= {*lines}
    assert body == JSON
    assert logged(log) == [(logging.DEBUG, "watch handler done: thanks")]


async def test_answers_that_are_none_are_errors(
    receiver: Receiver, log: pytest.LogCaptureFixture
) -> None:
    receiver.status, receiver.body = "503 No", b"x" * 10_000
    await tell(HttpHandler(receiver.url, timeout=60.0), NEWS)
    receiver.silent = True
    await tell(HttpHandler(receiver.url, timeout=0.2), NEWS)
    await tell(HttpHandler("http://127.0.0.1:1/", timeout=60.0), NEWS)
    await tell(HttpHandler("no url", timeout=60.0), NEWS)
    levels, texts = zip(*logged(log), strict=True)
    assert set(levels) == {logging.ERROR}
    assert texts[0].startswith("watch handler answered 503: Captured 4096 of 10000 bytes\n")
    assert texts[1] == "watch handler did not answer within 0.2 s"
    assert texts[2:] == (
        "watch handler cannot be told: dial tcp 127.0.0.1:1: connect: connection refused",
        "watch handler cannot be told: no%20url",
    )
