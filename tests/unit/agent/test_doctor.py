"""The doctor, with a network, calls and pools that fail as told."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from isthmus.agent.doctor import Doctor, Surroundings
from isthmus.agent.status import Clocks, Remote
from isthmus.config.model import AgentConfig, ConnectConfig, TlsConfig
from isthmus.errors import DialFailed, RemoteError
from isthmus.federation.diagnosis import CertificateFacts
from isthmus.federation.locator import GatewayLocator
from isthmus.federation.outcomes import Outcomes
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.model.catalog import (
    CheckServiceNode,
    IndexedServiceNodes,
    Node,
    NodeService,
    ServiceNode,
)
from isthmus.model.diagnosis import (
    BROKEN,
    OK,
    UNKNOWN,
    Clock,
    DatacenterReport,
    DoctorReport,
    FederationReport,
)
from isthmus.model.federation import FederationState, FederationStateResponse
from isthmus.model.timestamp import Timestamp
from isthmus.net import tls
from isthmus.net.network import Network
from support.certificates import Authority
from support.virtual_loop import now, run_virtual

WALL = datetime.now(UTC)  # noqa: TID251 - certificates are made now.


class FakeTransport(asyncio.Transport):
    def abort(self) -> None:
        return None


@dataclass
class FakeNetwork:
    """Every dial works, or fails with `error`; `refusal` ends connections after the handshake."""

    error: OSError | None = None
    refusal: OSError | None = None
    dialled: list[tuple[str, int, str]] = field(default_factory=list)

    async def dial(
        self, factory: Callable[[], Any], host: str, port: int, *, tls: Any, **_: object
    ) -> Any:
        self.dialled.append((host, port, tls.server_name))
        if self.error is not None:
            raise self.error
        protocol = factory()
        protocol.connection_made(FakeTransport())
        if self.refusal is not None:
            protocol.connection_lost(self.refusal)
        return protocol


@dataclass
class FakeForwarder:
    """Answers methods as told; an exception is raised."""

    answers: dict[str, Any]

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        answer = self.answers.get(method, RemoteError(f"rpc: can't find service {method}"))
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class FakePool:
    people: list[Member]
    answered: dict[str, float]
    claimed: dict[str, tuple[str, float]] = field(default_factory=dict)

    def members(self) -> tuple[Member, ...]:
        return tuple(self.people)

    async def acks(self) -> dict[str, float]:
        return self.answered

    async def conflicts(self) -> dict[str, tuple[str, float]]:
        return self.claimed


@dataclass
class FakeWays:
    locator: GatewayLocator | None
    outcomes: Outcomes
    forwarder: Remote


def member(name: str, dc: str, *, number: str, status: MemberStatus = MemberStatus.ALIVE) -> Member:
    return Member(
        name=name, address="10.0.0.1", port=8302, tags={"dc": dc, "id": number}, status=status
    )


def state(dc: str, host: str) -> FederationState:
    gateway = CheckServiceNode(
        node=Node(node="n", address=host),
        service=NodeService(address=host, port=8443, meta={"consul-wan-federation": "1"}),
    )
    return FederationState(datacenter=dc, mesh_gateways=(gateway,))


STATES = [state("dc1", "10.1.0.1"), state("dc2", "10.2.0.1")]
BETA = member("beta.dc2", "dc2", number="2")


def sound_answers() -> dict[str, Any]:
    return {
        "Catalog.ServiceNodes": IndexedServiceNodes(service_nodes=(ServiceNode(node="beta"),)),
        "FederationState.Get": FederationStateResponse(state=STATES[0]),
        "Isthmus.Clock": Clock(time=Timestamp.of(WALL)),
        "Isthmus.Report": FederationReport(
            node_name="beta", datacenters=(DatacenterReport(datacenter="dc1"),)
        ),
    }


class Patient:
    """dc1, the primary, with a server alpha; dc2 has a server beta."""

    def __init__(self, folder: Path, *, names: Sequence[str] = (), days: int = 30) -> None:
        made = Authority(folder).issue(
            *(names or ("alpha.server.dc1.consul", "server.dc1.consul")), days=days
        )
        self.files = tls.TlsConfig(
            ca_file=str(made.ca_file), cert_file=str(made.cert_file), key_file=str(made.key_file)
        )
        self.network = FakeNetwork()
        self.shown: CertificateFacts | None = None
        self.forwarder = FakeForwarder(sound_answers())
        self.alpha = member("alpha.dc1", "dc1", number="1")
        self.wan = FakePool([self.alpha, BETA], {"beta.dc2": 1.0})
        self.lan = FakePool([member("alpha", "dc1", number="1")], {})

    def doctor(self) -> Doctor:
        config = AgentConfig(
            datacenter="dc1",
            primary_datacenter="dc1",
            node_name="alpha",
            tls=TlsConfig(
                ca_file=self.files.ca_file,
                cert_file=self.files.cert_file,
                key_file=self.files.key_file,
            ),
            connect=ConnectConfig(enabled=True, mesh_gateway_wan_federation=True),
        )
        locator = GatewayLocator(dc="dc1", primary_dc="dc1", rng=Random(1))
        locator.set_states(STATES)
        network: Any = self.network
        checked: Network = network
        return Doctor(
            Surroundings(
                config=config,
                tls=lambda: self.files,
                network=checked,
                federation=FakeWays(locator, Outcomes(), self.forwarder),
                states=lambda: STATES,
                wan=lambda: self.wan,
                lan=lambda: self.lan,
                replication=lambda: None,
                clocks=Clocks(
                    dc="dc1",
                    primary_dc="dc1",
                    remote=self.forwarder,
                    datacenters=lambda: ("dc2",),
                    wall=lambda: WALL,
                ),
                wall=lambda: WALL,
                look=self.look,
            )
        )

    async def look(self, *_: object, **__: object) -> CertificateFacts | None:
        return self.shown

    def examine(self, dc: str = "") -> DoctorReport:
        return run_virtual(self.doctor().examine(dc))


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path)


def verdicts(report: DoctorReport, source: str, target: str) -> list[tuple[str, str]]:
    return [
        (str(finding.hop), finding.verdict)
        for finding in report.findings
        if (finding.source, finding.target) == (source, target)
    ]


def texts(report: DoctorReport, source: str, target: str, hop: str) -> tuple[str, str]:
    """Text and remedy of a hop."""
    (finding,) = (
        one for one in report.findings if (one.source, one.target, one.hop) == (source, target, hop)
    )
    return finding.text, finding.remedy


def test_sound_federation_hop_by_hop(patient: Patient) -> None:
    report = patient.examine()
    assert verdicts(report, "dc1", "dc1") == [("configuration", OK), ("certificates", OK)]
    assert verdicts(report, "dc1", "dc2") == [
        (hop, OK) for hop in ("gateways", "address", "TLS", "RPC", "gossip", "clock")
    ]
    back = dict(verdicts(report, "dc2", "dc1"))
    assert back.pop("replication") == UNKNOWN  # Its report does not say that it leads.
    assert set(back.values()) == {OK}
    assert patient.network.dialled == [("10.1.0.1", 8443, "beta.server.dc2.consul")]


def test_one_datacenter_only(patient: Patient) -> None:
    assert verdicts(patient.examine("dc9"), "dc1", "dc2") == []
    assert len(patient.examine("dc1").findings) == 2


def test_gateway_that_nobody_reaches(patient: Patient) -> None:
    patient.network.error = ConnectionRefusedError(111, "refused")
    report = patient.examine()
    assert verdicts(report, "dc1", "dc2") == [
        ("gateways", OK),
        ("address", BROKEN),
        ("gossip", OK),
        ("clock", UNKNOWN),
    ]
    text, remedy = texts(report, "dc1", "dc2", "address")
    assert text == "dial tcp 10.1.0.1:8443: connect: connection refused"
    assert remedy.startswith("nothing listens at 10.1.0.1:8443")
    assert verdicts(report, "dc2", "dc1") == [("gateways", OK), ("gossip", OK)]


def test_certificate_that_is_refused_after_the_handshake(patient: Patient) -> None:
    """TLS 1.3: the refusal of our certificate comes after our side is done."""
    patient.network.refusal = ssl.SSLError(1, "[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] alert")
    patient.network.refusal.reason = "SSLV3_ALERT_CERTIFICATE_EXPIRED"
    report = patient.examine()
    assert ("TLS", BROKEN) in verdicts(report, "dc1", "dc2")
    text, remedy = texts(report, "dc1", "dc2", "TLS")
    assert "the peer refused our certificate: certificate expired" in text
    assert "-dc dc1" in remedy


def test_certificate_that_we_refuse_is_described(patient: Patient) -> None:
    patient.network.error = ssl.SSLError(1, "certificate verify failed")
    patient.shown = CertificateFacts(
        owner="server beta of dc2",
        names=("server.dc2.consul",),
        issuer="CN=CA",
        not_before=WALL - timedelta(days=1),
        not_after=WALL + timedelta(days=1),
        trusted=True,
    )
    text, remedy = texts(patient.examine(), "dc1", "dc2", "TLS")
    assert "certificate of server beta of dc2 names server.dc2.consul, not beta.server" in text
    assert "isthmus tls cert create -server -dc dc2 -node beta" in remedy


def test_call_that_fails(patient: Patient) -> None:
    patient.forwarder.answers["Catalog.ServiceNodes"] = DialFailed(
        "no", dc="dc2", node="beta", gateway="g:1", step="route"
    )
    report = patient.examine()
    assert ("RPC", BROKEN) in verdicts(report, "dc1", "dc2")
    assert "g:1 has no route to dc2" in texts(report, "dc1", "dc2", "RPC")[1]


def test_consul_server_proves_the_way_back_by_its_acks(patient: Patient) -> None:
    del patient.forwarder.answers["Isthmus.Report"], patient.forwarder.answers["Isthmus.Clock"]
    report = patient.examine()
    assert verdicts(report, "dc2", "dc1") == [
        ("gateways", OK),
        ("address", OK),
        ("TLS", OK),
        ("RPC", UNKNOWN),
        ("gossip", OK),
    ]
    assert ("clock", UNKNOWN) in verdicts(report, "dc1", "dc2")


def test_failure_that_the_other_side_reports(patient: Patient) -> None:
    patient.forwarder.answers["Isthmus.Report"] = FederationReport(
        node_name="beta",
        datacenters=(
            DatacenterReport(
                datacenter="dc1",
                failing_since=Timestamp.of(WALL),
                failed_step="tls",
                last_error="certificate has expired",
            ),
        ),
    )
    report = patient.examine()
    back = verdicts(report, "dc2", "dc1")
    assert back[:3] == [("gateways", OK), ("address", OK), ("TLS", BROKEN)]
    assert "beta reports since" in texts(report, "dc2", "dc1", "TLS")[0]


def test_other_side_that_does_not_know_our_gateways(patient: Patient) -> None:
    patient.forwarder.answers["FederationState.Get"] = FederationStateResponse()
    text, remedy = texts(patient.examine(), "dc2", "dc1", "gateways")
    assert text == "dc2 does not know our gateways (10.1.0.1:8443), but none"
    assert "replication" in remedy


def test_twin_of_ours_and_of_another(patient: Patient) -> None:
    patient.wan.people += [
        member("gamma.dc1", "dc1", number="9"),
        member("delta.dc2", "dc2", number="8"),
    ]
    report = patient.examine()
    assert "its servers are gamma.dc1" in texts(report, "dc1", "dc1", "configuration")[0]
    assert "its servers are delta.dc2" in texts(report, "dc1", "dc2", "configuration")[0]


def test_twins_whose_servers_have_one_name(patient: Patient) -> None:
    patient.wan.claimed = {
        "alpha.dc1": ("10.9.0.1:8302", 5.0),
        "beta.dc2": ("10.9.0.2:8302", 5.0),
        "old.dc2": ("10.9.0.3:8302", 500.0),
    }
    report = patient.examine()
    text = "its servers are alpha.dc1 at 10.9.0.1:8302"
    assert texts(report, "dc1", "dc1", "configuration")[0].endswith(text)
    text = "its servers are beta.dc2 at 10.9.0.2:8302"
    assert texts(report, "dc1", "dc2", "configuration")[0].endswith(text)


def test_faults_that_no_call_tells_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patient = Patient(tmp_path, names=("server.dc1.consul",))
    stranger = member("gamma.dc1", "dc1", number="9")

    async def watch() -> None:
        task = asyncio.ensure_future(patient.doctor().watch())
        await asyncio.sleep(60)
        patient.wan.people.append(stranger)
        await asyncio.sleep(60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert now() == 120

    run_virtual(watch())
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 2
    assert "not alpha.server.dc1.consul: remedy: issue a new one" in warned[0]
    assert "another datacenter is named dc1 too" in warned[1]


def test_expired_certificate_is_found(tmp_path: Path) -> None:
    patient = Patient(tmp_path, days=-1)
    text, remedy = texts(patient.examine(), "dc1", "dc1", "certificates")
    assert f"expired at {WALL - timedelta(days=1):%Y-%m-%d}" in text
    assert "isthmus tls cert create -server -dc dc1 -node alpha" in remedy
