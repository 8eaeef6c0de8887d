"""``isthmus monitor``: lines as they come."""

from support.cli import Cli, FakeAgent


def test_lines_are_shown_until_the_agent_ends_the_stream(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/monitor", b"one\ntwo\n")
    result = cli("monitor", "-log-level=debug", "-log-json")
    assert (result.code, result.raw) == (1, b"one\ntwo\n")
    assert result.err.startswith("The agent ended the stream of its log")
    assert agent.last[:3] == (
        "GET",
        "/v1/agent/monitor",
        {"loglevel": ["debug"], "logjson": [""]},
    )


def test_level_is_info_unless_it_is_said(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/monitor", b"")
    cli("monitor")
    assert agent.last[2] == {"loglevel": ["INFO"]}


def test_refusal_of_the_agent_is_passed_on(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/monitor", b"Bad request: Unknown log level: x", status=400)
    result = cli("monitor", "-log-level=x")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error starting monitor: Unexpected response code: 400"
        " (Bad request: Unknown log level: x)\n"
    )
