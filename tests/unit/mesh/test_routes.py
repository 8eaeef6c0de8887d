import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import MalformedPacket
from isthmus.mesh.routes import (
    WEIGHT_MAX,
    Endpoint,
    GatewayFacts,
    LocalServer,
    Route,
    RouteKind,
    RouteTable,
    route_table,
)

TD = "11111111-2222-3333-4444-555555555555.consul"
ALPHA = Endpoint("10.1.0.10", 8300)
BETA = Endpoint("10.1.0.11", 8300)
WEB = Endpoint("10.1.0.30", 21000)
NEAR = Endpoint("198.51.100.5", 8443)
FAR = Endpoint("gateway.example.com", 443)


def make_facts(**changes: object) -> GatewayFacts:
    facts: dict[str, object] = {
        "dc": "dc1",
        "trust_domain": TD,
        "exposes_servers": True,
        "servers": (LocalServer("alpha", *at(ALPHA)), LocalServer("beta", *at(BETA))),
        "gateways": {"dc2": (NEAR,), "dc3": (NEAR, FAR)},
        "services": {"web": (WEB,), "v2.web": (WEB,)},
    }
    return GatewayFacts(**(facts | changes))  # type: ignore[arg-type]


def at(endpoint: Endpoint) -> tuple[str, int]:
    return endpoint.host, endpoint.port


def target(table: RouteTable, sni: str) -> tuple[str, RouteKind, str, tuple[Endpoint, ...]] | None:
    found = table.lookup(sni)
    if found is None:
        return None
    pattern, route = found
    return pattern, route.kind, route.dc, route.endpoints


@pytest.mark.parametrize(
    ("sni", "pattern", "kind", "dc", "endpoints"),
    [
        (
            "alpha.server.dc1.consul",
            "alpha.server.dc1.consul",
            RouteKind.LOCAL_SERVER,
            "dc1",
            (ALPHA,),
        ),
        ("server.dc1.consul", "server.dc1.consul", RouteKind.LOCAL_SERVERS, "dc1", (ALPHA, BETA)),
        ("server.dc2.consul", "server.dc2.consul", RouteKind.REMOTE_SERVERS, "dc2", (NEAR,)),
        (
            "x.server.dc3.consul",
            "*.server.dc3.consul",
            RouteKind.REMOTE_SERVERS,
            "dc3",
            (NEAR, FAR),
        ),
        (
            f"web.default.dc1.internal.{TD}",
            f"web.default.dc1.internal.{TD}",
            RouteKind.LOCAL_SERVICE,
            "dc1",
            (WEB,),
        ),
        (
            f"v2.web.default.dc1.internal.{TD}",
            f"v2.web.default.dc1.internal.{TD}",
            RouteKind.LOCAL_SERVICE,
            "dc1",
            (WEB,),
        ),
        (
            f"v2.web.default.dc3.internal.{TD}",
            f"*.dc3.internal.{TD}",
            RouteKind.REMOTE_DATACENTER,
            "dc3",
            (NEAR, FAR),
        ),
    ],
)
def test_every_family_of_names_has_its_route(
    sni: str, pattern: str, kind: RouteKind, dc: str, endpoints: tuple[Endpoint, ...]
) -> None:
    table = route_table(make_facts())
    assert target(table, sni) == (pattern, kind, dc, endpoints)
    assert target(table, sni.upper()) == (pattern, kind, dc, endpoints)


@pytest.mark.parametrize(
    "sni",
    [
        "",
        "consul",
        "gamma.server.dc1.consul",
        "alpha.server.dc1.consul.",
        "alpha.server.dc4.consul",
        "server.dc1.example",
        "*.server.dc2.consul",
        f"db.default.dc1.internal.{TD}",
        f"dc3.internal.{TD}",
        "web.default.dc1.internal.99999999-2222-3333-4444-555555555555.consul",
        "web.default.dc3.internal.99999999-2222-3333-4444-555555555555.consul",
    ],
)
def test_other_names_have_none(sni: str) -> None:
    assert route_table(make_facts()).lookup(sni) is None


def test_gateway_that_does_not_expose_servers_routes_services_only() -> None:
    table = route_table(make_facts(exposes_servers=False))
    assert {route.kind for route in table.routes.values()} == {
        RouteKind.LOCAL_SERVICE,
        RouteKind.REMOTE_DATACENTER,
    }


@pytest.mark.parametrize("trust_domain", [TD, "anything.at.all"])
def test_any_trust_domain_matches_while_ours_is_unknown(trust_domain: str) -> None:
    table = route_table(make_facts(trust_domain=None))
    local = target(table, f"web.default.dc1.internal.{trust_domain}")
    remote = target(table, f"web.default.dc2.internal.{trust_domain}")
    assert local == ("web.default.dc1.internal.*", RouteKind.LOCAL_SERVICE, "dc1", (WEB,))
    assert remote == ("*.dc2.internal.*", RouteKind.REMOTE_DATACENTER, "dc2", (NEAR,))
    assert table.lookup(f"dc2.internal.{trust_domain}") is None


def test_server_names_win_when_the_domain_looks_like_a_trust_domain() -> None:
    facts = make_facts(domain="internal.example", trust_domain=None, services={})
    found = target(route_table(facts), "beta.server.dc1.internal.example")
    assert found is not None
    assert found[1:] == (RouteKind.LOCAL_SERVER, "dc1", (BETA,))


def test_longest_suffix_wins() -> None:
    short = Route(RouteKind.REMOTE_SERVERS, "a", (NEAR,))
    long = Route(RouteKind.REMOTE_SERVERS, "b", (FAR,))
    table = RouteTable({"*.example": short, "*.b.example": long})
    assert table.lookup("x.b.example") == ("*.b.example", long)
    assert table.lookup("x.y.b.example") == ("*.b.example", long)
    assert table.lookup("b.example") == ("*.example", short)
    assert table.lookup("example") is None


def test_patterns_are_in_lower_case() -> None:
    facts = make_facts(servers=(LocalServer("Alpha", *at(ALPHA)),))
    assert target(route_table(facts), "alpha.server.dc1.consul") is not None


def test_servers_may_be_behind_other_gateways_than_services() -> None:
    table = route_table(make_facts(server_gateways={"dc3": (FAR,)}))
    servers = target(table, "a.server.dc3.consul")
    services = target(table, f"web.default.dc3.internal.{TD}")
    assert servers is not None
    assert services is not None
    assert (servers[3], services[3]) == ((FAR,), (NEAR, FAR))


def test_only_endpoints_that_can_be_dialled_are_kept() -> None:
    given_endpoints = (
        Endpoint("", 8443),
        Endpoint("192.0.2.1", 0),
        Endpoint("192.0.2.1", 70_000),
        Endpoint("192.0.2.1", 8443, 0),
        Endpoint("192.0.2.1", 8443, 5),
        Endpoint("2001:db8::1", 8443, 1_000),
    )
    table = route_table(make_facts(gateways={"dc2": given_endpoints}))
    found = target(table, "server.dc2.consul")
    assert found is not None
    assert found[3] == (
        Endpoint("192.0.2.1", 8443, 1),
        Endpoint("2001:db8::1", 8443, WEIGHT_MAX),
    )


def test_datacenter_without_gateways_is_known_and_has_no_endpoints() -> None:
    found = target(route_table(make_facts(gateways={"dc2": ()})), "server.dc2.consul")
    assert found == ("server.dc2.consul", RouteKind.REMOTE_SERVERS, "dc2", ())


def test_own_datacenter_is_never_routed_through_gateways() -> None:
    table = route_table(make_facts(gateways={"dc1": (NEAR,)}, server_gateways={"dc1": (NEAR,)}))
    assert {route.kind for route in table.routes.values()} == {
        RouteKind.LOCAL_SERVER,
        RouteKind.LOCAL_SERVERS,
        RouteKind.LOCAL_SERVICE,
    }


def test_hash_tells_equal_tables_from_different_ones() -> None:
    table = route_table(make_facts())
    swapped = make_facts(gateways={"dc3": (NEAR, FAR), "dc2": (NEAR,)})
    assert route_table(swapped) == table
    assert route_table(make_facts(gateways={"dc2": (FAR,)})).hash != table.hash
    assert len(table.hash) == 16


def test_json_form_is_stable_and_reads_back() -> None:
    table = route_table(make_facts(gateways={}, services={}, servers=()))
    assert table.to_json() == (
        b'{"routes":{"server.dc1.consul":{"kind":"local-servers","dc":"dc1","endpoints":[]}},'
        b'"hash":"%s","version":1}' % table.hash.encode()
    )
    full = route_table(make_facts())
    assert RouteTable.from_json(full.to_json()) == full


def test_unknown_keys_of_a_later_writer_are_ignored() -> None:
    form = json.loads(route_table(make_facts()).to_json()) | {"comment": "new"}
    assert RouteTable.from_json(json.dumps(form).encode()) == route_table(make_facts())


def test_table_of_a_newer_version_is_refused() -> None:
    with pytest.raises(MalformedPacket, match="version 2"):
        RouteTable.from_json(b'{"routes":{},"hash":"","version":2}')


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(data: bytes) -> None:
    try:
        assert isinstance(RouteTable.from_json(data), RouteTable)
    except MalformedPacket:
        return


@given(st.text(max_size=60))
def test_lookup_takes_any_text(sni: str) -> None:
    route_table(make_facts()).lookup(sni)


def test_endpoint_reads_as_host_and_port() -> None:
    assert [str(Endpoint("2001:db8::1", 8443)), str(FAR)] == [
        "[2001:db8::1]:8443",
        "gateway.example.com:443",
    ]
