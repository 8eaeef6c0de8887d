"""``isthmus services``: what the agent is asked to register and to forget."""

import json
from pathlib import Path

import pytest

from support.cli import Cli, FakeAgent

REGISTER = "/v1/agent/service/register"


def test_service_of_flags_is_registered(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(REGISTER, b"", method="PUT")
    result = cli(
        "services", "register", "-name=web", "-id=web-1", "-address=10.0.0.1", "-port=8080",
        "-tag=a", "-tag=b", "-meta=version=2", "-meta", "x=y=z", "-tagged-address=lan=10.0.0.1",
        "-tagged-address=wan=203.0.113.1:80", "-tagged-address=v6=[2001:db8::1]:81",
        "-kind=mesh-gateway",
    )  # fmt: skip
    assert (result.code, result.out, result.err) == (0, "Registered service: web\n", "")
    method, path, query, body = agent.last
    assert (method, path, query) == ("PUT", REGISTER, {})
    assert json.loads(body) == {
        "Kind": "mesh-gateway",
        "ID": "web-1",
        "Name": "web",
        "Address": "10.0.0.1",
        "Port": 8080,
        "Tags": ["a", "b"],
        "Meta": {"version": "2", "x": "y=z"},
        "TaggedAddresses": {
            "lan": {"Address": "10.0.0.1", "Port": 0},
            "wan": {"Address": "203.0.113.1", "Port": 80},
            "v6": {"Address": "2001:db8::1", "Port": 81},
        },
    }


def test_socket_takes_the_place_of_address_and_port(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(REGISTER, b"", method="PUT")
    assert cli("services", "register", "-name=web", "-socket=/run/web.sock").code == 0
    assert json.loads(agent.last[3]) == {"Name": "web", "SocketPath": "/run/web.sock"}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    one = tmp_path / "one.hcl"
    one.write_text('service { name = "web" port = 80 check { id = "c" ttl = "15s" } }')
    two = tmp_path / "two.json"
    two.write_text('{"services": [{"id": "db-1", "name": "db", "enable_tag_override": true}]}')
    return [str(one), str(two)]


def test_services_of_files_are_registered(cli: Cli, agent: FakeAgent, files: list[str]) -> None:
    agent.answer(REGISTER, b"", method="PUT")
    result = cli("services", "register", *files)
    assert result.code == 0, result.err
    assert result.out == "Registered service: web\nRegistered service: db\n"
    web, db = (json.loads(body) for _, _, _, body in agent.requests)
    check = web["Check"]
    assert (web["Name"], web["Port"], check["TTL"]) == ("web", 80, "15s")
    assert (db["ID"], db["EnableTagOverride"]) == ("db-1", True)


def test_services_are_deregistered(cli: Cli, agent: FakeAgent, files: list[str]) -> None:
    for service_id in ("web", "db-1", "a%2Fb"):
        agent.answer(f"/v1/agent/service/deregister/{service_id}", b"", method="PUT")
    result = cli("services", "deregister", *files)
    assert (result.code, result.out) == (
        0,
        "Deregistered service: web\nDeregistered service: db-1\n",
    )
    assert cli("services", "deregister", "-id=a/b").out == "Deregistered service: a/b\n"
    assert [path for _, path, _, _ in agent.requests] == [
        "/v1/agent/service/deregister/web",
        "/v1/agent/service/deregister/db-1",
        "/v1/agent/service/deregister/a%2Fb",
    ]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("register",), "Service registration requires at least one argument or flags."),
        (("register", "-port=80"), "Service registration with -port requires -name, too."),
        (
            ("register", "-name=web", "f.hcl"),
            "Service registration requires arguments or -id, not both.",
        ),
        (("deregister",), "Service deregistration requires at least one argument or -id."),
        (
            ("deregister", "-id=web", "f.hcl"),
            "Service deregistration requires arguments or -id, not both.",
        ),
        (("register", "-name=web", "-meta=x"), 'invalid value "x" for flag -meta: missing "="'),
        (
            ("register", "-name=web", "-tagged-address=wan=:80"),
            'invalid value "wan=:80" for flag -tagged-address: Invalid Tagged Address: missing',
        ),
        (("register", "/nonexistent/f.hcl"), "Error: "),
        (
            ("register", "/nonexistent/f.hcl", "-http-addr=h:1"),
            "Error: 2 errors occurred:\n\t* cannot be read: No such file or directory\n"
            "\t  in /nonexistent/f.hcl\n\t* cannot be read: No such file or directory\n"
            "\t  in -http-addr=h:1\nFlags stand before arguments; -http-addr=h:1 came too late.\n",
        ),
    ],
)
def test_what_is_refused_before_anything_is_asked(
    cli: Cli, agent: FakeAgent, args: tuple[str, ...], text: str
) -> None:
    result = cli("services", *args)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(text)
    assert agent.requests == []


def test_malformed_file_registers_nothing(cli: Cli, agent: FakeAgent, tmp_path: Path) -> None:
    path = tmp_path / "bad.hcl"
    path.write_text('service { name = "ok" } service { nmae = "web" }')
    result = cli("services", "register", str(path))
    assert result.code == 1
    assert "nmae" in result.err
    assert agent.requests == []


def test_refusal_of_the_agent_is_passed_on(cli: Cli, agent: FakeAgent) -> None:
    agent.answer(REGISTER, b"no", status=400, method="PUT")
    result = cli("services", "register", "-name=web")
    text = 'Error registering service "web": Unexpected response code: 400 (no)\n'
    assert (result.code, result.out, result.err) == (1, "", text)
    agent.answer("/v1/agent/service/deregister/web", b"gone", status=500, method="PUT")
    result = cli("services", "deregister", "-id=web")
    text = 'Error deregistering service "web": Unexpected response code: 500 (gone)\n'
    assert (result.code, result.out, result.err) == (1, "", text)
