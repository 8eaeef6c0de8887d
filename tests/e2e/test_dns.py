"""DNS as an agent serves it: by UDP and TCP, of servers and clients, in two datacenters."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.dns import rows
from support.dns_client import PORT, OtherNames, answers, ask, code, known
from support.processes import ISTHMUS, Process, eventually, shown_on_failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SERVER, CLIENT, REMOTE, SINGLE, CACHING = (f"127.86.1.{number}" for number in range(1, 6))
EVERYWHERE = (SERVER, CLIENT, REMOTE)
DEADLINE = 30.0


class Site:
    """A server and a client in dc1, a server in dc2, and a server of other names."""

    def __init__(self, folder: Path, others: OtherNames) -> None:
        shared: dict[str, Any] = {
            "recursors": [f"{others.host}:{others.port}"],
            "translate_wan_addrs": True,
            "dns_config": {"service_ttl": {"web": "7s"}, "node_ttl": "3s"},
        }
        self.server = AgentProcess(
            folder,
            SERVER,
            server=True,
            bootstrap=True,
            node_name="s1",
            data_dir=str(folder / "s1"),
            **shared,
        )
        self.client = AgentProcess(
            folder,
            CLIENT,
            server=False,
            node_name="c1",
            data_dir=str(folder / "c1"),
            retry_join=[SERVER],
            **shared,
        )
        self.caching = AgentProcess(
            folder,
            CACHING,
            server=False,
            node_name="c2",
            data_dir=str(folder / "c2"),
            retry_join=[SERVER],
            dns_config={"use_cache": True},
        )
        self.remote = AgentProcess(
            folder,
            REMOTE,
            server=True,
            bootstrap=True,
            datacenter="dc2",
            primary_datacenter="dc1",
            node_name="r1",
            data_dir=str(folder / "r1"),
            retry_join_wan=[SERVER],
            retry_interval_wan="1s",
            **shared,
        )

    @property
    def agents(self) -> list[AgentProcess]:
        return [self.server, self.client, self.caching, self.remote]


def register(agent: AgentProcess, **registration: Any) -> None:
    body = json.dumps(registration).encode()
    status, text, _ = agent.request("PUT", "/v1/catalog/register", body)
    assert status == 200, text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    names = {"db.example": ["192.0.2.1", "192.0.2.2"]}
    with OtherNames(names) as others:
        site = Site(tmp_path_factory.mktemp("dns"), others)
        try:
            with shown_on_failure(*(agent.process for agent in site.agents)):
                for agent in site.agents:
                    agent.wait_until_ready()
                fill(site)
                for host in EVERYWHERE:
                    for name in ("web.service.dc1.consul", "web.service.dc2.consul"):
                        eventually(partial(known, host, name), timeout=DEADLINE)
                yield site
        finally:
            for agent in site.agents:
                agent.process.stop(signal.SIGKILL)


def fill(site: Site) -> None:
    for number in range(1, 11):
        tag = "v1" if number < 3 else "v2"
        register(
            site.server,
            Node=f"n{number}",
            Address=f"10.1.0.{number}",
            NodeMeta={"rack": f"r{number}"},
            Service={"Service": "web", "Port": 8000 + number, "Tags": [tag]},
        )
    register(
        site.remote,
        Node="far",
        Address="10.2.0.1",
        TaggedAddresses={"wan": "198.51.100.1"},
        Service={
            "Service": "web",
            "Port": 80,
            "Address": "10.2.0.9",
            "TaggedAddresses": {"wan": {"Address": "198.51.100.9", "Port": 8080}},
        },
    )
    register(
        site.server,
        Node="outside",
        Address="db.example",
        Service={"Service": "db", "Port": 5432},
    )


@pytest.mark.parametrize("host", [SERVER, CLIENT])
@pytest.mark.parametrize("tcp", [False, True])
def test_services_nodes_and_tags(site: Site, host: str, tcp: bool) -> None:
    addresses = sorted(f"10.1.0.{number}" for number in range(1, 11))
    for name in ("web.service.consul", "WEB.Service.dc1.Consul"):
        assert answers(host, name, tcp=tcp) == addresses
    assert answers(host, "v1.web.service.consul", tcp=tcp) == ["10.1.0.1", "10.1.0.2"]
    message = ask(host, "_web._v1.service.consul", "SRV", tcp=tcp)
    assert sorted(rows(message.answer)) == [
        "_web._v1.service.consul. 7 SRV 1 1 8001 n1.node.dc1.consul.",
        "_web._v1.service.consul. 7 SRV 1 1 8002 n2.node.dc1.consul.",
    ]
    assert sorted(rows(message.additional)) == [
        "n1.node.dc1.consul. 7 A 10.1.0.1",
        'n1.node.dc1.consul. 7 TXT "rack=r1"',
        "n2.node.dc1.consul. 7 A 10.1.0.2",
        'n2.node.dc1.consul. 7 TXT "rack=r2"',
    ]
    assert rows(ask(host, "n3.node.consul", tcp=tcp).answer) == ["n3.node.consul. 3 A 10.1.0.3"]
    assert answers(host, "n3.node.consul", "TXT", tcp=tcp) == ['"rack=r3"']
    assert code(host, "v9.web.service.consul", tcp=tcp) == "NXDOMAIN"
    assert code(host, "web.service.dc9.consul", tcp=tcp) == "NXDOMAIN"
    assert code(host, "n99.node.consul", tcp=tcp) == "NXDOMAIN"


@pytest.mark.parametrize("host", [SERVER, CLIENT])
def test_other_datacenter_shows_its_wan_addresses(site: Site, host: str) -> None:
    assert answers(host, "web.service.dc2.consul") == ["198.51.100.9"]
    assert answers(host, "far.node.dc2.consul") == ["198.51.100.1"]
    assert answers(host, "web.service.dc2.consul", "SRV") == ["1 1 8080 c6336409.addr.dc2.consul."]
    assert answers(REMOTE, "web.service.consul") == ["10.2.0.9"]
    assert len(answers(REMOTE, "web.service.dc1.consul")) == 10


@pytest.mark.parametrize("host", EVERYWHERE)
def test_other_names_are_asked_of_the_recursor(site: Site, host: str) -> None:
    for tcp in (False, True):
        assert answers(host, "db.example", tcp=tcp) == ["192.0.2.1", "192.0.2.2"]
        assert code(host, "nothing.example", tcp=tcp) == "NXDOMAIN"
    assert code(host, "9.9.9.9.in-addr.arpa", "PTR") == "NXDOMAIN"


@pytest.mark.parametrize("host", [SERVER, CLIENT])
def test_host_name_is_shown_with_what_the_recursor_knows(site: Site, host: str) -> None:
    assert sorted(rows(ask(host, "db.service.consul").answer)) == [
        "db.example. 0 A 192.0.2.1",
        "db.example. 0 A 192.0.2.2",
        "db.service.consul. 0 CNAME db.example.",
    ]
    message = ask(host, "db.service.consul", "SRV")
    assert rows(message.answer) == ["db.service.consul. 0 SRV 1 1 5432 db.example."]
    assert len(rows(message.additional)) == 2


@pytest.mark.parametrize("host", [SERVER, CLIENT])
def test_addresses_lead_back(site: Site, host: str) -> None:
    assert answers(host, "4.0.1.10.in-addr.arpa", "PTR") == ["n4.node.dc1.consul."]


@pytest.mark.parametrize("host", [SERVER, CLIENT])
def test_domain_has_its_servers(site: Site, host: str) -> None:
    message = ask(host, "consul", "NS")
    assert rows(message.answer) == ["consul. 3 NS s1.node.dc1.consul."]
    assert rows(message.additional) == [f"s1.node.dc1.consul. 3 A {SERVER}"]
    assert answers(host, "consul.service.consul") == [SERVER]


@pytest.mark.parametrize("host", [SERVER, CLIENT])
def test_instances_come_and_go(site: Site, host: str) -> None:
    name = f"coming-{host.rpartition('.')[2]}"
    for number in (1, 2):
        register(
            site.server,
            Node=f"n{number}",
            Address=f"10.1.0.{number}",
            NodeMeta={"rack": f"r{number}"},
            Service={"Service": name, "Port": 1},
            Check={"CheckID": f"service:{name}", "ServiceID": name, "Status": "passing"},
        )
    assert answers(host, f"{name}.service.consul") == ["10.1.0.1", "10.1.0.2"]
    register(
        site.server,
        Node="n1",
        SkipNodeUpdate=True,
        Check={"CheckID": f"service:{name}", "ServiceID": name, "Status": "critical"},
    )
    assert answers(host, f"{name}.service.consul") == ["10.1.0.2"]
    for number in (1, 2):
        body = json.dumps({"Node": f"n{number}", "ServiceID": name}).encode()
        assert site.server.request("PUT", "/v1/catalog/deregister", body)[0] == 200
    assert code(host, f"{name}.service.consul") == "NXDOMAIN"


def test_cache_follows_instances(site: Site) -> None:
    """And asks nobody as long as nothing changes."""
    name = "kept.service.consul"
    fields: dict[str, Any] = {"Service": {"Service": "kept", "Port": 1}, "SkipNodeUpdate": True}
    register(site.server, Node="n1", **fields)
    eventually(lambda: known(CACHING, name) == ["10.1.0.1"], timeout=DEADLINE)
    site.server.process.send(signal.SIGSTOP)
    try:
        assert answers(CACHING, name) == ["10.1.0.1"]
    finally:
        site.server.process.send(signal.SIGCONT)
    register(site.server, Node="n2", **fields)
    eventually(lambda: known(CACHING, name) == ["10.1.0.1", "10.1.0.2"], timeout=DEADLINE)


@pytest.mark.parametrize("host", [SERVER, CLIENT])
def test_prepared_query_is_found_by_name(site: Site, host: str) -> None:
    name = f"geo-{host.rpartition('.')[2]}"
    query = {"Name": name, "Service": {"Service": "web", "Tags": ["v1"]}, "DNS": {"TTL": "11s"}}
    status, text, _ = site.server.request("POST", "/v1/query", json.dumps(query).encode())
    assert status == 200, text
    message = ask(host, f"{name}.query.consul")
    assert sorted(rows(message.answer)) == [
        f"{name}.query.consul. 11 A 10.1.0.1",
        f"{name}.query.consul. 11 A 10.1.0.2",
    ]
    assert len(answers(host, f"{name}.query.dc1.consul", "SRV")) == 2
    assert code(host, "nothing.query.consul") == "NXDOMAIN"


def test_hostile_bytes_are_survived(site: Site) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(500):
            sock.sendto(bytes([number % 256]) * (number % 700), (SERVER, PORT))
    with socket.create_connection((SERVER, PORT)) as stream:
        stream.sendall(b"\xff\xff" + bytes(1000))
    assert eventually(partial(known, SERVER, "web.service.consul"), timeout=DEADLINE)


def test_dead_datacenter_fails_and_holds_nobody_up(site: Site) -> None:
    """Last in this module: dc2 is gone after it."""
    site.remote.kill()
    try:
        codes: list[str] = []

        def far(number: int) -> None:
            codes.append(code(SERVER, f"s{number}.service.dc2.consul"))

        threads = [threading.Thread(target=far, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        near = 0
        while any(thread.is_alive() for thread in threads):
            assert len(answers(SERVER, "web.service.consul")) == 10
            near += 1
        for thread in threads:
            thread.join()
        assert near > 0
        assert codes == ["SERVFAIL"] * 100
    finally:
        site.remote.restart()
        eventually(partial(known, REMOTE, "web.service.consul"), timeout=DEADLINE)


def test_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((SINGLE, PORT))
        command = [*ISTHMUS, "agent", "-dev", "-bind", SINGLE, "-client", SINGLE]
        process = Process(command, tmp_path / "log")
        assert process.wait() == 1
    assert f"cannot listen for DNS on {SINGLE}:8600: address already in use" in process.output()
    assert "ports.dns" in process.output()


def test_flags_say_where_and_what(tmp_path: Path) -> None:
    names = {"db.example": ["192.0.2.1"]}
    with OtherNames(names) as others:
        command = [*ISTHMUS, "agent", "-dev", "-bind", SINGLE, "-client", SINGLE, "-node", "own"]
        command += ["-dns-port", "8653", "-domain", "site", "-alt-domain", "other.example"]
        command += ["-recursor", f"{others.host}:{others.port}"]
        process = Process(command, tmp_path / "log")
        try:
            with shown_on_failure(process):
                for domain in ("site", "other.example"):
                    name = f"own.node.dc1.{domain}"
                    eventually(partial(known, SINGLE, name, port=8653), timeout=DEADLINE)
                    assert answers(SINGLE, name, port=8653) == [SINGLE]
                assert answers(SINGLE, "db.example", port=8653) == ["192.0.2.1"]
                assert code(SINGLE, "own.node.consul", port=8653) == "NXDOMAIN"
        finally:
            process.stop()
        started = time.monotonic()
        assert process.wait() == 0
        assert time.monotonic() - started < DEADLINE


def test_reload_is_answered_by_at_once(tmp_path: Path) -> None:
    file, log = tmp_path / "dns.json", tmp_path / "log"
    with OtherNames({"db.example": ["192.0.2.1"]}) as others:
        file.write_text(json.dumps({"dns_config": {"node_ttl": "5s"}}))
        command = [*ISTHMUS, "agent", "-dev", "-bind", SINGLE, "-client", SINGLE, "-node", "own"]
        process = Process([*command, "-config-file", str(file)], log)
        try:
            with shown_on_failure(process):
                eventually(partial(known, SINGLE, "own.node.consul"), timeout=DEADLINE)
                assert _ttls(SINGLE, "own.node.consul") == {5}
                assert code(SINGLE, "db.example") == "REFUSED"
                fresh = {
                    "dns_config": {"node_ttl": "9s"},
                    "recursors": [f"{others.host}:{others.port}"],
                }
                file.write_text(json.dumps(fresh))
                process.send(signal.SIGHUP)
                eventually(lambda: _ttls(SINGLE, "own.node.consul") == {9}, timeout=DEADLINE)
                assert answers(SINGLE, "db.example") == ["192.0.2.1"]
                file.write_text(json.dumps({"recursors": ["nobody"]}))
                process.send(signal.SIGHUP)
                eventually(lambda: "Invalid recursor address" in log.read_text(), timeout=DEADLINE)
                assert answers(SINGLE, "db.example") == ["192.0.2.1"]
        finally:
            process.stop()


def _ttls(host: str, name: str) -> set[int]:
    return {int(row.split()[1]) for row in rows(ask(host, name).answer)}
