"""Programs that ask DNS servers: dig, dnsmasq in between, HAProxy that follows a service."""

import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.dns_client import PORT, OtherNames, answers, code, known
from support.processes import Process, eventually, shown_on_failure

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        not all(map(shutil.which, ("dig", "dnsmasq", "haproxy"))),
        reason="not installed: apt-get install dnsutils dnsmasq-base haproxy",
    ),
]

HOST, BETWEEN, BALANCER = (f"127.86.2.{number}" for number in (1, 2, 3))
DEADLINE = 40.0
_STATE_UP = "2"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """A server whose services tests register; it asks another server for other names."""
    with OtherNames({"db.example": ["192.0.2.1"]}) as others:
        agent = AgentProcess(
            tmp_path_factory.mktemp("clients"),
            HOST,
            node_name="own",
            recursors=[f"{others.host}:{others.port}"],
        )
        try:
            with shown_on_failure(agent.process):
                agent.wait_until_ready()
                for number in range(1, 11):
                    register(agent, "web", number, f"10.3.0.{number}", 8000 + number)
                eventually(partial(known, HOST, "web.service.consul"), timeout=DEADLINE)
                yield agent
        finally:
            agent.process.stop(signal.SIGKILL)


def register(agent: AgentProcess, service: str, number: int, address: str, port: int) -> None:
    """An instance of a service on a node of its own."""
    put(
        agent,
        "/v1/catalog/register",
        {
            "Node": f"{service}-{number}",
            "Address": address,
            "Service": {"Service": service, "Port": port, "Tags": [f"t{number % 2}"]},
        },
    )


def deregister(agent: AgentProcess, service: str, number: int) -> None:
    put(agent, "/v1/catalog/deregister", {"Node": f"{service}-{number}"})


def put(agent: AgentProcess, path: str, body: Any) -> None:
    status, text, _ = agent.request("PUT", path, json.dumps(body).encode())
    assert status == 200, text


# dig ----------------------------------------------------------------------------------------------


def dig(*words: str) -> str:
    """What dig prints."""
    run = subprocess.run(
        ["dig", f"@{HOST}", "-p", str(PORT), "+time=10", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "WARNING: Message parser" not in run.stdout
    assert "malformed" not in run.stdout.lower()
    return run.stdout


def counts(output: str) -> tuple[int, ...]:
    """Records in the three sections; OPT counts as one in ADDITIONAL."""
    found = re.search(r"ANSWER: (\d+), AUTHORITY: (\d+), ADDITIONAL: (\d+)", output)
    assert found, output
    return tuple(map(int, found.groups()))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("web.service.consul",), (10, 0, 1)),
        (("web.service.consul", "+noedns"), (3, 0, 0)),
        (("web.service.consul", "+tcp"), (10, 0, 1)),
        (("web.service.consul", "SRV"), (10, 0, 11)),
        (("web.service.consul", "SRV", "+noedns"), (3, 0, 3)),
        (("web.service.consul", "SRV", "+bufsize=512"), (3, 0, 4)),
        (("_web._t1.service.consul", "SRV"), (5, 0, 6)),
        (("web.service.dc1.consul", "AAAA"), (0, 1, 1)),
        (("web-1.node.consul",), (1, 0, 1)),
        (("consul", "SOA"), (1, 1, 2)),
        (("consul", "NS"), (1, 0, 2)),
        (("-x", "10.3.0.1"), (1, 0, 1)),
        (("0a000001.addr.consul",), (1, 0, 1)),
        (("db.example",), (1, 0, 1)),
    ],
)
def test_dig_reads_the_answers(
    agent: AgentProcess, words: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    output = dig(*words)
    assert "status: NOERROR" in output
    assert counts(output) == expected, output


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("nothing.service.consul",), "NXDOMAIN"),
        (("web.service.dc9.consul",), "NXDOMAIN"),
        (("web.virtual.consul",), "REFUSED"),
        (("web.service.consul", "+opcode=update"), "NOTIMP"),
        (("web.service.consul", "+edns=9", "+noednsnegotiation"), "BADVERS"),
        (("nothing.example",), "NXDOMAIN"),
    ],
)
def test_dig_is_told_what_is_wrong(
    agent: AgentProcess, words: tuple[str, ...], status: str
) -> None:
    assert f"status: {status}" in dig(*words)


def test_dig_is_told_why_virtual_addresses_are_refused(agent: AgentProcess) -> None:
    assert "EDE: 21 (Not Supported): (virtual addresses are not supported" in dig(
        "web.virtual.consul"
    )


def test_dig_has_its_subnet_echoed(agent: AgentProcess) -> None:
    """What a prepared query finds depends on the subnet, everything else does not."""
    query = json.dumps({"Name": "geo", "Service": {"Service": "web"}}).encode()
    status, text, _ = agent.request("POST", "/v1/query", query)
    assert status == 200, text
    subnet = "198.51.100.0/24"
    assert f"CLIENT-SUBNET: {subnet}/0" in dig("web.service.consul", f"+subnet={subnet}")
    assert f"CLIENT-SUBNET: {subnet}/24" in dig("geo.query.consul", f"+subnet={subnet}")


# dnsmasq ------------------------------------------------------------------------------------------


@pytest.fixture
def dnsmasq(agent: AgentProcess, tmp_path: Path) -> Iterator[int]:
    """Dnsmasq that forwards our domain to the agent; its port."""
    port = free_port(BETWEEN)
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"]
    command += ["--no-hosts", f"--pid-file={tmp_path / 'pid'}", "--user=", "--bind-interfaces"]
    command += [f"--listen-address={BETWEEN}", f"--port={port}", "--no-daemon", "--log-queries"]
    command += [f"--server=/consul/{HOST}#{PORT}", f"--rev-server=10.3.0.0/16,{HOST}#{PORT}"]
    process = Process(command, tmp_path / "dnsmasq.log")
    try:
        with shown_on_failure(process):
            eventually(partial(known, BETWEEN, "own.node.consul", port=port), timeout=DEADLINE)
            yield port
    finally:
        process.stop(signal.SIGKILL)


def free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def test_dnsmasq_forwards_our_domain(agent: AgentProcess, dnsmasq: int) -> None:
    addresses = sorted(f"10.3.0.{number}" for number in range(1, 11))
    asked = partial(answers, BETWEEN, port=dnsmasq)
    for tcp in (False, True):
        assert asked("web.service.consul", tcp=tcp) == addresses
        assert len(asked("web.service.consul", "SRV", tcp=tcp)) == 10
    assert len(asked("web.service.consul", edns=0)) == 3
    assert asked("t1.web.service.dc1.consul") == [f"10.3.0.{number}" for number in range(1, 11, 2)]
    assert asked("web-3.node.consul") == ["10.3.0.3"]
    assert asked("3.0.3.10.in-addr.arpa", "PTR") == ["web-3.node.dc1.consul."]
    assert code(BETWEEN, "nothing.service.consul", port=dnsmasq) == "NXDOMAIN"


def test_dnsmasq_follows_changes(agent: AgentProcess, dnsmasq: int) -> None:
    """Our TTL is 0, so it asks again each time."""
    register(agent, "moving", 1, "10.3.1.1", 1)
    assert answers(BETWEEN, "moving.service.consul", port=dnsmasq) == ["10.3.1.1"]
    register(agent, "moving", 2, "10.3.1.2", 1)
    assert answers(BETWEEN, "moving.service.consul", port=dnsmasq) == ["10.3.1.1", "10.3.1.2"]
    deregister(agent, "moving", 1)
    assert answers(BETWEEN, "moving.service.consul", port=dnsmasq) == ["10.3.1.2"]
    deregister(agent, "moving", 2)
    assert code(BETWEEN, "moving.service.consul", port=dnsmasq) == "NXDOMAIN"


# HAProxy ------------------------------------------------------------------------------------------


class Balancer:
    """HAProxy whose servers are what DNS says of a service.

    Args:
        folder: For its configuration, its socket and its log.
        payload: Bytes of an answer that it takes.
    """

    def __init__(self, folder: Path, *, payload: int) -> None:
        self._socket = folder / "s"
        config = folder / "haproxy.cfg"
        config.write_text(f"""
global
  stats socket {self._socket} mode 600 level admin
  stats timeout 10s
defaults
  mode tcp
  timeout connect 1s
  timeout client 10s
  timeout server 10s
resolvers consul
  nameserver own {HOST}:{PORT}
  accepted_payload_size {payload}
  resolve_retries 3
  timeout resolve 200ms
  timeout retry 200ms
  hold valid 200ms
  hold nx 200ms
  hold obsolete 200ms
backend web
  server-template s 6 _app._tcp.service.consul resolvers consul resolve-prefer ipv4 init-addr none
""")
        subprocess.run(["haproxy", "-c", "-q", "-f", str(config)], check=True)
        self.process = Process(["haproxy", "-db", "-f", str(config)], folder / "haproxy.log")

    def servers(self) -> set[str]:
        """``address:port weight`` of the servers that it uses now."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(self._socket))
            stream.settimeout(10)
            stream.sendall(b"show servers state web\n")
            with stream.makefile() as reader:
                lines = reader.read().splitlines()
        names = lines[1].removeprefix("# ").split()
        rows = [dict(zip(names, line.split(), strict=False)) for line in lines[2:] if line.strip()]
        return {
            f"{row['srv_addr']}:{row['srv_port']} {row['srv_uweight']}"
            for row in rows
            if row["srv_op_state"] == _STATE_UP and row["srv_addr"] != "-"
        }

    def uses(self, expected: set[str]) -> None:
        """Wait until it uses these servers and no others."""
        seen: list[set[str]] = []

        def same() -> bool:
            seen.append(self.servers())
            assert seen[-1] == expected
            return True

        eventually(same, timeout=DEADLINE, what="the servers of HAProxy")


@contextmanager
def balancing(folder: Path, *, payload: int) -> Iterator[Balancer]:
    balancer = Balancer(folder, payload=payload)
    try:
        with shown_on_failure(balancer.process):
            eventually(lambda: balancer.servers() is not None, timeout=DEADLINE)
            yield balancer
    finally:
        balancer.process.stop(signal.SIGKILL)


@pytest.mark.parametrize("payload", [1232, 8192])
def test_haproxy_follows_a_service(agent: AgentProcess, tmp_path: Path, payload: int) -> None:
    def add(number: int) -> None:
        register(agent, "app", number, f"10.3.2.{number}", 9000 + number)

    def used(*numbers: int) -> set[str]:
        return {f"10.3.2.{number}:{9000 + number} 1" for number in numbers}

    add(1)
    add(2)
    with balancing(tmp_path, payload=payload) as balancer:
        balancer.uses(used(1, 2))
        add(3)
        balancer.uses(used(1, 2, 3))
        deregister(agent, "app", 1)
        balancer.uses(used(2, 3))
        put(
            agent,
            "/v1/catalog/register",
            {
                "Node": "app-2",
                "SkipNodeUpdate": True,
                "Check": {"CheckID": "c", "ServiceID": "app", "Status": "critical"},
            },
        )
        balancer.uses(used(3))
        for number in (1, 4, 5):
            add(number)
        balancer.uses(used(1, 3, 4, 5))
        for number in range(1, 6):
            deregister(agent, "app", number)
        balancer.uses(set())
