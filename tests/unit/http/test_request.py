import pytest

from isthmus.http.request import Query, Request, unescape


def test_query_keeps_order_and_repeats() -> None:
    query = Query.parse("tag=a&passing&tag=b+c&x=%26")
    assert query.all("tag") == ["a", "b c"]
    assert query.first("x") == "&"
    assert "passing" in query
    assert query.first("passing") == ""
    assert query.first("none") == ""


@pytest.mark.parametrize("text", ["x=%zz", "%", "a=%2"])
def test_malformed_escape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid URL escape"):
        Query.parse(text)


def test_bytes_that_are_not_utf8_survive() -> None:
    assert unescape("a%FFb").encode("utf-8", "surrogateescape") == b"a\xffb"


def test_absolute_target_is_reduced_to_its_path() -> None:
    request = Request("GET", "http://host:8500/v1/kv/a?raw")
    assert (request.raw_path, request.raw_query) == ("/v1/kv/a", "raw")
    assert Request("GET", "http://host").raw_path == "/"


@pytest.mark.parametrize(
    ("query", "headers", "token"),
    [
        ("token=q", {b"x-consul-token": b"h", b"authorization": b"Bearer b"}, "q"),
        ("", {b"x-consul-token": b"h", b"authorization": b"Bearer b"}, "h"),
        ("token=", {b"authorization": b"bearer b"}, "b"),
        ("", {b"authorization": b"Basic b"}, ""),
        ("", {}, ""),
    ],
)
def test_token_of_the_query_counts_before_those_of_headers(
    query: str, headers: dict[bytes, bytes], token: str
) -> None:
    request = Request("GET", "/", headers)
    request.query = Query.parse(query)
    assert request.token == token
