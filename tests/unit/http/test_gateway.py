from isthmus.http.gateway import WAIT, WAIT_MAX
from support.http import FakeLocal, make_client


async def test_routes_are_passed_on_as_they_are() -> None:
    local = FakeLocal()
    local.routes["mesh/1"] = b'{"version":1}'
    client = make_client(local=local)
    response = await client.get("/v1/isthmus/gateway/mesh%2F1/routes?hash=h&wait=60s")
    assert (response.status, response.body) == (200, b'{"version":1}')
    assert response.header("Content-Type") == "application/json"
    assert local.told == [("gateway_routes", "mesh/1", "h", 60.0)]


async def test_wait_has_a_default_and_a_limit() -> None:
    client = make_client()
    await client.get("/v1/isthmus/gateway/x/routes")
    await client.get("/v1/isthmus/gateway/x/routes?wait=9h")
    assert [told[3] for told in client.local.told] == [WAIT, WAIT_MAX]


async def test_unknown_gateway_is_404() -> None:
    assert (await make_client().get("/v1/isthmus/gateway/x/routes")).status == 404
    assert (await make_client().get("/v1/isthmus/gateway/x")).status == 404
