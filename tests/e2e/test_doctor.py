"""``federation doctor`` and ``status`` in networks of their own: every fault has its line."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from isthmus.cli.certificates import SignedPair, make_ca, make_certificate
from support.federation import Federation
from support.netns import GATEWAY_PORT, Site, Sites
from support.processes import ISTHMUS, Process, eventually, server_config, shown_on_failure

pytestmark = [pytest.mark.e2e, pytest.mark.namespaces, pytest.mark.timeout(180)]

_AN_HOUR_AHEAD = """
import datetime, sys
from isthmus.agent import platform
from isthmus.cli.main import main

class Ahead(datetime.datetime):
    @classmethod
    def now(cls, zone=None):
        return datetime.datetime.now(zone) + datetime.timedelta(hours=1)

platform.datetime = Ahead
sys.exit(main(sys.argv[1:]))
"""
"""The program with a calendar that is an hour ahead of everybody else's."""


@dataclass
class Examination:
    """What the doctor said."""

    code: int
    findings: list[dict[str, str]]

    def broken(self, source: str, target: str) -> list[dict[str, str]]:
        """Broken hops of a way, in their order."""
        return [
            finding
            for finding in self.findings
            if (finding["Source"], finding["Target"]) == (source, target)
            and finding["Verdict"] == "broken"
        ]


def isthmus(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command against a site's server."""
    return subprocess.run(
        site.command(*ISTHMUS, *words, "-http-addr", f"{site.server}:8500"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def examine(site: Site, *flags: str) -> Examination:
    """Run the doctor in a site."""
    done = isthmus(site, "federation", "doctor", "-format", "json", *flags)
    assert done.stdout, done.stderr
    return Examination(done.returncode, json.loads(done.stdout)["Findings"])


def first_broken(site: Site, source: str, target: str, hop: str, *words: str) -> dict[str, str]:
    """The first broken hop of a way, once it is this one and its remedy has these words.

    While a server restarts, an earlier hop is broken.
    """

    def look() -> dict[str, str]:
        examination = examine(site)
        broken = examination.broken(source, target)
        assert broken, examination.findings
        assert examination.code == 1
        assert not any("Remedy" in finding for finding in broken[1:])
        assert broken[0]["Hop"] == hop, broken[0]
        assert all(word in broken[0]["Remedy"] for word in words), broken[0]
        return broken[0]

    return eventually(look, timeout=30, what=f"{source} → {target} broken at {hop}", every=0.5)


def log_line(process: Process, *words: str, timeout: float = 30) -> str:
    """The one warning that has all these words."""

    def look() -> list[str]:
        return [
            line
            for line in process.output().splitlines()
            if "[WARN]" in line and all(word in line for word in words)
        ]

    lines = eventually(look, timeout=timeout, what=f"one log line with {words}")
    assert len(lines) == 1, lines
    (line,) = lines
    return line


@pytest.fixture
def federation(sites: Sites, tmp_path: Path) -> Iterator[Federation]:
    """Two datacenters, formed; the third site is for strangers."""
    federation = Federation(sites, tmp_path)
    dc1, dc2, _ = sites.sites
    try:
        for site in (dc1, dc2):
            federation.start_server(site)
            federation.start_gateway(site)
        eventually(lambda: formed(dc1, dc2), timeout=60, what="two datacenters formed")
        with shown_on_failure(*federation.processes()):
            yield federation
    finally:
        federation.stop()


def formed(*sites: Site) -> bool:
    names = {site.name for site in sites}
    for site in sites:
        assert set(site.get("/v1/internal/federation-states/mesh-gateways")) == names
        for name in names:
            assert site.get(f"/v1/catalog/nodes?dc={name}")
    return True


def replace_certificate(
    federation: Federation,
    site: Site,
    *,
    node: str | None = None,
    ca: SignedPair | None = None,
    **more: Any,
) -> None:
    """Restart a site's server with another certificate."""
    folder = federation.folder
    authority = ca or SignedPair(
        (folder / "consul-agent-ca.pem").read_bytes(),
        (folder / "consul-agent-ca-key.pem").read_bytes(),
    )
    made = make_certificate(
        authority, dc=site.name, node=federation.node(site) if node is None else node, **more
    )
    files = {
        "cert_file": folder / f"{site.name}-other.pem",
        "key_file": folder / f"{site.name}-other-key.pem",
    }
    files["cert_file"].write_bytes(made.certificate)
    files["key_file"].write_bytes(made.key)
    if ca is not None:
        files["ca_file"] = folder / "other-ca.pem"
        files["ca_file"].write_bytes(ca.certificate)
    federation.servers[site.name].stop(signal.SIGKILL)
    federation.start_server(site, **{name: str(path) for name, path in files.items()})


def test_sound_federation_is_found_sound(federation: Federation) -> None:
    dc1, dc2, _ = federation.sites.sites
    for site, other in ((dc1, "dc2"), (dc2, "dc1")):
        found = examine(site)
        assert (found.code, [one for one in found.findings if one["Verdict"] == "broken"]) == (
            0,
            [],
        )
        hops = [one["Hop"] for one in found.findings if one["Source"] == site.name]
        assert hops[:2] == ["configuration", "certificates"]
        assert {"gateways", "address", "TLS", "RPC", "gossip", "clock"} <= set(hops)
        assert {one["Target"] for one in examine(site, "-datacenter", other).findings} == {
            "dc1",
            "dc2",
        }
        shown = isthmus(site, "federation", "status")
        assert shown.returncode == 0, shown.stderr
        assert f"{site.gateway()}:{GATEWAY_PORT}" in shown.stdout
        status = site.get("/v1/isthmus/federation")
        assert {one["Datacenter"] for one in status["Datacenters"]} == {"dc1", "dc2"}
        assert sum(one["Attempts"] for one in status["Gateways"]) > 0
    assert dc2.get("/v1/isthmus/federation")["WayToPrimary"] == "local gateways"
    assert dc1.get("/v1/isthmus/federation?dc=dc2")["NodeName"] == "dc2s0"


def test_expired_certificate(federation: Federation) -> None:
    dc1, dc2, _ = federation.sites.sites
    replace_certificate(federation, dc2, days=1, wall=datetime.now(UTC) - timedelta(days=2))  # noqa: TID251
    issue = "isthmus tls cert create -server -dc dc2 -node dc2s0"
    assert "expired at" in first_broken(dc2, "dc2", "dc2", "certificates", issue)["Text"]
    assert "certificate has expired" in first_broken(dc1, "dc1", "dc2", "TLS", issue)["Text"]
    answer = dc1.request("GET", "/v1/catalog/nodes?dc=dc2")
    assert answer.status == 500
    assert b"datacenter dc2, server dc2s0, gateway 10.1.0.20:8443, step: TLS" in answer.body
    log_line(federation.servers["dc2"], "certificate of this server", "expired", "remedy")
    log_line(federation.servers["dc1"], "cannot reach datacenter dc2", "has expired", "hop=TLS")


def test_certificate_without_the_name_of_its_node(federation: Federation) -> None:
    dc1, dc2, _ = federation.sites.sites
    replace_certificate(federation, dc2, node="")
    issue = "isthmus tls cert create -server -dc dc2 -node dc2s0"
    own = first_broken(dc2, "dc2", "dc2", "certificates", issue)
    assert "not dc2s0.server.dc2.consul" in own["Text"]
    first_broken(dc1, "dc1", "dc2", "TLS", issue)
    log_line(federation.servers["dc2"], "certificate of this server", "not dc2s0.server")
    log_line(federation.servers["dc1"], "cannot reach datacenter dc2", "not valid for", "-dc dc2")


def test_wrong_ca(federation: Federation) -> None:
    dc1, dc2, _ = federation.sites.sites
    replace_certificate(federation, dc2, ca=make_ca())
    for site, source, target in ((dc1, "dc1", "dc2"), (dc2, "dc2", "dc1")):
        first_broken(site, source, target, "TLS", "one CA")
        log_line(federation.servers[source], f"cannot reach datacenter {target}", "one CA")


def test_gateway_that_is_none(sites: Sites, tmp_path: Path) -> None:
    federation = Federation(sites, tmp_path)
    dc1, dc2, _ = sites.sites
    command = [sys.executable, "-m", "http.server", str(GATEWAY_PORT), "--bind", dc1.gateway_wan()]
    other = Process(dc1.command(*command), tmp_path / "other.log")
    try:
        federation.start_server(dc1)
        federation.start_server(dc2)
        with shown_on_failure(*federation.processes()):
            eventually(lambda: dc2.get("/v1/agent/self"), timeout=20)
            address = f"{dc1.gateway_wan()}:{GATEWAY_PORT}"
            first_broken(dc2, "dc2", "dc1", "TLS", f"{address} is no mesh gateway")
            log_line(federation.servers["dc2"], "cannot reach datacenter dc1", "is no mesh gateway")
            answer = dc2.request("GET", "/v1/catalog/nodes?dc=dc1")
            assert answer.status == 500
            assert answer.body.startswith(b"No path to datacenter: ")
            assert address.encode() in answer.body
    finally:
        other.stop(signal.SIGKILL)
        federation.stop()


@pytest.mark.parametrize("node", ["dc3s0", "dc2s0"])
def test_two_datacenters_of_one_name(federation: Federation, node: str) -> None:
    """Their servers may have names of their own, or the same."""
    dc1, dc2, dc3 = federation.sites.sites
    folder = federation.folder / "twin"
    folder.mkdir()
    ca = federation.folder / "consul-agent-ca.pem"
    (folder / ca.name).write_bytes(ca.read_bytes())
    key = federation.folder / "consul-agent-ca-key.pem"
    made = make_certificate(SignedPair(ca.read_bytes(), key.read_bytes()), dc="dc2", node=node)
    (folder / "dc2-server-consul-0.pem").write_bytes(made.certificate)
    (folder / "dc2-server-consul-0-key.pem").write_bytes(made.key)
    config = server_config(
        folder,
        dc="dc2",
        node=node,
        address=dc3.server,
        primary_gateways=[f"{dc1.gateway_wan()}:{GATEWAY_PORT}"],
    )
    command = dc3.command(*ISTHMUS, "agent", "-config-file", str(config))
    federation.servers["twin"] = Process(command, folder / "server.log")
    seen = first_broken(dc1, "dc1", "dc2", "configuration", "a name of its own")
    text = f"another datacenter is named dc2 too: its servers are {node}.dc2"
    assert text in seen["Text"]
    if node == "dc2s0":  # dc1 keeps to the first, so dc2 does not hear of the other.
        log_line(federation.servers["dc1"], "Name conflict for 'dc2s0.dc2'", "a name of its own")
        return
    assert text in first_broken(dc2, "dc2", "dc2", "configuration", "a name of its own")["Text"]
    log_line(federation.servers["dc2"], "another datacenter is named dc2 too", "hop=configuration")


def test_address_that_another_agent_has(federation: Federation) -> None:
    dc1 = federation.sites.sites[0]
    config = server_config(
        federation.folder,
        dc="dc1",
        node="second",
        address=dc1.server,
        data_dir=str(federation.folder / "second"),
    )
    done = subprocess.run(
        dc1.command(*ISTHMUS, "agent", "-config-file", str(config)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "[ERROR]" in line]
    assert "datacenter dc1, server second, hop configuration" in line
    assert f"cannot listen for server RPC on {dc1.server}:8300" in line
    assert "another agent or program on this host has it" in line


def test_clock_that_is_an_hour_ahead(federation: Federation) -> None:
    dc1, dc2, _ = federation.sites.sites
    federation.servers["dc2"].stop(signal.SIGKILL)
    config = federation.folder / "dc2.json"
    command = dc2.command(
        sys.executable, "-c", _AN_HOUR_AHEAD, "agent", "-config-file", str(config)
    )
    federation.servers["dc2"] = Process(command, federation.folder / "dc2-server.log")
    eventually(lambda: formed(dc1, dc2), timeout=60, what="formed again")
    ahead = first_broken(dc1, "dc1", "dc2", "clock", "NTP")
    assert "3600 s ahead of that of dc1" in ahead["Text"]
    behind = first_broken(dc2, "dc2", "dc1", "clock", "NTP")
    assert "3600 s behind that of dc2" in behind["Text"]
    log_line(federation.servers["dc1"], "the clock of dc2 is 3600 s ahead", "hop=clock", "NTP")
    log_line(federation.servers["dc2"], "the clock of dc1 is 3600 s behind", "hop=clock", "NTP")
