"""``isthmus event``."""

from support.cli import Cli, FakeAgent

FIRED = {"ID": "b54fe110-7af5-cafc-d1fb-afc8ba432b1c", "Name": "deploy", "LTime": 0}


def test_event_is_fired_and_its_id_printed(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/event/fire/deploy", FIRED, method="PUT")
    result = cli("event", "-name=deploy", "-node=^a", "-service", "web", "-tag=v1", "payload")
    assert (result.code, result.out, result.err) == (0, f"Event ID: {FIRED['ID']}\n", "")
    query = {"node": ["^a"], "service": ["web"], "tag": ["v1"]}
    assert agent.last == ("PUT", "/v1/event/fire/deploy", query, b"payload")


def test_event_for_another_datacenter_without_payload(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/event/fire/a%2Fb", FIRED, method="PUT")
    assert cli("event", "-name=a/b", "-datacenter=dc2").code == 0
    assert agent.last[2:] == ({"dc": ["dc2"]}, b"")


def test_what_is_refused_before_anything_is_asked(cli: Cli, agent: FakeAgent) -> None:
    for args, text in (
        (("deploy",), "Event name must be specified"),
        (("-name=x", "a", "b"), "Too many command line arguments"),
        (("-name=x", "-tag=v1"), "Cannot provide tag filter without service filter"),
    ):
        result = cli("event", *args)
        assert result.code == 1
        assert result.err.startswith(text)
    assert agent.requests == []


def test_refusal_of_the_agent_is_passed_on(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/event/fire/x", b"too long", status=500, method="PUT")
    result = cli("event", "-name=x")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error firing event: Unexpected response code: 500 (too long)\n"


def test_answer_without_an_id_is_no_success(cli: Cli, agent: FakeAgent) -> None:
    for answer in (b"", b"[]", b"{}", b"null"):
        agent.answer("/v1/event/fire/x", answer, method="PUT")
        result = cli("event", "-name=x")
        assert (result.code, result.out) == (1, "")
        assert "has no event id" in result.err
