"""From facts to findings: every fault that operators meet has its hop and its remedy."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from isthmus.errors import STEPS
from isthmus.federation.diagnosis import (
    CertificateFacts,
    DialFacts,
    Hop,
    MemberFacts,
    Way,
    covers,
    hop_of,
    judge_address,
    judge_certificate,
    judge_clock,
    judge_configuration,
    judge_gateways,
    judge_gossip,
    judge_replication,
    judge_rpc,
    judge_tls,
    remedy_for,
    settle,
)
from isthmus.model.catalog import CheckServiceNode, HealthCheck, Node, NodeService
from isthmus.model.diagnosis import BROKEN, OK, UNKNOWN, Finding

WALL = datetime(2026, 11, 23, 12, tzinfo=UTC)
WAY = Way(source="dc1", target="dc2", primary="dc1")
OWN = Way(source="dc2", target="dc2", primary="dc1")
NAMES = ("server.dc2.consul", "beta.server.dc2.consul")


def configured(
    *,
    mesh_gateways: bool = True,
    tls: bool = True,
    wan_pool: bool = True,
    primary_gateways: Sequence[str] = ("g:1",),
    twins: Sequence[str] = (),
) -> Finding:
    return judge_configuration(
        OWN,
        mesh_gateways=mesh_gateways,
        tls=tls,
        wan_pool=wan_pool,
        primary_gateways=primary_gateways,
        twins=twins,
    )


def certificate(
    *,
    names: Sequence[str] = NAMES,
    begins: timedelta = timedelta(days=-1),
    ends: timedelta = timedelta(days=90),
    trusted: bool | None = True,
) -> Finding:
    facts = CertificateFacts(
        owner="this server",
        names=tuple(names),
        issuer="CN=some CA",
        not_before=WALL + begins,
        not_after=WALL + ends,
        trusted=trusted,
    )
    return judge_certificate(OWN, facts, wanted=NAMES, wall=WALL)


def gateway(
    name: str = "gw", *, federated: bool = True, status: str = "passing"
) -> CheckServiceNode:
    return CheckServiceNode(
        node=Node(node="n1", address="10.0.0.1"),
        service=NodeService(
            id=name, port=8443, meta={"consul-wan-federation": "1"} if federated else None
        ),
        checks=(HealthCheck(check_id="tcp", status=status, output="dial tcp:\n refused"),),
    )


def test_sound_configuration() -> None:
    assert (configured().verdict, configured().remedy) == (OK, "")
    assert configured(primary_gateways=()).verdict == OK


@pytest.mark.parametrize(
    ("finding", "remedy"),
    [
        (configured(mesh_gateways=False), "enable_mesh_gateway_wan_federation"),
        (configured(tls=False), "ca_file"),
        (configured(wan_pool=False), "ports.serf_wan"),
        (configured(twins=["x.dc2"]), "a name of its own"),
    ],
)
def test_faults_of_the_configuration(finding: Finding, remedy: str) -> None:
    assert (finding.hop, finding.verdict) == (Hop.CONFIGURATION, BROKEN)
    assert remedy in finding.remedy


def test_sound_certificate_is_described() -> None:
    finding = certificate()
    assert finding.verdict == OK
    for part in (*NAMES, "CN=some CA", "2027-02-21T12:00:00Z"):
        assert part in finding.text
    assert "renew it soon" not in finding.text
    assert "renew it soon" in certificate(ends=timedelta(days=3)).text


@pytest.mark.parametrize(
    ("finding", "text", "remedy"),
    [
        (certificate(ends=timedelta(days=-1)), "expired at 2026-11-22", "-dc dc2 -node beta"),
        (certificate(begins=timedelta(hours=1)), "only from 2026-11-23T13", "NTP"),
        (certificate(trusted=False), "is not our CA", "one CA"),
        (certificate(names=NAMES[:1]), "not beta.server.dc2.consul", "-dc dc2 -node beta"),
        (certificate(names=()), "names nothing", "-dc dc2 -node beta"),
    ],
)
def test_faults_of_certificates(finding: Finding, text: str, remedy: str) -> None:
    assert (finding.hop, finding.verdict) == (Hop.CERTIFICATES, BROKEN)
    assert text in finding.text
    assert remedy in finding.remedy


def test_wildcard_covers_one_label() -> None:
    assert covers(["*.server.dc2.consul"], "Beta.server.dc2.consul")
    assert not covers(["*.server.dc2.consul"], "server.dc2.consul")
    assert not covers(["*.dc2.consul"], "beta.server.dc2.consul")


def test_usable_gateways() -> None:
    finding = judge_gateways(WAY, [gateway(), gateway("b", status="critical")], dialled=["g:1"])
    assert finding.verdict == OK
    assert "1 of 2" in finding.text
    assert "b on n1: check tcp is critical (dial tcp: refused)" in finding.text


@pytest.mark.parametrize(
    ("gateways", "dialled", "text", "remedy"),
    [
        ([gateway(status="critical")], ["g:1"], "check tcp is critical", "pass their checks"),
        ([gateway(federated=False)], ["g:1"], "consul-wan-federation", "-expose-servers"),
        ([gateway()], [], "no gateway is known that leads to dc2", "start a gateway in dc1"),
    ],
)
def test_faults_of_gateways(
    gateways: list[CheckServiceNode], dialled: list[str], text: str, remedy: str
) -> None:
    finding = judge_gateways(WAY, gateways, dialled=dialled)
    assert (finding.hop, finding.verdict) == (Hop.GATEWAYS, BROKEN)
    assert text in finding.text
    assert remedy in finding.remedy


def test_new_secondary_without_a_gateway_is_told_of_primary_gateways() -> None:
    way = Way(source="dc2", target="dc1", primary="dc1")
    assert "primary_gateways" in judge_gateways(way, [], dialled=[]).remedy
    assert judge_gateways(way, [], dialled=["g:1"]).verdict == UNKNOWN


def test_one_gateway_that_works_is_enough() -> None:
    dials = [
        DialFacts(gateway="g:1", step="connect", text="dial tcp g:1: connect: connection refused"),
        DialFacts(gateway="g:2", step="tls", text="bad"),
        DialFacts(gateway="g:3", seconds=0.02),
    ]
    address, tls = judge_address(WAY, dials), judge_tls(WAY, dials, node="beta")
    assert (address.verdict, tls.verdict) == (OK, OK)
    assert "connection refused" in address.text
    assert tls.text == "server beta of dc2 answers through g:3 in 20 ms; not through g:2: bad"


def test_unreachable_address() -> None:
    dials = [DialFacts(gateway="g:1", step="deadline", text="connect to g:1 took longer than 5 s")]
    finding = judge_address(WAY, dials)
    assert finding.verdict == BROKEN
    assert "firewalls" in finding.remedy


@pytest.mark.parametrize(
    ("step", "text", "remedy"),
    [
        ("no gateway known", "", "primary_gateways"),
        ("connect", "connect: connection refused", "nothing listens at g:1"),
        ("connect", "connect: no route to host", "firewalls"),
        ("connect", "connect: name or service not known", "DNS"),
        ("deadline", "TLS handshake with g:1 took longer", "restart that gateway"),
        ("route", "the peer ended the connection", "g:1 has no route to dc2"),
        ("alpn", "the peer does not speak", "is no Consul or isthmus server"),
        ("tls", "the peer's certificate is refused: certificate has expired", "-dc dc2"),
        ("tls", "the peer refused our certificate: certificate expired", "-dc dc1"),
        ("tls", "certificate is not yet valid", "NTP"),
        ("tls", "unable to get local issuer certificate", "one CA"),
        ("tls", "the peer refused our certificate: unknown ca", "one CA"),
        ("tls", "certificate is not valid for 'beta.server.dc2.consul'", "-dc dc2 -node"),
        ("tls", "the peer refused our certificate: bad certificate", "-dc dc1"),
        ("tls", "wrong version number", "g:1 is no mesh gateway"),
        ("tls", "outgoing TLS disabled: no CA", "set ca_file"),
        ("tls", "something else", "compare"),
        ("acl", "Permission denied", "operator:write"),
        ("remote server", "No cluster leader", "log of the server of dc2"),
    ],
)
def test_every_step_has_a_remedy(step: str, text: str, remedy: str) -> None:
    assert remedy in remedy_for(step, text, source="dc1", target="dc2", gateway="g:1")
    assert step in STEPS


@pytest.mark.parametrize(
    ("step", "text", "hop"),
    [
        ("connect", "", Hop.ADDRESS),
        ("deadline", "connect to g:1 took longer than 5 s", Hop.ADDRESS),
        ("deadline", "TLS handshake with g:1 took longer than 5 s", Hop.TLS),
        ("tls", "", Hop.TLS),
        ("acl", "", Hop.RPC),
        ("remote server", "", Hop.RPC),
    ],
)
def test_hop_of_a_step(step: str, text: str, hop: Hop) -> None:
    assert hop_of(step, text) is hop


def test_rpc() -> None:
    assert judge_rpc(WAY, seconds=0.004, step="", text="", gateway="").text.endswith("in 4 ms")
    assert judge_rpc(WAY, seconds=1, step="acl", text="no", gateway="").verdict == BROKEN


@pytest.mark.parametrize(
    ("members", "verdict"),
    [
        ([], BROKEN),
        ([MemberFacts(name="b.dc2", status="failed", acked=1.0)], BROKEN),
        ([MemberFacts(name="b.dc2", status="alive")], UNKNOWN),
        ([MemberFacts(name="b.dc2", status="alive", acked=61.0)], BROKEN),
        ([MemberFacts(name="b.dc2", status="alive", acked=59.0)], OK),
    ],
)
def test_gossip(members: list[MemberFacts], verdict: str) -> None:
    assert judge_gossip(WAY, members, patience=60.0).verdict == verdict


@pytest.mark.parametrize(
    ("running", "last_success", "failures", "missing", "verdict"),
    [
        (False, None, 0, -1, UNKNOWN),
        (True, None, 0, -1, BROKEN),
        (True, 5.0, 2, 0, BROKEN),
        (True, 5.0, 0, 1, BROKEN),
        (True, 250.0, 0, 0, OK),
    ],
)
def test_replication(
    running: bool, last_success: float | None, failures: int, missing: int, verdict: str
) -> None:
    finding = judge_replication(
        WAY,
        running=running,
        last_success=last_success,
        failures=failures,
        missing=missing,
        text="",
    )
    assert finding.verdict == verdict


@pytest.mark.parametrize(
    ("difference", "uncertainty", "verdict"),
    [
        (None, 0.0, UNKNOWN),
        (29.0, 0.0, OK),
        (-31.0, 0.0, BROKEN),
        (-80.0, 60.0, OK),
        (3600.0, 0.1, BROKEN),
    ],
)
def test_clock(difference: float | None, uncertainty: float, verdict: str) -> None:
    assert judge_clock(WAY, difference=difference, uncertainty=uncertainty).verdict == verdict


def test_only_the_first_broken_hop_of_a_way_has_a_remedy() -> None:
    back = Way(source="dc2", target="dc1", primary="dc1")
    findings = [
        WAY.finding(Hop.GATEWAYS, OK, "fine"),
        WAY.finding(Hop.TLS, BROKEN, "bad", "repair TLS"),
        WAY.finding(Hop.GOSSIP, BROKEN, "bad", "repair gossip"),
        back.finding(Hop.GOSSIP, BROKEN, "bad", "repair gossip"),
    ]
    assert [finding.remedy for finding in settle(findings)] == [
        "",
        "repair TLS",
        "",
        "repair gossip",
    ]
