"""What a watch asks, and which answers are news."""

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.event import event_index
from isthmus.model.watch_plan import (
    RETRY_MAX,
    InvalidWatch,
    WatchAnswer,
    WatchFailed,
    WatchNews,
    WatchParameters,
    WatchProgress,
    read_plan,
)


def make(**parameters: object) -> WatchProgress:
    found = WatchParameters(parameters)
    plan = read_plan(found)
    found.finish()
    return WatchProgress(plan)


def answer(data: Any, index: str = "1", *, status: int = 200) -> WatchAnswer:
    return WatchAnswer(status, json.dumps(data).encode(), index, index)


@pytest.mark.parametrize(
    ("parameters", "target"),
    [
        ({"type": "key", "key": "a/b c"}, "/v1/kv/a/b%20c"),
        ({"type": "key", "key": "/a", "stale": True}, "/v1/kv/a?stale="),
        ({"type": "keyprefix", "prefix": "a/"}, "/v1/kv/a/?recurse="),
        ({"type": "services", "datacenter": "dc2"}, "/v1/catalog/services?dc=dc2"),
        ({"type": "nodes", "stale": True}, "/v1/catalog/nodes?stale="),
        ({"type": "service", "service": "a/b"}, "/v1/health/service/a%2Fb"),
        (
            {"type": "service", "service": "web", "tag": "v1", "passingonly": True},
            "/v1/health/service/web?tag=v1&passing=1",
        ),
        (
            {"type": "service", "service": "web", "tag": ["v1", "v2"], "passingonly": False},
            "/v1/health/service/web?tag=v1&tag=v2",
        ),
        ({"type": "checks"}, "/v1/health/state/any"),
        ({"type": "checks", "state": "critical"}, "/v1/health/state/critical"),
        ({"type": "checks", "service": "web"}, "/v1/health/checks/web"),
        ({"type": "event"}, "/v1/event/list"),
        ({"type": "event", "name": "a&b"}, "/v1/event/list?name=a%26b"),
        ({"type": "connect_roots"}, "/v1/agent/connect/ca/roots"),
        ({"type": "connect_leaf", "service": "web"}, "/v1/agent/connect/ca/leaf/web"),
        ({"type": "agent_service", "service_id": "web-1"}, "/v1/agent/service/web-1"),
    ],
)
def test_what_is_asked(parameters: dict[str, object], target: str) -> None:
    assert make(**parameters).target() == target


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, "Watch type must be specified"),
        ({"type": 1}, "Expecting type to be a string"),
        ({"type": "bogus"}, "Unsupported watch type: bogus"),
        ({"type": "key"}, "Must specify a single key to watch"),
        ({"type": "key", "key": 1}, "Expecting key to be a string"),
        ({"type": "keyprefix", "prefix": ""}, "Must specify a single prefix to watch"),
        ({"type": "service"}, "Must specify a single service to watch"),
        ({"type": "nodes", "stale": "yes"}, "Expecting stale to be a boolean"),
        (
            {"type": "service", "service": "web", "tag": 1},
            "Expecting tag to be a string or []string",
        ),
        (
            {"type": "service", "service": "web", "tag": ["a", 1]},
            "Index 1 of tag expected to be string",
        ),
        ({"type": "checks", "service": "a", "state": "b"}, "Cannot specify service and state"),
        ({"type": "nodes", "key": "a", "bogus": 1}, "Invalid parameters: [bogus key]"),
        ({"type": "event", "stale": True}, "Invalid parameters: [stale]"),
    ],
)
def test_what_cannot_be_watched(parameters: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidWatch) as caught:
        make(**parameters)
    assert str(caught.value) == text


def test_first_answer_is_news_and_then_what_differs() -> None:
    watch = make(type="nodes")
    assert watch.receive_answer(answer(["a"], "5")) == WatchNews(["a"], "5")
    assert watch.target(wait="60s") == "/v1/catalog/nodes?index=5&wait=60s"
    assert watch.receive_answer(answer(["a"], "5")) is None
    assert watch.receive_answer(answer(["a"], "7")) is None  # Another index, the same data.
    assert watch.target() == "/v1/catalog/nodes?index=7"
    assert watch.receive_answer(answer(["a", "b"], "8")) == WatchNews(["a", "b"], "8")


def test_index_that_goes_back_is_followed() -> None:
    watch = make(type="nodes")
    watch.receive_answer(answer(["a"], "50"))
    assert watch.receive_answer(answer(["b"], "3")) == WatchNews(["b"], "3")
    assert watch.target() == "/v1/catalog/nodes?index=3"


def test_failure_asks_anew_and_repeats_no_news() -> None:
    watch = make(type="nodes")
    watch.receive_answer(answer(["a"], "5"))
    assert watch.fail() == 5.0
    assert watch.target() == "/v1/catalog/nodes"
    assert watch.receive_answer(answer(["a"], "5")) is None
    assert watch.receive_answer(answer(["b"], "6")) is not None


def test_patience_grows_with_failures_up_to_a_limit() -> None:
    watch = make(type="nodes")
    assert [watch.fail() for _ in range(8)] == [5, 20, 45, 80, 125, 180, 180, 180]
    assert RETRY_MAX == 180
    watch.receive_answer(answer([]))
    assert watch.fail() == 5


def test_key_is_shown_with_all_its_fields() -> None:
    pair = {"Key": "a", "Value": "djE=", "Flags": 1, "LockIndex": 0, "ModifyIndex": 3}
    shown = {**pair, "CreateIndex": 0, "Session": ""}
    assert make(type="key", key="a").receive_answer(answer([pair])) == WatchNews(shown, "1")
    found = make(type="keyprefix", prefix="a").receive_answer(answer([pair, pair]))
    assert found == WatchNews([shown, shown], "1")


@pytest.mark.parametrize(
    "parameters", [{"type": "key", "key": "a"}, {"type": "keyprefix", "prefix": "a"}]
)
def test_missing_key_is_nothing(parameters: dict[str, object]) -> None:
    watch = make(**parameters)
    nothing = WatchAnswer(404, b"", "4")
    assert watch.receive_answer(nothing) == WatchNews(None, "4")
    assert watch.receive_answer(nothing) is None


@pytest.mark.parametrize(
    ("parameters", "found", "text"),
    [
        ({"type": "nodes"}, WatchAnswer(404, b"", "1"), "Unexpected response code: 404 ()"),
        (
            {"type": "nodes"},
            WatchAnswer(500, b" bad\n", "1"),
            "Unexpected response code: 500 (bad)",
        ),
        ({"type": "nodes"}, WatchAnswer(200, b"{", "1"), "did not answer with JSON"),
        ({"type": "nodes"}, WatchAnswer(200, b"[" * 100_000, "1"), "did not answer with JSON"),
        ({"type": "nodes"}, WatchAnswer(200, b"[]"), "without saying at which index"),
        ({"type": "key", "key": "a"}, WatchAnswer(200, b"{}", "1"), "did not answer with keys"),
        ({"type": "key", "key": "a"}, WatchAnswer(200, b"[1]", "1"), "did not answer with keys"),
        ({"type": "event"}, WatchAnswer(200, b"{}", "1"), "did not answer with events"),
        (
            {"type": "agent_service", "service_id": "a"},
            WatchAnswer(200, b"{}", "1"),
            "without saying at which index",
        ),
    ],
)
def test_answer_that_is_none_fails(
    parameters: dict[str, object], found: WatchAnswer, text: str
) -> None:
    watch = make(**parameters)
    with pytest.raises(WatchFailed) as caught:
        watch.receive_answer(found)
    assert text in str(caught.value)


def test_service_of_the_agent_is_watched_by_its_hash() -> None:
    watch = make(type="agent_service", service_id="web")
    assert watch.receive_answer(answer({"Port": 1}, "abc")) == WatchNews({"Port": 1}, "abc")
    assert watch.target(wait="1m") == "/v1/agent/service/web?hash=abc&wait=1m"


def event(number: int) -> dict[str, Any]:
    return {"ID": str(uuid.UUID(int=number)), "Name": "deploy"}


def mark(number: int) -> str:
    return str(event_index(event(number)["ID"]))


def test_only_events_that_came_since_are_news() -> None:
    watch = make(type="event")
    one, two, three, four = (event(number) for number in range(1, 5))
    assert watch.receive_answer(answer([one, two], mark(2))) == WatchNews([one, two], mark(2))
    assert watch.receive_answer(answer([one, two], mark(2))) is None
    found = watch.receive_answer(answer([one, two, three], mark(3)))
    assert found == WatchNews([three], mark(3))
    watch.fail()
    assert watch.target() == "/v1/event/list"
    assert watch.receive_answer(answer([one, two, three], mark(3))) is None
    assert watch.receive_answer(answer([four], mark(4))) == WatchNews([four], mark(4))


def test_news_are_json_as_go_writes_it() -> None:
    news = WatchNews({"b": "<é&\u2028>", "a": [1, None]}, "1")
    assert news.encode() == '{"b":"\\u003cé\\u0026\\u2028\\u003e","a":[1,null]}\n'.encode()
    assert news.encode(indent=True).decode() == (
        '{\n    "b": "\\u003cé\\u0026\\u2028\\u003e",\n'
        '    "a": [\n        1,\n        null\n    ]\n}\n'
    )


@given(st.binary(max_size=60), st.sampled_from(["key", "keyprefix", "event", "nodes"]))
def test_any_answer_is_news_or_fails(body: bytes, kind: str) -> None:
    needed = {"key": {"key": "a"}, "keyprefix": {"prefix": "a"}}.get(kind, {})
    watch = make(type=kind, **needed)
    try:
        news = watch.receive_answer(WatchAnswer(200, body, "1"))
    except WatchFailed:
        return
    assert news is not None
    assert json.loads(news.encode()) is not ...
