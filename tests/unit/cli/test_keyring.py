"""``isthmus keyring``: output and exit codes."""

import json
from typing import Any

import pytest

from support.cli import Cli, FakeAgent

PATH = "/v1/operator/keyring"


def pool(dc: str, **more: Any) -> dict[str, Any]:
    keys = {"kb==": 3, "ka==": 3}
    shown = {
        "WAN": False, "Datacenter": dc, "Segment": "", "Keys": keys, "PrimaryKeys": {"kb==": 3},
        "NumNodes": 3,
    }  # fmt: skip
    return {**shown, **more}


def test_keys_are_listed_by_pool(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(PATH, [pool("dc1", WAN=True), pool("dc1"), pool("dc2", NumNodes=4)])
    result = cli("keyring", "-list")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "==> Gathering installed encryption keys...\n"
        "\nWAN:\n  ka== [3/3]\n  kb== [3/3]\n"
        "\ndc1 (LAN):\n  ka== [3/3]\n  kb== [3/3]\n"
        "\ndc2 (LAN):\n  ka== [3/4]\n  kb== [3/4]\n"
    )
    assert agent.last[:3] == ("GET", PATH, {})


def test_primary_keys_of_our_datacenter(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(PATH, [pool("dc1", Segment="alpha")])
    result = cli("keyring", "-list-primary", "-local-only", "-relay-factor=2")
    assert result.out == (
        "==> Gathering installed primary encryption keys...\n\ndc1 (LAN) [alpha]:\n  kb== [3/3]\n"
    )
    assert agent.last[2] == {"local-only": ["true"], "relay-factor": ["2"]}


def test_datacenter_that_did_not_answer_is_named_below_the_others(
    cli: Cli, agent: FakeAgent
) -> None:
    silent = pool(
        "dc2", Keys={}, PrimaryKeys=None, NumNodes=0, Messages={"dc2": "No path"}, Error="silent"
    )
    agent.answer(PATH, [pool("dc1"), silent])
    result = cli("keyring", "-list")
    assert result.code == 1
    assert "\ndc1 (LAN):\n  ka== [3/3]\n  kb== [3/3]\n" in result.out
    assert result.out.endswith("\ndc2 (LAN):\n  ===> dc2: No path\n")
    assert result.err == "error: not every pool answered in full: dc2 (LAN)\n"


@pytest.mark.parametrize(
    ("action", "method", "text"),
    [
        ("install", "POST", "Installing new gossip encryption key..."),
        ("use", "PUT", "Changing primary gossip encryption key..."),
        ("remove", "DELETE", "Removing gossip encryption key..."),
    ],
)
def test_change(cli: Cli, agent: FakeAgent, action: str, method: str, text: str) -> None:
    agent.answer(PATH, b"", method=method)
    result = cli("keyring", f"-{action}=ka==")
    assert (result.code, result.out, result.err) == (0, f"==> {text}\n", "")
    assert agent.last == (method, PATH, {}, json.dumps({"Key": "ka=="}).encode())


def test_change_that_failed_somewhere(cli: Cli, agent: FakeAgent) -> None:
    fault = b"1 error occurred:\n\t* dc2 (LAN) error: silent\n\ndone in: WAN (3 members)"
    agent.answer(PATH, fault, status=500, method="PUT")
    result = cli("keyring", "-use=ka==")
    assert result.code == 1
    assert result.err == f"error: Unexpected response code: 500 ({fault.decode()})\n"


def test_answer_of_an_agent_without_that_endpoint_is_no_success(cli: Cli, agent: FakeAgent) -> None:
    assert cli("keyring", "-install=ka==").code == 1
    assert cli("keyring", "-list").code == 1


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "One action is needed: -install, -use, -remove, -list, -list-primary"),
        (("-list", "-use=k"), "Only a single action is allowed"),
        (("-list", "-relay-factor=6"), "Error parsing relay factor: Relay factor must be in"),
        (("-list", "-relay-factor=x"), 'invalid value "x" for flag -relay-factor'),
        (("-use=k", "-local-only"), "Error validating local-only"),
        (("-list", "now"), "Too many arguments (expected 0, got 1)"),
    ],
)
def test_command_line_that_is_wrong(
    cli: Cli, agent: FakeAgent, args: tuple[str, ...], text: str
) -> None:
    result = cli("keyring", *args)
    assert (result.code, agent.requests) == (1, [])
    assert result.err.startswith(text)
