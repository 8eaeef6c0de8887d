from collections.abc import Callable

import pytest

from isthmus.errors import InvalidRequest
from isthmus.http.options import parse_uint, read_node_meta, read_options, read_source
from isthmus.http.request import Query, Request
from isthmus.units import SECOND, Duration


def make_request(query: str, **headers: str) -> Request:
    encoded = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    request = Request("GET", "/", encoded)
    request.query = Query.parse(query)
    return request


def test_defaults_are_left_out() -> None:
    assert read_options(make_request(""), "dc1").fields() == {"datacenter": "dc1"}


def test_every_parameter_reaches_its_field() -> None:
    query = "dc=dc2&index=7&wait=10s&stale&max_stale=3s&filter=a&token=t"
    assert read_options(make_request(query), "dc1").fields() == {
        "datacenter": "dc2",
        "token": "t",
        "min_query_index": 7,
        "max_query_time": 10 * SECOND,
        "allow_stale": True,
        "max_stale_duration": 3 * SECOND,
        "filter": "a",
    }


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("index=x", "Invalid index"),
        ("index=-1", "Invalid index"),
        ("wait=10", "Invalid wait time"),
        (
            "stale&consistent",
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ),
        (
            "cached&consistent",
            "Cannot specify ?cached with ?consistent, conflicting semantics.",
        ),
        ("max_stale=zz", 'Invalid max_stale value "zz"'),
    ],
)
def test_bad_value_is_refused_in_consuls_words(query: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_options(make_request(query), "dc1")
    assert (str(caught.value), caught.value.status) == (text, 400)


@pytest.mark.parametrize(
    ("query", "level"),
    [
        ("", "leader"),
        ("stale", "stale"),
        ("consistent", "consistent"),
        ("max_stale=1s", "stale"),
        ("max_stale=1s&leader", "stale"),
    ],
)
def test_consistency_follows_from_the_parameters(query: str, level: str) -> None:
    assert read_options(make_request(query), "dc1").level == level


@pytest.mark.parametrize(
    "request_of", [lambda: make_request("ns=x"), lambda: make_request("", x_consul_namespace="x")]
)
def test_namespace_is_refused_where_data_has_one(request_of: Callable[[], Request]) -> None:
    with pytest.raises(InvalidRequest, match="Namespaces are a Consul Enterprise feature"):
        read_options(request_of(), "dc1", namespaced=True)
    assert read_options(request_of(), "dc1").datacenter == "dc1"


def test_near_agent_is_our_own_node() -> None:
    assert read_source(make_request("near=_agent"), "dc1", "alpha").node == "alpha"
    assert read_source(make_request("near=beta"), "dc1", "alpha").node == "beta"
    assert read_source(make_request(""), "dc1", "alpha").node == ""


def test_node_meta_splits_at_the_first_colon() -> None:
    request = make_request("node-meta=a:b:c&node-meta=d")
    assert read_node_meta(request) == {"a": "b:c", "d": ""}
    assert read_node_meta(make_request("")) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), (str(2**64 - 1), 2**64 - 1), (str(2**64), None), ("9" * 5000, None), ("٣", None)],
)
def test_numbers_have_64_bits(text: str, number: int | None) -> None:
    assert parse_uint(text) == number


@pytest.mark.parametrize(
    ("header", "good"),
    [
        ("no-cache", True),
        ("max-age=30, must-revalidate", True),
        ("Stale-If-Error=5", True),
        ("max-age=x", False),
        ("must-revalidate, stale-if-error=", False),
    ],
)
def test_ages_of_a_cache_must_be_numbers(header: str, good: bool) -> None:
    request = make_request("", cache_control=header)
    if good:
        assert read_options(request, "dc1").datacenter == "dc1"
        return
    with pytest.raises(InvalidRequest, match=r"Invalid Cache-Control header\."):
        read_options(request, "dc1")


def test_ages_of_a_cache_are_read() -> None:
    request = make_request("cached", cache_control="max-age=30, Stale-If-Error=60,must-revalidate")
    options = read_options(request, "dc1")
    assert options.use_cache
    assert options.must_revalidate
    assert (options.max_age, options.stale_if_error) == (Duration.of(30), Duration.of(60))
    assert options.fields()["max_age"] == Duration.of(30)


def test_age_of_zero_is_not_the_same_as_no_limit() -> None:
    options = read_options(make_request("cached", cache_control="max-age=0"), "dc1")
    assert options.must_revalidate


def test_ages_do_not_reach_servers_when_no_cache_is_asked() -> None:
    options = read_options(make_request("", cache_control="max-age=30"), "dc1")
    assert "max_age" not in options.fields()


def test_huge_age_is_as_good_as_none() -> None:
    options = read_options(make_request("cached", cache_control=f"max-age={10**17}"), "dc1")
    assert options.max_age.seconds > 100 * 365 * 86400


def test_refusal_says_where_the_namespace_stands() -> None:
    with pytest.raises(InvalidRequest) as of_query:
        read_options(make_request("ns=x"), "dc1", namespaced=True)
    with pytest.raises(InvalidRequest) as of_header:
        read_options(make_request("ns=x", x_consul_namespace="x"), "dc1", namespaced=True)
    ending = " - Namespaces are a Consul Enterprise feature"
    assert str(of_query.value) == f'Bad request: Invalid query parameter: "ns"{ending}'
    assert str(of_header.value) == f'Bad request: Invalid header: "X-Consul-Namespace"{ending}'
