"""Endpoints of access control, where there is none."""

import pytest

from isthmus.http.acl import ROUTES
from isthmus.http.routing import Route
from support.http import FakeRpc, as_dict, make_client


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_all_say_that_there_is_none(route: Route) -> None:
    client = make_client(FakeRpc())
    path = route.path + "x" if route.path.endswith("/") else route.path
    for method in route.handlers:
        response = await client.request(method, path)
        assert (response.status, response.body) == (401, b"ACL support disabled")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("acl/token/x", "OPTIONS,GET,PUT,DELETE"),
        ("acl/token/self", "OPTIONS,GET"),
        ("acl/policy/name/x", "OPTIONS,GET"),
        ("acl/login", "OPTIONS,POST"),
    ],
)
async def test_methods_are_those_of_consul(path: str, allowed: str) -> None:
    client = make_client(FakeRpc())
    assert as_dict(await client.request("OPTIONS", f"/v1/{path}"))["Allow"] == allowed
