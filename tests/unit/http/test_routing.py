import pytest

from isthmus.http.context import Context
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Route, Routes, clean_path


async def answer(_context: Context, _request: Request) -> Response:
    return Response()


ROUTES = Routes(
    [
        Route(path, {"GET": answer})
        for path in ("/v1/agent/service/", "/v1/agent/service/register", "/v1/kv/", "/v1/a")
    ]
)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/kv/", "/v1/kv/"),
        ("/v1/kv/a/b", "/v1/kv/"),
        ("/v1/agent/service/register", "/v1/agent/service/register"),
        ("/v1/agent/service/other", "/v1/agent/service/"),
        ("/v1/a", "/v1/a"),
    ],
)
def test_path_finds_its_route(path: str, route: str) -> None:
    found = ROUTES.find(path)
    assert found is not None
    assert found.path == route


@pytest.mark.parametrize(
    "path", ["/", "", "/v1", "/v1/", "/v1/kv", "/v1/a/", "/v1/nope", "/v2/kv/"]
)
def test_other_paths_have_none(path: str) -> None:
    assert ROUTES.find(path) is None


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("/v1/kv/a", "/v1/kv/a"),
        ("//v1/kv/a", "/v1/kv/a"),
        ("/v1//kv/a/", "/v1/kv/a/"),
        ("/v1/x/../kv/./a", "/v1/kv/a"),
        ("/v1/kv/a.b", "/v1/kv/a.b"),
        ("/v1/kv/.a", "/v1/kv/.a"),
        ("//", "/"),
        ("/..", "/"),
    ],
)
def test_path_is_cleaned(path: str, cleaned: str) -> None:
    assert clean_path(path) == cleaned
