"""Watches of an agent's configuration."""

from typing import Any

import pytest

from isthmus.model.watch_definition import (
    HttpHandler,
    ProgramHandler,
    WatchDefinition,
    read_definition,
)
from isthmus.model.watch_plan import InvalidWatch, WatchPlan

NODES = WatchPlan("nodes", "/v1/catalog/nodes")


@pytest.mark.parametrize(
    ("written", "handler"),
    [
        ({"args": ["/bin/x", "a b"]}, ProgramHandler(("/bin/x", "a b"))),
        ({"args": "/bin/x"}, ProgramHandler(("/bin/x",))),
        ({"handler": "x | y"}, ProgramHandler(script="x | y")),
        ({"handler": "x", "handler_type": "script"}, ProgramHandler(script="x")),
        (
            {"handler_type": "http", "http_handler_config": {"path": "http://a/b"}},
            HttpHandler("http://a/b"),
        ),
        (
            {
                "handler_type": "http",
                "http_handler_config": [
                    {
                        "Path": "https://a/b",
                        "method": "PUT",
                        "timeout": "1m",
                        "header": [{"X-A": ["1", "2"], "X-B": "3"}],
                        "tls_skip_verify": True,
                    }
                ],
            },
            HttpHandler(
                "https://a/b", "PUT", 60.0, (("X-A", "1"), ("X-A", "2"), ("X-B", "3")), True
            ),
        ),
    ],
)
def test_handlers(written: dict[str, Any], handler: ProgramHandler | HttpHandler) -> None:
    assert read_definition({"type": "nodes", **written}) == WatchDefinition(NODES, handler)


def test_token_is_kept_apart_from_the_question() -> None:
    definition = read_definition({"type": "nodes", "token": "t", "handler": "x"})
    assert definition.plan == WatchPlan("nodes", "/v1/catalog/nodes", token="t")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ({}, "Must define a watch handler"),
        ({"handler": "x", "type": "nope"}, "Unsupported watch type: nope"),
        ({"handler": "x", "bogus": 1}, "Invalid parameters: [bogus]"),
        (
            {"handler": "x", "type": "connect_leaf", "service": "a"},
            "Watch type connect_leaf is not allowed in agent config",
        ),
        ({"handler": "x", "handler_type": "mail"}, "Handler type 'mail' not recognized"),
        ({"handler": "x", "args": ["y"]}, "Only one watch handler allowed"),
        ({"handler": "x", "handler_type": "http"}, "Only one watch handler allowed"),
        ({"handler": ["x"]}, "Watch handler must be a string"),
        ({"handler": ""}, "Watch handler must be a string"),
        ({"args": [1]}, "Watch args must be a list of strings"),
        ({"args": {}}, "Watch args must be a list of strings"),
        ({"args": []}, "Watch args must name a program"),
        (
            {"handler_type": "http"},
            "Handler type 'http' requires 'http_handler_config' to be set",
        ),
    ],
)
def test_what_is_refused(written: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidWatch) as caught:
        read_definition({"type": "nodes", **written})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("http://a", "must be an object"),
        ({}, "Requires 'path' to be set"),
        ({"path": 1}, "Expecting path to be a string"),
        (
            {"path": "x", "timeout": "1"},
            'Failed to parse timeout: time: missing unit in duration "1"',
        ),
        ({"path": "x", "timeout": "0s"}, "Failed to parse timeout: must be longer than 0"),
        ({"path": "x", "header": "a"}, "'header' must be an object of lists of strings"),
        ({"path": "x", "header": {"a": 1}}, "Expecting a to be a string or []string"),
        ({"path": "x", "tls_skip_verify": "no"}, "Expecting tls_skip_verify to be a boolean"),
        ({"path": "x", "bogus": 1}, "Invalid parameters: [bogus]"),
    ],
)
def test_what_is_refused_of_an_http_handler(config: object, text: str) -> None:
    with pytest.raises(InvalidWatch) as caught:
        read_definition({"type": "nodes", "handler_type": "http", "http_handler_config": config})
    assert str(caught.value) == f"Failed to parse 'http_handler_config': {text}"
