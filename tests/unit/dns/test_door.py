"""From requests to answers: protocol/cli-config-dns.md §3."""

import asyncio

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.dns import door
from isthmus.dns.records import Record, address, encode_name
from isthmus.dns.request import Request
from isthmus.errors import CALL_PREFIX, NoPathToDatacenter, RemoteError, Unavailable
from isthmus.model.catalog import CRITICAL, WARNING, Node, ServiceAddress, ServiceNode
from isthmus.model.prepared_query import PreparedQueryExecuteResponse, QueryDNSOptions
from isthmus.units import SECOND, Duration
from support.dns import (
    NOW,
    Asking,
    catalog,
    found,
    found_node,
    instance,
    instances,
    rows,
)
from support.http import FakeRpc

SOA = [f"consul. 0 SOA ns.consul. hostmaster.consul. {NOW} 3600 600 86400 0"]


class Knowing:
    """A recursor that knows the addresses of every host name."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    async def forward(self, request: Request, *, tcp: bool) -> bytes:
        raise Unavailable("never asked")

    async def addresses_of(self, host: str, *, six: bool = False) -> list[Record]:
        self.asked.append((host, six))
        return [address(encode_name(host) or b"", bytes([192, 0, 2, n]), 77) for n in range(7)]


def code(message: dns.message.Message) -> str:
    return dns.rcode.to_text(message.rcode())


async def test_service_has_the_addresses_of_its_instances() -> None:
    asking = Asking(catalog(*instances(2)), service_ttl={"web": 5})
    answer = await asking.ask("web.service.consul")
    assert sorted(rows(answer.answer)) == [
        "web.service.consul. 5 A 10.0.0.1",
        "web.service.consul. 5 A 10.0.0.2",
    ]
    assert dns.flags.to_text(answer.flags) == "QR AA RD"
    (method, request) = asking.rpc.calls[0]
    assert method == "Health.ServiceNodes"
    assert (request.datacenter, request.service_name) == ("dc1", "web")  # type: ignore[attr-defined]


async def test_service_in_another_datacenter_is_looked_up_there() -> None:
    asking = Asking(catalog(instance()), token="secret", allow_stale=False)
    await asking.ask("v1.web.service.dc2.consul")
    request = asking.rpc.last
    assert (request.datacenter, request.service_tags, request.tag_filter) == ("dc2", ("v1",), True)
    assert (request.token, request.allow_stale) == ("secret", False)


async def test_srv_has_ports_and_addresses() -> None:
    answer = await Asking(catalog(instance())).ask("_web._tcp.service.consul", "SRV")
    assert rows(answer.answer) == ["_web._tcp.service.consul. 0 SRV 1 1 80 n1.node.dc1.consul."]
    assert rows(answer.additional) == ["n1.node.dc1.consul. 0 A 10.0.0.1"]


async def test_unknown_names_are_denied_with_the_start_of_the_domain() -> None:
    asking = Asking(catalog())
    for name in ("web.service.consul", "n1.node.consul", "consul", "x.consul", "a.b.addr.consul"):
        answer = await asking.ask(name)
        assert (code(answer), rows(answer.authority)) == ("NXDOMAIN", SOA), name
        assert answer.flags & dns.flags.AA


async def test_service_without_a_healthy_instance_is_unknown() -> None:
    critical, warning = instance(states=(CRITICAL,)), instance("n2", states=(WARNING,))
    assert code(await Asking(catalog(critical)).ask("web.service.consul")) == "NXDOMAIN"
    assert code(await Asking(catalog(critical, warning)).ask("web.service.consul")) == "NOERROR"
    strict = Asking(catalog(critical, warning), only_passing=True)
    assert code(await strict.ask("web.service.consul")) == "NXDOMAIN"


async def test_known_service_without_such_records_is_empty() -> None:
    for kind in ("AAAA", "MX", "TXT"):
        answer = await Asking(catalog(instance())).ask("web.service.consul", kind)
        assert (code(answer), answer.answer, rows(answer.authority)) == ("NOERROR", [], SOA)


async def test_node_has_its_address_and_metadata() -> None:
    node = Node(node="n1", address="10.0.0.1", datacenter="dc1", meta={"rack": "r1"})
    asking = Asking(catalog(node=node), node_ttl=7.0)
    answer = await asking.ask("n1.node.consul")
    assert rows(answer.answer) == ["n1.node.consul. 7 A 10.0.0.1"]
    assert rows(answer.additional) == ['n1.node.consul. 7 TXT "rack=r1"']
    answer = await asking.ask("n1.node.consul", "ANY")
    assert len(rows(answer.answer)) == 2
    answer = await asking.ask("n1.node.consul", "TXT")
    assert rows(answer.answer) == ['n1.node.consul. 7 TXT "rack=r1"']
    answer = await asking.ask("n1.node.consul", "AAAA")
    assert (code(answer), rows(answer.answer)) == ("NOERROR", [])
    assert rows(answer.additional) == ['n1.node.consul. 7 TXT "rack=r1"']
    bare = Asking(catalog(node=node), node_meta_txt=False)
    assert (await bare.ask("n1.node.consul")).additional == []
    assert len(rows((await bare.ask("n1.node.consul", "TXT")).answer)) == 1


async def test_node_without_such_records_is_empty_and_has_no_start() -> None:
    asking = Asking(catalog(node=Node(node="n1", address="10.0.0.1")))
    for kind in ("AAAA", "MX", "SRV"):
        answer = await asking.ask("n1.node.consul", kind)
        assert (code(answer), answer.answer, answer.authority) == ("NOERROR", [], [])


async def test_address_is_in_its_name() -> None:
    asking = Asking(node_ttl=3.0)
    answer = await asking.ask("0a000001.addr.dc2.consul")
    assert rows(answer.answer) == ["0a000001.addr.dc2.consul. 3 A 10.0.0.1"]
    six = "20010db8" + 23 * "0" + "1"
    answer = await asking.ask(f"{six}.addr.consul", "AAAA")
    assert rows(answer.answer) == [f"{six}.addr.consul. 3 AAAA 2001:db8::1"]
    answer = await asking.ask("0a000001.addr.consul", "AAAA")
    assert (code(answer), answer.answer) == ("NOERROR", [])
    assert rows(answer.additional) == ["0a000001.addr.consul. 3 A 10.0.0.1"]


async def test_virtual_addresses_are_refused_and_it_is_said_why() -> None:
    asking = Asking()
    answer = await asking.ask("web.virtual.consul", edns=1232)
    assert code(answer) == "REFUSED"
    (error,) = answer.extended_errors()
    assert error == dns.edns.EDEOption(
        dns.edns.EDECode.NOT_SUPPORTED,
        "virtual addresses are not supported; ask for web.service.consul",
    )
    assert code(await asking.ask("web.virtual.consul")) == "REFUSED"
    assert asking.rpc.calls == []


async def test_domain_has_a_start_and_three_servers() -> None:
    servers = instances(4, service="consul")
    for name in ("consul", "anything.consul"):
        answer = await Asking(catalog(*servers)).ask(name, "SOA", edns=1232)
        assert rows(answer.answer) == SOA
        assert len(rows(answer.authority)) == len(rows(answer.additional)) == 3
        answer = await Asking(catalog(*servers)).ask(name, "NS", edns=1232)
        names = {row.split()[-1] for row in rows(answer.answer)}
        assert len(names) == 3
        assert names <= {f"n{n}.node.dc1.consul." for n in range(1, 5)}
        assert {row.split()[0] for row in rows(answer.additional)} == names


async def test_domain_has_a_start_when_its_servers_are_not_found() -> None:
    asking = Asking(FakeRpc(Health_ServiceNodes=Unavailable("none")))
    answer = await asking.ask("consul", "SOA")
    assert (rows(answer.answer), answer.authority) == (SOA, [])
    assert code(await asking.ask("consul", "NS")) == "NOERROR"


async def test_server_that_has_no_name_is_no_name_server() -> None:
    answer = await Asking(catalog(instance("a.b", service="consul"))).ask("consul", "NS")
    assert answer.answer == []


async def test_second_domain_is_answered_in_its_own_name() -> None:
    asking = Asking(catalog(instance()), alt_domain="site.example")
    answer = await asking.ask("web.service.site.example", "SRV")
    target = "n1.node.dc1.site.example."
    assert rows(answer.answer) == [f"web.service.site.example. 0 SRV 1 1 80 {target}"]
    answer = await asking.ask("x.site.example")
    assert rows(answer.authority)[0].startswith("site.example. 0 SOA ns.site.example.")


async def test_numbers_of_the_start_can_be_configured() -> None:
    asking = Asking(soa_refresh=1, soa_retry=2, soa_expire=3, soa_min_ttl=4)
    answer = await asking.ask("x.consul")
    assert rows(answer.authority) == [f"consul. 4 SOA ns.consul. hostmaster.consul. {NOW} 1 2 3 4"]


# Failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Unavailable("No cluster leader"), "SERVFAIL"),
        (NoPathToDatacenter("dc9"), "NXDOMAIN"),
        (RemoteError(CALL_PREFIX + str(NoPathToDatacenter("dc9"))), "NXDOMAIN"),
        (NoPathToDatacenter("dc9", "its gateways do not answer"), "SERVFAIL"),
        (RemoteError("rpc error making call: something"), "SERVFAIL"),
    ],
)
@pytest.mark.parametrize("name", ["web.service.dc9.consul", "n1.node.dc9.consul"])
async def test_failures_have_codes(error: Exception, expected: str, name: str) -> None:
    rpc = FakeRpc(Health_ServiceNodes=error, Catalog_NodeServices=error)
    asking = Asking(rpc)
    answer = await asking.ask(name)
    assert code(answer) == expected
    assert asking.door.failure_count == (expected == "SERVFAIL")


async def test_failure_after_an_answer_is_told() -> None:
    asking = Asking(catalog(instance()), here=False)
    assert code(await asking.ask("web.service.dc2.consul")) == "NOERROR"
    asking.rpc.answers["Health.ServiceNodes"] = Unavailable("gone")
    assert code(await asking.ask("WEB.service.dc2.consul", ident=4)) == "SERVFAIL"
    asking.rpc.answers["Health.ServiceNodes"] = found()
    assert code(await asking.ask("web.service.dc2.consul")) == "NXDOMAIN"


async def test_too_old_answers_are_asked_again_from_the_leader() -> None:
    def reply(request: object) -> object:
        stale = request.allow_stale  # type: ignore[attr-defined]
        contact = Duration(11 * SECOND if stale else 0)
        return found(instance(own="10.0.0.9" if stale else "10.0.0.8"), last_contact=contact)

    for here in (True, False):
        asking = Asking(FakeRpc(Health_ServiceNodes=reply), max_stale=10.0, here=here)
        answer = await asking.ask("web.service.consul")
        assert rows(answer.answer) == ["web.service.consul. 0 A 10.0.0.8"]
    lenient = Asking(FakeRpc(Health_ServiceNodes=reply), max_stale=12.0, here=False)
    answer = await lenient.ask("web.service.consul")
    assert rows(answer.answer) == ["web.service.consul. 0 A 10.0.0.9"]
    assert lenient.lookups.stale_count == 1


# What is kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("kind", ["A", "SRV"])
async def test_change_of_the_catalog_shows_at_once(here: bool, kind: str) -> None:
    asking = Asking(catalog(*instances(2)), here=here)
    for count in (2, 2, 3, 1, 0, 2):
        asking.rpc.answers["Health.ServiceNodes"] = found(*instances(count))
        answer = await asking.ask("web.service.consul", kind, edns=4096)
        assert len(rows(answer.answer)) == count
        assert len(rows(answer.additional)) == (count if kind == "SRV" else 0)


@pytest.mark.parametrize("here", [True, False])
async def test_answer_repeats_the_spelling_of_each_question(here: bool) -> None:
    asking = Asking(catalog(instance()), here=here)
    for name in ("web.service.consul", "WEB.service.consul", "wEb.SERVICE.cOnsul"):
        answer = await asking.ask(name, ident=len(asking.rpc.calls))
        assert str(answer.question[0].name) == f"{name}."
        assert rows(answer.answer) == [f"{name}. 0 A 10.0.0.1"]


async def test_transports_and_sizes_do_not_share_answers() -> None:
    asking = Asking(catalog(*instances(10)))
    for _ in range(2):
        assert len(rows((await asking.ask("web.service.consul")).answer)) == 3
        assert len(rows((await asking.ask("web.service.consul", tcp=True)).answer)) == 10
        assert len(rows((await asking.ask("web.service.consul", edns=1232)).answer)) == 10


async def test_change_of_a_node_shows_at_once() -> None:
    asking = Asking(catalog(node=Node(node="n1", address="10.0.0.1")))
    for last in (1, 1, 2):
        node = Node(node="n1", address=f"10.0.0.{last}")
        asking.rpc.answers["Catalog.NodeServices"] = found_node(node)
        answer = await asking.ask("n1.node.consul")
        assert rows(answer.answer) == [f"n1.node.consul. 0 A 10.0.0.{last}"]
    asking.rpc.answers["Catalog.NodeServices"] = found_node(None)
    assert code(await asking.ask("n1.node.consul")) == "NXDOMAIN"


async def test_not_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "ENTRIES_MAX", 16)
    monkeypatch.setattr(door, "INSTANCES_KEPT_MAX", 40)
    asking = Asking(catalog(instance()))
    for number in range(20):
        await asking.ask(f"s{number}.service.consul")
    assert len(asking.door._entries) == 16
    asking.rpc.answers["Health.ServiceNodes"] = found(*instances(30))
    await asking.ask("large.service.consul")
    assert len(asking.door._entries) == 11
    asking.rpc.answers["Health.ServiceNodes"] = found(*instances(41))
    await asking.ask("larger.service.consul")
    assert len(asking.door._entries) == 0
    assert len(rows((await asking.ask("larger.service.consul", tcp=True)).answer)) == 41


async def test_unknown_names_do_not_push_out_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "DENIALS_MAX", 8)
    asking = Asking(catalog(instance()))
    await asking.ask("web.service.consul")
    asking.rpc.answers["Health.ServiceNodes"] = found()
    for number in range(20):
        answer = await asking.ask(f"s{number}.service.consul")
        assert (code(answer), rows(answer.authority)) == ("NXDOMAIN", SOA)
    assert (len(asking.door._entries), len(asking.door._denials)) == (1, 8)


@pytest.mark.parametrize("here", [True, False])
async def test_unknown_name_is_denied_anew_each_time(here: bool) -> None:
    asking = Asking(catalog(), here=here)
    moments = iter([5, 6])
    asking.door._wall = lambda: next(moments)
    for moment in (5, 6):
        answer = await asking.ask("web.service.consul")
        assert rows(answer.authority)[0].split()[5] == str(moment)
    asking.rpc.answers["Health.ServiceNodes"] = found(instance())
    assert code(await asking.ask("web.service.consul")) == "NOERROR"
    assert (len(asking.door._entries), len(asking.door._denials)) == (1, 0)


async def test_new_configuration_holds_at_once() -> None:
    asking = Asking(catalog(instance(), instance("n2", "10.0.0.2", states=(WARNING,))))
    assert len(rows((await asking.ask("web.service.consul", edns=1232)).answer)) == 2
    fresh = Asking(only_passing=True, service_ttl={"*": 9.0})
    asking.door.reconfigure(fresh.config, None)
    answer = await asking.ask("web.service.consul", edns=1232)
    assert [row.split()[1] for row in rows(answer.answer)] == ["9"]


# Prepared queries -------------------------------------------------------------------------------


def executed(*nodes: object, dc: str = "dc1", ttl: str = "") -> PreparedQueryExecuteResponse:
    return PreparedQueryExecuteResponse(
        service="web",
        nodes=nodes,  # type: ignore[arg-type]
        dns=QueryDNSOptions(ttl=ttl),
        datacenter=dc,
    )


async def test_query_is_executed_for_the_client() -> None:
    asking = Asking(FakeRpc(PreparedQuery_Execute=executed(*instances(3))), token="secret")
    answer = await asking.ask("geo.query.consul", edns=1232)
    assert [row.split()[-1] for row in rows(answer.answer)] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    request = asking.rpc.last
    assert (request.datacenter, request.query_id_or_name, request.token) == ("dc1", "geo", "secret")
    assert (request.source.ip, request.agent.node, request.agent.datacenter) == (
        "192.0.2.7",
        "own",
        "dc1",
    )


async def test_query_is_executed_for_the_subnet_that_is_told() -> None:
    asking = Asking(FakeRpc(PreparedQuery_Execute=executed(instance())))
    subnet = dns.edns.ECSOption("198.51.100.0", 24)
    answer = await asking.ask("geo.query.dc2.consul", edns=1232, options=[subnet])
    assert asking.rpc.last.source.ip == "198.51.100.0"
    assert asking.rpc.last.datacenter == "dc2"
    assert answer.options == (dns.edns.ECSOption("198.51.100.0", 24, 24),)


@pytest.mark.parametrize(("ttl", "seconds"), [("", 4), ("30s", 30), ("1m30s", 90), ("?", 0)])
async def test_query_may_have_its_own_ttl(ttl: str, seconds: int) -> None:
    rpc = FakeRpc(PreparedQuery_Execute=executed(instance(), ttl=ttl))
    answer = await Asking(rpc, service_ttl={"web": 4.0}).ask("geo.query.consul")
    assert rows(answer.answer) == [f"geo.query.consul. {seconds} A 10.0.0.1"]


async def test_query_that_failed_over_names_the_other_datacenter() -> None:
    far = instance(wan="198.51.100.1", dc="dc2")
    rpc = FakeRpc(PreparedQuery_Execute=executed(far, dc="dc2"))
    answer = await Asking(rpc).ask("geo.query.consul", "SRV")
    assert rows(answer.answer) == ["geo.query.consul. 0 SRV 1 1 80 n1.node.dc2.consul."]
    answer = await Asking(rpc, translate_wan_addrs=True).ask("geo.query.consul", "SRV")
    assert rows(answer.answer) == ["geo.query.consul. 0 SRV 1 1 80 c6336401.addr.dc2.consul."]


async def test_unknown_query_is_an_unknown_name() -> None:
    asking = Asking(FakeRpc(PreparedQuery_Execute=RemoteError(CALL_PREFIX + "Query not found")))
    assert code(await asking.ask("geo.query.consul")) == "NXDOMAIN"
    asking = Asking(FakeRpc(PreparedQuery_Execute=executed()))
    assert code(await asking.ask("geo.query.consul")) == "NXDOMAIN"


# WAN addresses ----------------------------------------------------------------------------------


async def test_wan_addresses_are_for_other_datacenters() -> None:
    far = instance(
        own="10.0.0.9", service_wan=ServiceAddress(address="198.51.100.9", port=8443), dc="dc2"
    )
    asking = Asking(catalog(far), translate_wan_addrs=True)
    answer = await asking.ask("web.service.dc2.consul")
    assert rows(answer.answer) == ["web.service.dc2.consul. 0 A 198.51.100.9"]
    answer = await asking.ask("web.service.consul")
    assert rows(answer.answer) == ["web.service.consul. 0 A 10.0.0.9"]
    answer = await Asking(catalog(far)).ask("web.service.dc2.consul")
    assert rows(answer.answer) == ["web.service.dc2.consul. 0 A 10.0.0.9"]


# Host names -------------------------------------------------------------------------------------


async def test_host_name_is_resolved_by_the_recursor() -> None:
    recursor = Knowing()
    external = catalog(instance(own="db.example"))
    asking = Asking(external, recursor=recursor, recursors=("192.0.2.53",), service_ttl={"*": 5.0})
    answer = await asking.ask("web.service.consul", edns=1232)
    assert rows(answer.answer)[:2] == [
        "web.service.consul. 5 CNAME db.example.",
        "db.example. 5 A 192.0.2.0",
    ]
    assert len(rows(answer.answer)) == 8
    assert answer.flags & dns.flags.RA
    answer = await asking.ask("web.service.consul", "SRV", edns=1232)
    assert rows(answer.answer) == ["web.service.consul. 5 SRV 1 1 80 db.example."]
    assert len(rows(answer.additional)) == 7
    await asking.ask("web.service.consul", "AAAA")
    assert recursor.asked == [("db.example", False), ("db.example", False), ("db.example", True)]


async def test_plain_client_gets_five_records_of_a_host_name() -> None:
    asking = Asking(catalog(instance(own="db.example")), recursor=Knowing(), udp_answer_limit=8)
    assert len(rows((await asking.ask("web.service.consul")).answer)) == 6


async def test_host_name_is_not_resolved_beside_addresses() -> None:
    recursor = Knowing()
    asking = Asking(catalog(instance(own="db.example"), instance("n2")), recursor=recursor)
    answer = await asking.ask("web.service.consul")
    assert rows(answer.answer) == ["web.service.consul. 0 A 10.0.0.1"]
    assert recursor.asked == []


async def test_host_name_in_our_domain_is_looked_up() -> None:
    def reply(request: object) -> object:
        web = request.service_name == "web"  # type: ignore[attr-defined]
        return found(instance(own="db.service.consul")) if web else found(*instances(2))

    asking = Asking(FakeRpc(Health_ServiceNodes=reply))
    answer = await asking.ask("web.service.consul", edns=1232)
    shown = rows(answer.answer)
    assert shown[0] == "web.service.consul. 0 CNAME db.service.consul."
    assert sorted(shown[1:]) == [
        "db.service.consul. 0 A 10.0.0.1",
        "db.service.consul. 0 A 10.0.0.2",
    ]


async def test_names_that_lead_in_a_circle_end() -> None:
    def reply(request: object) -> object:
        web = request.service_name == "web"  # type: ignore[attr-defined]
        return found(instance(own=f"{'db' if web else 'web'}.service.consul"))

    asking = Asking(FakeRpc(Health_ServiceNodes=reply))
    answer = await asking.ask("web.service.consul", tcp=True)
    assert 1 <= len(rows(answer.answer)) <= 5
    assert len(asking.rpc.calls) <= 6


# Other names ------------------------------------------------------------------------------------


async def test_other_names_are_refused_without_recursors() -> None:
    answer = await Asking().ask("example.com")
    assert (code(answer), answer.authority) == ("REFUSED", [])
    assert not answer.flags & dns.flags.AA


async def test_address_of_a_node_has_its_name() -> None:
    nodes = [Node(node=f"n{n}", address=f"10.0.0.{n}", datacenter="dc1") for n in (1, 2)]
    asking = Asking(catalog(listed=nodes))
    for _ in range(2):
        answer = await asking.ask("2.0.0.10.in-addr.arpa", "PTR")
        assert rows(answer.answer) == ["2.0.0.10.in-addr.arpa. 0 PTR n2.node.dc1.consul."]


async def test_address_of_a_service_has_its_name() -> None:
    row = ServiceNode(node="n1", service_name="web", service_address="10.0.0.9")
    asking = Asking(catalog(at=[row]))
    answer = await asking.ask("9.0.0.10.in-addr.arpa", "PTR")
    assert rows(answer.answer) == ["9.0.0.10.in-addr.arpa. 0 PTR web.service.dc1.consul."]
    assert asking.rpc.last.service_address == "10.0.0.9"


async def test_unknown_address_is_a_failure_that_another_server_may_mend() -> None:
    assert code(await Asking().ask("9.0.0.10.in-addr.arpa", "PTR")) == "SERVFAIL"
    assert code(await Asking().ask("in-addr.arpa", "PTR")) == "SERVFAIL"


async def test_six_byte_addresses_are_reversed_too() -> None:
    nodes = [Node(node="n1", address="2001:db8::1", datacenter="dc1")]
    name = ".".join(reversed("20010db8" + 23 * "0" + "1")) + ".ip6.arpa"
    answer = await Asking(catalog(listed=nodes)).ask(name, "PTR")
    assert rows(answer.answer) == [f"{name}. 0 PTR n1.node.dc1.consul."]


# Anything ---------------------------------------------------------------------------------------


@given(st.data())
async def test_any_bytes_get_an_answer_or_none(data: st.DataObject) -> None:
    """Also those that differ from a question that was answered in a few bytes."""
    asking = Asking(catalog(*instances(4)))
    query = dns.message.make_query("web.service.consul", "SRV")
    query.use_edns(0, payload=1232)
    good = query.to_wire()
    await asking.send(good)
    wire = bytearray(good)
    for _ in range(data.draw(st.integers(0, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    tcp = data.draw(st.booleans())
    answer = await asking.send(bytes(wire[: data.draw(st.integers(0, len(wire)))]), tcp=tcp)
    if answer is not None:
        message = dns.message.from_wire(answer)
        assert message.flags & dns.flags.QR
        assert answer[:2] == bytes(wire[:2])
    assert asyncio.all_tasks() == {asyncio.current_task()}
