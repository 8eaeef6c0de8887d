"""``isthmus maint``."""

import pytest

from support.cli import Cli, FakeAgent

NODE, SERVICE = "/v1/agent/maintenance", "/v1/agent/service/maintenance/a%2Fb"


@pytest.mark.parametrize(
    ("args", "path", "query", "said"),
    [
        (
            ("-enable",),
            NODE,
            {"enable": ["true"], "reason": [""]},
            "Node maintenance is now enabled",
        ),
        (
            ("-enable", "-reason=new disks"),
            NODE,
            {"enable": ["true"], "reason": ["new disks"]},
            "Node maintenance is now enabled",
        ),
        (("-disable",), NODE, {"enable": ["false"]}, "Node maintenance is now disabled"),
        (
            ("-enable", "-service=a/b", "-reason=x"),
            SERVICE,
            {"enable": ["true"], "reason": ["x"]},
            'Service maintenance is now enabled for "a/b"',
        ),
        (
            ("-disable", "-service=a/b"),
            SERVICE,
            {"enable": ["false"]},
            'Service maintenance is now disabled for "a/b"',
        ),
    ],
)
def test_maintenance_is_switched(
    cli: Cli,
    agent: FakeAgent,
    args: tuple[str, ...],
    path: str,
    query: dict[str, list[str]],
    said: str,
) -> None:
    agent.answer(path, b"", method="PUT")
    result = cli("maint", *args)
    assert (result.code, result.out, result.err) == (0, f"{said}\n", "")
    assert agent.last == ("PUT", path, query, b"")


def test_what_is_out_of_service_is_shown(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/self", {"Config": {"NodeName": "n1"}})
    agent.answer(
        "/v1/agent/checks",
        {
            "c": {"CheckID": "c", "Notes": "no"},
            "_service_maintenance:web-1": {"ServiceID": "web-1", "Notes": "why"},
            "_node_maintenance": {"Notes": "new disks"},
        },
    )
    result = cli("maint")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "Node:\n  Name:   n1\n  Reason: new disks\n\nService:\n  ID:     web-1\n  Reason: why\n\n"
    )


def test_nothing_is_shown_when_nothing_is_out_of_service(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/self", {"Config": {"NodeName": "n1"}})
    agent.answer("/v1/agent/checks", {})
    assert (cli("maint").code, cli("maint").out) == (0, "")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-enable", "-disable"), "Only one of -enable or -disable may be provided"),
        (("-disable", "-reason=x"), "Reason may only be provided with -enable"),
        (("-service=web",), "Service requires either -enable or -disable"),
        (("-enable", "web"), "Too many arguments"),
    ],
)
def test_what_is_refused_before_anything_is_asked(
    cli: Cli, agent: FakeAgent, args: tuple[str, ...], text: str
) -> None:
    result = cli("maint", *args)
    assert (result.code, agent.requests) == (1, [])
    assert result.err.startswith(text)


@pytest.mark.parametrize(
    ("args", "path", "text"),
    [
        (("-enable",), NODE, "Error enabling node maintenance"),
        (("-disable", "-service=a/b"), SERVICE, "Error disabling service maintenance"),
    ],
)
def test_refusal_of_the_agent_is_passed_on(
    cli: Cli, agent: FakeAgent, args: tuple[str, ...], path: str, text: str
) -> None:
    agent.answer(path, b"no", status=404, method="PUT")
    result = cli("maint", *args)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"{text}: Unexpected response code: 404 (no)\n"
