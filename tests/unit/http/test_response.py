"""Responses, and what replies say about themselves in headers."""

import pytest

from isthmus.http.response import PLAIN, Response, meta_headers
from isthmus.model.query import QueryMeta
from isthmus.units import Duration


def test_reply_of_a_leader() -> None:
    assert meta_headers(QueryMeta(index=7, known_leader=True)) == [
        ("X-Consul-Index", "7"),
        ("X-Consul-Knownleader", "true"),
        ("X-Consul-Lastcontact", "0"),
        ("X-Consul-Query-Backend", "blocking-query"),
    ]


def test_reply_of_a_follower_that_streams() -> None:
    meta = QueryMeta(index=7, last_contact=Duration(1_999_999), backend=1)
    assert meta_headers(meta) == [
        ("X-Consul-Index", "7"),
        ("X-Consul-Knownleader", "false"),
        ("X-Consul-Lastcontact", "1"),  # Whole milliseconds.
        ("X-Consul-Query-Backend", "streaming"),
    ]


def test_index_is_never_0() -> None:
    """A caller that blocked on it would not block at all."""
    assert meta_headers(QueryMeta())[0] == ("X-Consul-Index", "1")


@pytest.mark.parametrize(
    ("level", "asked", "told"),
    [
        ("stale", True, [("X-Consul-Effective-Consistency", "stale")]),
        ("stale", False, []),
        ("", True, []),
    ],
)
def test_consistency_is_told_where_it_is_known_and_wanted(
    level: str, asked: bool, told: list[tuple[str, str]]
) -> None:
    meta = QueryMeta(consistency_level=level)
    assert meta_headers(meta, consistency=asked)[4:] == told


def test_text_has_a_type_unless_it_is_empty() -> None:
    found = Response.text(500, "no lea\u0111er")
    assert (found.status, found.headers, found.body) == (500, [PLAIN], b"no lea\xc4\x91er")
    assert Response.text(404, "").headers == []


def test_text_with_bytes_that_were_no_text_can_be_sent() -> None:
    """A peer's error may hold any bytes; they arrive as surrogates."""
    assert Response.text(500, "bad \udcff name").body == b"bad ? name"


def test_header_is_found_in_any_case_and_the_first_counts() -> None:
    response = Response(headers=[("X-One", "1"), ("x-one", "2")])
    assert (response.header("X-ONE"), response.header("X-Two")) == ("1", None)


def test_responses_share_no_headers() -> None:
    Response().headers.append(("X-One", "1"))
    assert Response().headers == []
