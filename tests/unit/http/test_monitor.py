"""Log, host, reload and stacks over HTTP."""

import pytest

from isthmus.errors import RequestError
from support.http import FakeLocal, as_dict, as_json, make_client


async def read(local: FakeLocal, target: str) -> bytes:
    """Body of a streamed answer."""
    response = await make_client(local=local).get(target)
    assert (response.status, response.stream_size) == (200, None)
    assert response.stream is not None
    return b"".join([piece async for piece in response.stream])


@pytest.mark.parametrize(
    ("query", "level", "as_json"),
    [
        ("", "INFO", False),
        ("?loglevel=debug", "debug", False),
        ("?logjson&loglevel=err", "err", True),
    ],
)
async def test_log_is_streamed(query: str, level: str, as_json: bool) -> None:
    local = FakeLocal()
    local.log_lines = [b"one\n", b"two\nthree\n"]
    assert await read(local, f"/v1/agent/monitor{query}") == b"one\ntwo\nthree\n"
    assert local.told == [("watch_log", level, as_json), ("log closed",)]


async def test_host() -> None:
    response = await make_client().get("/v1/agent/host")
    assert as_json(response) == {"Memory": {"total": 7}, "Errors": None}


async def test_reload_answers_nothing_when_it_worked() -> None:
    local = FakeLocal()
    response = await make_client(local=local).put("/v1/agent/reload")
    assert (response.status, response.body, local.told) == (200, b"", [("reload",)])
    assert "Content-Type" not in as_dict(response)


async def test_reload_that_is_refused_says_why() -> None:
    local = FakeLocal()
    local.fault = RequestError("a.json: log_level: no such level")
    response = await make_client(local=local).put("/v1/agent/reload")
    assert (response.status, response.body) == (500, b"a.json: log_level: no such level")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("stacks", b"thread MainThread\n"),
        ("goroutine", b"thread MainThread\n"),
        ("memory", b"1 8 builtins.int\n"),
        ("heap", b"1 8 builtins.int\n"),
        ("profile?seconds=2", b"main;work 7\n"),
    ],
)
async def test_debug_shows_what_the_agent_does(path: str, text: bytes) -> None:
    response = await make_client().get(f"/debug/pprof/{path}")
    assert (response.status, response.body) == (200, text)


async def test_debug_lists_what_there_is() -> None:
    response = await make_client().get("/debug/pprof/")
    assert b"/debug/pprof/profile?seconds=30" in response.body
    assert (await make_client().get("/debug/pprof/trace")).status == 404


async def test_debug_is_off_unless_the_operator_wants_it() -> None:
    local = FakeLocal()
    local.debug_enabled = False
    for path in ("", "stacks", "profile", "nothing"):
        response = await make_client(local=local).get(f"/debug/pprof/{path}")
        assert (response.status, response.body) == (401, b"")
    assert local.told == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 30.0), ("?seconds=0.5", 0.5), ("?seconds=1m", 60.0)]
)
async def test_profile_takes_as_long_as_it_is_asked_to(text: str, seconds: float) -> None:
    local = FakeLocal()
    assert (await make_client(local=local).get(f"/debug/pprof/profile{text}")).status == 200
    assert local.told == [("profile", seconds)]


@pytest.mark.parametrize("text", ["0", "-1", "601", "x", "1e3", "24h", "nan", "inf", "0s"])
async def test_profile_of_a_bad_length_is_refused(text: str) -> None:
    local = FakeLocal()
    response = await make_client(local=local).get(f"/debug/pprof/profile?seconds={text}")
    assert response.status == 400
    assert b"seconds" in response.body
    assert local.told == []
