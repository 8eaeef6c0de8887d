"""What names ask for: protocol/cli-config-dns.md §3.1."""

import pytest

from isthmus.dns.names import (
    AddressLookup,
    Lookup,
    NodeLookup,
    QueryLookup,
    ServiceLookup,
    VirtualLookup,
    is_reverse,
    read_name,
    read_reverse,
    strip_domain,
)


@pytest.mark.parametrize(
    ("name", "lookup"),
    [
        ("web.service", ServiceLookup("", "web")),
        ("web.service.dc2", ServiceLookup("dc2", "web")),
        ("v1.web.service", ServiceLookup("", "web", "v1")),
        ("v1.2.web.service.dc2", ServiceLookup("dc2", "web", "v1.2")),
        ("_web._tcp.service", ServiceLookup("", "web")),
        ("_web._v1.service.dc2", ServiceLookup("dc2", "web", "v1")),
        ("service.service", ServiceLookup("", "service")),
        ("node.service", ServiceLookup("", "node")),
        ("web.connect", ServiceLookup("", "web", connect=True)),
        ("web.connect.dc2", ServiceLookup("dc2", "web", connect=True)),
        ("web.ingress", ServiceLookup("", "web", ingress=True)),
        ("alpha.node", NodeLookup("", "alpha")),
        ("a.b.node.dc2", NodeLookup("dc2", "a.b")),
        ("geo.query", QueryLookup("", "geo")),
        ("geo.eu.query.dc2", QueryLookup("dc2", "geo.eu")),
        ("_geo._tcp.query", QueryLookup("", "geo")),
        ("0a000001.addr", AddressLookup(b"\x0a\0\0\1")),
        ("0a000001.addr.dc2", AddressLookup(b"\x0a\0\0\1")),
        ("2001" + 28 * "0" + ".addr", AddressLookup(b"\x20\1" + bytes(14))),
        ("web.virtual", VirtualLookup("web")),
        ("web.virtual.dc2", VirtualLookup("web")),
    ],
)
def test_names_say_what_is_wanted(name: str, lookup: Lookup) -> None:
    assert read_name(name.split("."), srv=False) == lookup


@pytest.mark.parametrize(
    "name",
    [
        "",
        "web",
        "service",
        "node",
        "query.dc2",
        "web.service.dc2.more",
        "web.node.dc2.more",
        "web.services",
        "_web._tcp",
        "xyz.addr",
        "0a0000.addr",
        "0a00000g.addr",
        "a.0a000001.addr",
        "addr",
    ],
)
def test_other_names_are_none_of_ours(name: str) -> None:
    assert read_name(name.split(".") if name else (), srv=False) is None


@pytest.mark.parametrize(
    ("name", "lookup"),
    [
        ("_web._tcp", ServiceLookup("", "web")),
        ("_web._v1", ServiceLookup("", "web", "v1")),
        ("_web._tcp.dc2", ServiceLookup("dc2", "web")),
        ("_web._tcp.service.dc2", ServiceLookup("dc2", "web")),
    ],
)
def test_for_srv_the_word_service_may_be_missing(name: str, lookup: Lookup) -> None:
    assert read_name(name.split("."), srv=True) == lookup


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("1.0.0.10.in-addr.arpa", "10.0.0.1"),
        (".".join("1" + 27 * "0" + "1002") + ".ip6.arpa", "2001::1"),
        ("0.0.10.in-addr.arpa", None),
        ("999.0.0.10.in-addr.arpa", None),
        ("x.0.0.10.in-addr.arpa", None),
        ("in-addr.arpa", None),
        ("arpa", None),
        ("1.0.0.10.elsewhere.arpa", None),
    ],
)
def test_reverse_names_hold_an_address(name: str, address: str | None) -> None:
    labels = name.split(".")
    assert is_reverse(labels)
    assert read_reverse(labels) == address


def test_longest_domain_that_fits_is_taken() -> None:
    domains = ("consul", "eu.consul")
    assert strip_domain(("web", "service", "eu", "consul"), domains) == (
        ("web", "service"),
        "eu.consul",
    )
    assert strip_domain(("web", "service", "consul"), domains) == (("web", "service"), "consul")
    assert strip_domain(("consul",), domains) == ((), "consul")
    assert strip_domain(("notconsul",), domains) is None
    assert strip_domain((), domains) is None
