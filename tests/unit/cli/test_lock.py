"""isthmus lock: a command that runs only while the lock is held, over HTTP."""

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.cli import lock
from isthmus.model.kv import KV_LOCK, KV_SET, DirEntry, KeyRequest, KVSRequest
from isthmus.model.session import SESSION_CREATE, SESSION_DESTROY, Session, SessionRequest
from support.cli import Cli, FakeAgent
from support.live_agent import LiveAgent, live_agent

LOCK_FLAGS = 0x2DDCCBC058A50C18
OTHERS = "bbbbbbbb-0000-4000-8000-000000000001"


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveAgent]:
    """A whole server on loopback that CONSUL_HTTP_ADDR names."""
    monkeypatch.setenv("SHELL", "/bin/sh")
    with live_agent() as agent:
        monkeypatch.setenv("CONSUL_HTTP_ADDR", agent.address)
        yield agent


def occupy(agent: LiveAgent, key: str = "job/.lock") -> None:
    """Let another session hold the lock."""
    session = Session(id=OTHERS, node="alpha")
    agent.apply(SessionRequest(op=SESSION_CREATE, session=session))
    entry = DirEntry(key=key, flags=LOCK_FLAGS, session=OTHERS)
    assert agent.apply(KVSRequest(op=KV_LOCK, dir_ent=entry))


def left(agent: LiveAgent) -> tuple[list[str], int]:
    """Keys and number of sessions that are there."""
    request = KeyRequest(key="")
    reply = agent.run(lambda: agent.server.call("KVS.List", request))
    return [entry.key for entry in reply.entries or ()], len(agent.server.store.sessions)


@pytest.mark.parametrize("limit", ["1", "2"])
def test_command_runs_with_the_lock_and_leaves_nothing(
    cli: Cli, live: LiveAgent, limit: str
) -> None:
    result = cli("lock", "-n", limit, "/job", "echo", "held=$CONSUL_LOCK_HELD")
    assert (result.code, result.out, result.err) == (0, "held=true\n", "")
    assert left(live) == ([], 0)


def test_command_may_run_without_a_shell(cli: Cli, live: LiveAgent) -> None:
    result = cli("lock", "-shell=false", "job", "echo", "$HOME")
    assert (result.code, result.out) == (0, "$HOME\n")
    result = cli("lock", "-shell=false", "job", "/no/such/command")
    assert result.code == 0
    assert result.err == "Error starting handler: /no/such/command: No such file or directory\n"


def test_exit_code_of_the_command_counts_only_if_wanted(cli: Cli, live: LiveAgent) -> None:
    result = cli("lock", "job", "exit 3")
    assert (result.code, result.err) == (0, "Error running handler: exit status 3\n")
    assert cli("lock", "-child-exit-code", "job", "exit 3").code == 2
    assert cli("lock", "-child-exit-code", "job", "exit 0").code == 0


def test_name_of_the_session_says_who_locks(cli: Cli, live: LiveAgent, tmp_path: Path) -> None:
    url = f"http://{live.address}/v1/session/list"
    show = f"import urllib.request as r; print(r.urlopen('{url}').read().decode())"
    script = tmp_path / "show.py"
    script.write_text(show)
    result = cli("lock", "-shell=false", "job", sys.executable, str(script))
    (session,) = json.loads(result.out)
    assert session["Name"].startswith("isthmus lock for '")
    assert session["Name"].endswith(" at 'job'")
    assert session["TTL"] == "15s"
    result = cli("lock", "-name=mine", "-shell=false", "job", sys.executable, str(script))
    assert json.loads(result.out)[0]["Name"] == "mine"


@pytest.mark.parametrize("flag", ["-timeout", "-try"])
def test_waiting_for_a_held_lock_ends_in_time(cli: Cli, live: LiveAgent, flag: str) -> None:
    occupy(live)
    result = cli("lock", flag, "100ms", "job", "echo never")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Shutdown triggered or timeout during lock acquisition\n"
    assert left(live) == (["job/.lock"], 1)


def test_command_ends_when_the_lock_is_lost(cli: Cli, live: LiveAgent, tmp_path: Path) -> None:
    """The command itself ends the session, and would then run on for a minute."""
    script = tmp_path / "end.py"
    script.write_text(
        "import json, sys, time\n"
        "from urllib.request import Request, urlopen\n"
        "base = f'http://{sys.argv[1]}/v1/session/'\n"
        "(session,) = json.loads(urlopen(base + 'list').read())\n"
        "urlopen(Request(base + 'destroy/' + session['ID'], method='PUT')).read()\n"
        "time.sleep(60)\n"
    )
    command = (sys.executable, str(script), live.address)
    result = cli("lock", "-verbose", "-shell=false", "job", *command)
    assert result.code == 0
    assert "The lock is lost" in result.out
    assert left(live) == ([], 0)


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_command_ends_when_we_are_told_to(cli: Cli, live: LiveAgent, name: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    result = cli("lock", "-verbose", "job", f"kill -{name} $PPID; exec sleep 60")
    assert result.code == 0
    assert "Told to stop" in result.out
    assert left(live) == ([], 0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_command_that_will_not_end_is_killed(
    cli: Cli, live: LiveAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "KILL_GRACE", 0.1)
    stubborn = "trap '' TERM; kill -TERM $PPID; while :; do sleep 1; done"
    result = cli("lock", "-verbose", "job", stubborn)
    assert result.code == 0
    assert "it was killed" in result.out


def test_lock_whose_key_others_want_is_left(cli: Cli, live: LiveAgent) -> None:
    live.apply(KVSRequest(op=KV_SET, dir_ent=DirEntry(key="job/.lock", flags=1)))
    result = cli("lock", "job", "echo never")
    assert result.code == 1
    assert result.err == ("Lock acquisition failed: the key job/.lock is there and is no lock\n")


def test_waiting_hears_that_the_lock_is_free(cli: Cli, live: LiveAgent) -> None:
    occupy(live)
    end = SessionRequest(op=SESSION_DESTROY, session=Session(id=OTHERS))

    async def soon() -> None:
        waiting = live.server.store.watches
        while not len(waiting):  # noqa: ASYNC110 (until the command asks)
            await asyncio.sleep(0.01)
        await live.server.apply(end)

    thread = threading.Thread(target=lambda: live.run(soon))
    thread.start()
    result = cli("lock", "job", "echo mine")
    thread.join()
    assert (result.code, result.out) == (0, "mine\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-n=0", "p", "c"), "Lock holder limit must be positive"),
        (("p",), "Key prefix and child command must be specified"),
        (("-timeout=-1s", "p", "c"), "Timeout must be positive"),
        (("-monitor-retry=-1", "p", "c"), "Number for 'monitor-retry' must be >= 0"),
        (("-timeout=x", "p", "c"), 'invalid value "x" for flag -timeout'),
    ],
)
def test_wrong_command_lines_are_refused(cli: Cli, args: tuple[str, ...], text: str) -> None:
    result = cli("lock", *args)
    assert result.code == 1
    assert result.err.startswith(text)


def test_agent_that_does_not_answer_is_said(cli: Cli, agent: FakeAgent) -> None:
    agent.answer("/v1/agent/self", b"no", status=500)
    result = cli("lock", "p", "c")
    assert result.code == 1
    assert result.err.startswith("Error querying Consul agent: Unexpected response code: 500")
    agent.answer("/v1/agent/self", {})
    agent.answer("/v1/session/create", [], method="PUT")
    result = cli("lock", "p", "c")
    assert result.err.startswith(
        "Lock acquisition failed: failed to create session: the answer has no session id"
    )
