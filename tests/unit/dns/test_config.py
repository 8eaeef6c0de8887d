"""What the operator configures: protocol/cli-config-dns.md §3.4."""

import pytest

from isthmus.dns.config import DnsConfig, recursor_address


def make(**fields: object) -> DnsConfig:
    return DnsConfig(datacenter="dc1", node_name="own", **fields)  # type: ignore[arg-type]


def test_longest_match_of_service_ttl_wins() -> None:
    config = make(service_ttl={"*": 5.0, "db*": 10.0, "db-main*": 20.0, "db-main-1": 30.9})
    names = ("web", "db", "db-2", "db-main", "db-main-2", "db-main-1")
    assert [config.ttl_of(name) for name in names] == [5, 10, 10, 20, 20, 30]


def test_without_a_match_the_ttl_is_zero() -> None:
    assert make().ttl_of("web") == 0
    assert make(service_ttl={"db": 10.0}).ttl_of("dbx") == 0


def test_second_domain_is_answered_too() -> None:
    assert make().domains == ("consul",)
    assert make(alt_domain="site.example").domains == ("consul", "site.example")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8.8.8.8", ("8.8.8.8", 53)),
        ("8.8.8.8:5353", ("8.8.8.8", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_recursor_may_have_a_port(text: str, address: tuple[str, int]) -> None:
    assert recursor_address(text) == address
    assert make(recursors=(text,)).recursor_addresses == [address]


@pytest.mark.parametrize(
    "text", ["", "dns.example", "dns.example:53", "8.8.8.8:x", ":53", "8.8.8:53"]
)
def test_recursor_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        recursor_address(text)
