"""``isthmus watch``: what is printed, and how handlers are run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from isthmus.cli.watch import run_handler
from isthmus.model.watch_plan import WatchNews
from support.cli import Cli, serving

LIMIT = 60.0
"""Seconds after which a test gives up."""


class ScriptedAgent:
    """Answers one question after the other; the one after the last stays open."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str, Any]] = []
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.over = threading.Event()
        self.drained = threading.Event()
        self.address = ""

    def tell(self, index: str, data: Any, *, status: int = 200) -> None:
        self.answers.append((status, index, data))

    def handler(self) -> type[BaseHTTPRequestHandler]:
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/v1/status/leader"):
                    self.reply(200, "", "127.0.0.1:8300")
                    return
                agent.asked.append(self.path)
                agent.tokens.append(self.headers.get("X-Consul-Token"))
                if agent.answers:
                    self.reply(*agent.answers.pop(0))
                    return
                agent.drained.set()
                agent.over.wait(LIMIT)

            def reply(self, status: int, index: str, data: Any) -> None:
                body = json.dumps(data).encode()
                self.send_response(status)
                if index:
                    self.send_header("X-Consul-Index", index)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Keep quiet."""

        return Handler


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedAgent]:
    agent = ScriptedAgent()
    server = ThreadingHTTPServer(("127.0.0.1", 0), agent.handler())
    server.daemon_threads = True
    agent.address = f"127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("CONSUL_HTTP_ADDR", agent.address)
    for _ in serving(server):
        yield agent
        agent.over.set()


def test_what_is_there_is_printed_once(cli: Cli, scripted: ScriptedAgent) -> None:
    scripted.tell("5", [{"Node": {"Node": "n1"}, "Checks": []}])
    result = cli(
        "watch", "-type=service", "-service=web", "-tag=a", "-tag=b", "-passingonly=true",
        "-datacenter=dc2", "-stale", "-token=t",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        '[\n    {\n        "Node": {\n            "Node": "n1"\n        },\n'
        '        "Checks": []\n    }\n]\n'
    )
    assert scripted.asked == ["/v1/health/service/web?stale=&tag=a&tag=b&passing=1&dc=dc2"]
    assert scripted.tokens == ["t"]


def test_missing_key_is_null(cli: Cli, scripted: ScriptedAgent) -> None:
    scripted.tell("5", "", status=404)
    assert cli("watch", "-type=key", "-key=a").out == "null\n"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "Watch type must be specified"),
        (("-type=bogus",), "Unsupported watch type: bogus"),
        (("-type=key",), "Must specify a single key to watch"),
        (("-type=nodes", "-key=a", "-name=b"), "Invalid parameters: [key name]"),
        (("-type=checks", "-service=a", "-state=b"), "Cannot specify service and state"),
        (
            ("-type=service", "-service=a", "-passingonly=perhaps"),
            "Failed to parse passingonly flag: not true or false",
        ),
        (("-type=connect_roots",), "Type connect_roots is not supported in the CLI tool"),
        (("-type=bogus", "true"), "Unsupported watch type: bogus"),
    ],
)
def test_what_is_refused_before_anything_is_asked(
    cli: Cli, scripted: ScriptedAgent, args: tuple[str, ...], text: str
) -> None:
    result = cli("watch", *args)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(text)
    assert scripted.asked == []


def test_nobody_answers(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    result = cli("watch", "-type=nodes")
    assert result.code == 1
    assert result.err.startswith("Error querying Consul agent: ")


def write_down(path: Path) -> str:
    """A command that appends what it is told to a file, a line each time."""
    return f"printf '%s ' \"$CONSUL_INDEX\" >> {path}; cat >> {path}"


def test_handler_gets_every_change_until_it_fails(
    cli: Cli, scripted: ScriptedAgent, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    scripted.tell("1", {"web": ["<a>"]})
    scripted.tell("2", {"web": ["<a>"]})
    scripted.tell("3", {})
    command = f'{write_down(seen)}; test "$CONSUL_INDEX" != 3'
    result = cli("watch", "-type=services", *command.split(" "))
    assert (result.code, result.err) == (1, "Error executing handler: exit status 1\n")
    assert seen.read_text() == '1 {"web":["\\u003ca\\u003e"]}\n3 {}\n'
    assert scripted.asked == [
        "/v1/catalog/services",
        "/v1/catalog/services?index=1&wait=60s",
        "/v1/catalog/services?index=2&wait=60s",
    ]


def test_handler_without_a_shell_gets_its_arguments_as_they_are(
    cli: Cli, scripted: ScriptedAgent, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    scripted.tell("1", [])
    script = "import sys; open(sys.argv[1], 'w').write(sys.argv[2] + sys.stdin.read()); sys.exit(3)"
    result = cli(
        "watch", "-type=nodes", "-shell=false", sys.executable, "-c", script, str(seen), "a  $b"
    )
    assert (result.code, result.err) == (1, "Error executing handler: exit status 3\n")
    assert seen.read_text() == "a  $b[]\n"


def test_handler_that_cannot_be_started_ends_the_watch(cli: Cli, scripted: ScriptedAgent) -> None:
    scripted.tell("1", [])
    result = cli("watch", "-type=nodes", "-shell=false", "/nonexistent/program")
    assert result.code == 1
    assert result.err == "Error starting handler: /nonexistent/program: No such file or directory\n"


def test_handler_need_not_read(capfd: pytest.CaptureFixture[str]) -> None:
    news = WatchNews(["x" * 1_000_000], "1")
    assert run_handler(["true"], news, shell=True)
    assert not run_handler(["kill -9 $$"], news, shell=True)
    assert capfd.readouterr().err == "Error executing handler: signal: killed\n"


def test_interrupted_watch_tells_its_handler_and_ends_well(
    scripted: ScriptedAgent, tmp_path: Path
) -> None:
    """The handler's children get the signal too: nothing stays behind."""
    pids = tmp_path / "pids"
    scripted.tell("1", [])
    command = f"sleep 1000 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"
    watch = subprocess.Popen(
        [sys.executable, "-m", "isthmus.cli.main", "watch", "-type=nodes", command],
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + LIMIT
        while not pids.exists():
            assert time.monotonic() < deadline
            assert watch.poll() is None, watch.stderr and watch.stderr.read()
            time.sleep(0.02)
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(LIMIT) == 0
        for pid in map(int, pids.read_text().split()):
            while is_running(pid):
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        watch.kill()
        watch.communicate()


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_watch_in_its_own_process_prints(scripted: ScriptedAgent) -> None:
    scripted.tell("1", ["n1"])
    done = subprocess.run(
        [sys.executable, "-m", "isthmus.cli.main", "watch", "-type=nodes"],
        capture_output=True,
        timeout=LIMIT,
        check=False,
        env=dict(os.environ),
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, ["n1"])
