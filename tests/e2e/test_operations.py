"""What operators see of running agents, with the programs that they use: curl, Prometheus."""

import json
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.certificates import Authority, Certificate
from support.processes import ISTHMUS, Process, eventually, shown_on_failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

Start = Callable[..., AgentProcess]
TIMEOUT = 40.0
CAMEL_CASE = "metric names should be written in 'snake_case' not 'camelCase'"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an agent and wait until it leads."""
    with ExitStack() as stack:

        def launch(host: str, *, ready: bool = True, **config: Any) -> AgentProcess:
            agent = AgentProcess(tmp_path, host, **config)
            stack.callback(agent.process.stop)
            stack.enter_context(shown_on_failure(agent.process))
            if ready:
                agent.wait_until_ready()
            return agent

        yield launch


def program(name: str) -> str:
    """Path of a program; the test is skipped where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (make debian)")
    return path


def isthmus(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*ISTHMUS, *args], capture_output=True, text=True, timeout=90, check=False
    )


def curl(*args: str) -> "subprocess.CompletedProcess[str]":
    command = [program("curl"), "--silent", "--show-error", "--max-time", "10", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


# Metrics --------------------------------------------------------------------------------------


def test_prometheus_own_checker_finds_nothing_but_consuls_names(start: Start) -> None:
    checker = program("promtool")
    agent = start("127.88.7.1", telemetry={"prometheus_retention_time": "60s"})
    assert agent.request("PUT", "/v1/kv/a", b"x")[0] == 200
    status, text, headers = agent.request("GET", "/v1/agent/metrics?format=prometheus")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    checked = subprocess.run(
        [checker, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False
    )
    complaints = checked.stderr.decode().splitlines()
    assert checked.returncode in (0, 3), complaints  # 1 is a text that cannot be parsed.
    assert [line for line in complaints if line and not line.endswith(CAMEL_CASE)] == []
    assert all(line.startswith("consul_") for line in complaints if line)
    assert b'consul_api_http_count{method="PUT",path="v1_kv_"} 1.0' in text


def test_prometheus_scrapes_an_agent(start: Start, tmp_path: Path) -> None:
    server = program("prometheus")
    agent = start("127.88.7.2", telemetry={"prometheus_retention_time": "60s"})
    scraping = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "isthmus",
                "metrics_path": "/v1/agent/metrics",
                "params": {"format": ["prometheus"]},
                "static_configs": [{"targets": [f"{agent.host}:8500"]}],
            }
        ],
    }
    (tmp_path / "prometheus.json").write_text(json.dumps(scraping))  # JSON is YAML, too.
    command = [
        server,
        f"--config.file={tmp_path}/prometheus.json",
        f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address={agent.host}:19090",
    ]
    process = Process(command, tmp_path / "prometheus.log")
    query = f"http://{agent.host}:19090/api/v1/query?query=isthmus_store_index"

    def scraped() -> bool:
        answer = curl(query)
        found = json.loads(answer.stdout or "{}").get("data", {}).get("result", [])
        return bool(found) and int(found[0]["value"][1]) > 0

    try:
        with shown_on_failure(process):
            eventually(scraped, timeout=TIMEOUT, what="a scraped figure")
    finally:
        process.stop()


def test_json_tells_of_whole_intervals(start: Start) -> None:
    agent = start("127.88.7.3")

    def counted() -> bool:
        """One write for each look: an interval holds some of them, and never all."""
        assert agent.request("PUT", "/v1/kv/a", b"x")[0] == 200
        found = agent.get("/v1/agent/metrics")
        counts = {sample["Name"]: sample["Count"] for sample in found["Samples"]}
        writes = counts.get("consul.kvs.apply", 0)
        assert counts.get("consul.http.PUT.v1.kv._", 0) == writes
        totals.append(writes)
        return str(found["Timestamp"]) > begun and writes > 0

    totals: list[int] = []
    begun = str(agent.get("/v1/agent/metrics")["Timestamp"])
    eventually(counted, timeout=TIMEOUT, every=0.2, what="a whole interval")
    eventually(counted, timeout=TIMEOUT, every=0.2, what="another look")
    assert totals[-1] <= len(totals)


# HTTPS and sockets ----------------------------------------------------------------------------


def certified(folder: Path) -> tuple[Authority, Certificate, dict[str, str]]:
    """An authority, a server's certificate, and the configuration keys that name its files."""
    authority = Authority(folder)
    files = authority.issue("server.dc1.consul", "localhost")
    keys = {"ca_file": files.ca_file, "cert_file": files.cert_file, "key_file": files.key_file}
    return authority, files, {name: str(path) for name, path in keys.items()}


def served_certificate(host: str, files: Certificate) -> bytes:
    """What the agent shows on its HTTPS port."""
    with (
        socket.create_connection((host, 8501), 10) as raw,
        files.context().wrap_socket(raw) as wrapped,
    ):
        shown = wrapped.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_curl_over_https_with_a_client_certificate(start: Start, tmp_path: Path) -> None:
    authority, files, keys = certified(tmp_path)
    agent = start("127.88.7.4", ports={"https": 8501}, verify_incoming_https=True, **keys)
    client = authority.issue("operator")
    url = "https://localhost:8501/v1/status/leader"
    common = ["--cacert", str(files.ca_file), "--resolve", f"localhost:8501:{agent.host}"]
    shown = ["--cert", str(client.cert_file), "--key", str(client.key_file)]
    answered = curl(*common, *shown, "--verbose", url)
    assert json.loads(answered.stdout) == f"{agent.host}:8300"
    assert "http/1.1" in answered.stderr  # What ALPN came to.
    assert curl(*common, url).returncode != 0
    members = isthmus(
        "members",
        f"-http-addr=https://{agent.host}:8501",
        f"-ca-file={files.ca_file}",
        f"-client-cert={client.cert_file}",
        f"-client-key={client.key_file}",
        "-tls-server-name=localhost",
    )
    assert members.returncode == 0, members.stderr
    assert agent.host in members.stdout


def test_new_certificate_is_served_after_a_reload(start: Start, tmp_path: Path) -> None:
    authority, files, keys = certified(tmp_path)
    agent = start("127.88.7.5", ports={"https": 8501}, **keys)
    client = authority.issue("operator")
    before = served_certificate(agent.host, client)
    fresh = authority.issue("server.dc1.consul", "localhost", "another")
    shutil.copy(fresh.cert_file, files.cert_file)
    shutil.copy(fresh.key_file, files.key_file)
    assert served_certificate(agent.host, client) == before
    assert agent.request("PUT", "/v1/agent/reload")[:2] == (200, b"")
    assert served_certificate(agent.host, client) != before


def test_curl_over_a_unix_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "isthmus.sock"
    agent = start(
        "127.88.7.6",
        addresses={"http": f"127.88.7.6 unix://{path}"},
        unix_sockets={"mode": "0600"},
    )
    assert path.stat().st_mode & 0o777 == 0o600
    answered = curl("--unix-socket", str(path), "http://x/v1/status/leader")
    assert json.loads(answered.stdout) == f"{agent.host}:8300"
    shown = isthmus("info", f"-http-addr=unix://{path}")
    assert shown.returncode == 0, shown.stderr
    agent.process.send(signal.SIGTERM)
    assert agent.process.wait(20) is not None
    assert not path.exists()


def test_socket_that_another_agent_listens_on_is_refused(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "isthmus.sock"
    start("127.88.7.7", addresses={"http": f"127.88.7.7 unix://{path}"})
    other = start("127.88.7.8", ready=False, addresses={"http": f"127.88.7.8 unix://{path}"})
    assert other.process.wait(30) == 1
    assert f"cannot listen for HTTP on unix://{path}: address already in use" in (
        other.process.output()
    )
    assert path.exists()


# Limits ---------------------------------------------------------------------------------------


def test_client_agent_makes_no_more_calls_than_it_may(start: Start, tmp_path: Path) -> None:
    server = start("127.88.7.9")
    client = start(
        "127.88.7.10",
        ready=False,
        server=False,
        node_name="client",
        data_dir=str(tmp_path / "client"),
        retry_join=[server.host],
        limits={"rpc_rate": 1, "rpc_max_burst": 50},
    )
    answers: list[tuple[int, bytes]] = []

    def asked() -> int:
        try:
            answers.append(client.request("GET", "/v1/status/leader")[:2])
        except OSError:
            return 0  # It is not up yet.
        return answers[-1][0]

    eventually(lambda: asked() == 200, timeout=TIMEOUT, what="an answer through the client")
    eventually(lambda: asked() == 429, timeout=TIMEOUT, every=0.0, what="a refusal")
    assert answers[-1] == (429, b"")


def test_writers_of_other_networks_are_refused(start: Start) -> None:
    agent = start(
        "127.88.7.11",
        http_config={
            "allow_write_http_from": ["192.0.2.0/24"],
            "block_endpoints": ["/v1/agent/self"],
            "response_headers": {"X-Site": "one"},
        },
    )
    status, text, headers = agent.request("PUT", "/v1/kv/a", b"x")
    assert (status, text, headers["X-Site"]) == (403, b"Access is restricted", "one")
    status, text, headers = agent.request("GET", "/v1/agent/self")
    assert (status, text) == (403, b"Endpoint is blocked by agent configuration")
    assert agent.request("GET", "/")[2]["X-Site"] == "one"


# Looking inside -------------------------------------------------------------------------------


def test_monitor_shows_what_the_log_does_not_hold(start: Start, tmp_path: Path) -> None:
    agent = start("127.88.7.12", log_level="ERR")
    monitor = Process(
        [*ISTHMUS, "monitor", "-log-level=debug", f"-http-addr={agent.host}:8500"],
        tmp_path / "monitor.log",
    )

    def shown() -> bool:
        agent.request("GET", "/v1/agent/self?token=s3cret")
        return "url=/v1/agent/self?token=<hidden>" in monitor.output()

    eventually(shown, timeout=TIMEOUT, what="a request in the log")
    agent.process.send(signal.SIGTERM)
    assert monitor.wait(30) == 1
    assert "ended the stream" in monitor.output()
    assert "s3cret" not in monitor.output() + agent.process.output()
    assert "request finished" not in agent.process.output()


def test_reload_over_http_takes_what_it_can_or_says_why_not(start: Start) -> None:
    agent = start("127.88.7.13", limits={"http_max_conns_per_client": 100})
    config = json.loads(agent.file.read_text())
    agent.file.write_text(json.dumps({**config, "services": [{"name": "new", "port": 2}]}))
    done = isthmus("reload", f"-http-addr={agent.host}:8500")
    assert (done.returncode, done.stdout) == (0, "Configuration reload triggered\n")
    assert list(agent.get("/v1/agent/services")) == ["new"]
    agent.file.write_text(json.dumps({**config, "services": [{"port": 2}], "loglevel": "x"}))
    status, text, _ = agent.request("PUT", "/v1/agent/reload")
    assert status == 500
    assert b"invalid config key loglevel" in text
    assert list(agent.get("/v1/agent/services")) == ["new"]


def test_debug_archive_of_a_running_agent(start: Start, tmp_path: Path) -> None:
    agent = start("127.88.7.14")
    archive = tmp_path / "bundle.tar.gz"
    address = f"-http-addr={agent.host}:8500"
    output = f"-output={tmp_path}/bundle"
    done = isthmus("debug", "-duration=10s", "-interval=5s", output, address)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    with tarfile.open(archive) as tar:
        names = {name.rpartition("/")[2] for name in tar.getnames()}
        found = tar.extractfile("bundle/metrics.json")
        assert found is not None
        assert json.loads(found.readline())["Gauges"]
    assert names >= {
        "agent.json", "host.json", "index.json", "isthmus.log", "members.json", "memory.txt",
        "metrics.json", "profile.folded", "stacks.txt",
    }  # fmt: skip
