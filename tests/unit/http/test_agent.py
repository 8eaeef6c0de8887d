import pytest

from isthmus.errors import InvalidRequest, NoLeader
from isthmus.http.agent import aggregate
from isthmus.model.agent import AgentService, CheckDefinition, Member, ServiceDefinition
from isthmus.model.catalog import HealthCheck
from isthmus.units import Duration
from support.http import FakeLocal, as_dict, as_json, make_client

WEB = AgentService(id="web-1", service="web", port=80, content_hash="a1", datacenter="dc1")


def make_local() -> FakeLocal:
    local = FakeLocal()
    local.known["web-1"] = WEB
    local.known_checks["c"] = HealthCheck(
        node="alpha", check_id="c", service_id="web-1", status="warning"
    )
    return local


async def test_self_says_what_the_agent_says() -> None:
    response = await make_client().get("/v1/agent/self")
    assert as_json(response)["Config"]["Datacenter"] == "dc1"


async def test_members_of_either_pool() -> None:
    local = FakeLocal()
    local.lan, local.wan = [Member(name="a")], [Member(name="a.dc1", tags={"dc": "dc1"}, status=1)]
    client = make_client(local=local)
    assert [one["Name"] for one in as_json(await client.get("/v1/agent/members"))] == ["a"]
    (member,) = as_json(await client.get("/v1/agent/members?wan=1"))
    assert list(member)[:5] == ["Name", "Addr", "Port", "Tags", "Status"]
    local.wan = None
    assert (await client.get("/v1/agent/members?wan=1")).body == b"null"


async def test_segments_are_refused() -> None:
    client = make_client()
    assert (await client.get("/v1/agent/members?segment=_all")).status == 200
    response = await client.get("/v1/agent/members?segment=x")
    assert response.status == 500
    assert b"Network segments are not supported" in response.body


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("join/10.0.0.1:8301", ("join", "10.0.0.1:8301", False)),
        ("join/10.0.0.1?wan=1", ("join", "10.0.0.1", True)),
        ("leave", ("leave",)),
        ("force-leave/a.dc1?wan", ("force_leave", "a.dc1", False, True)),
        ("force-leave/a?prune", ("force_leave", "a", True, False)),
        ("service/deregister/web%2F1", ("deregister_service", "web/1")),
        ("check/deregister/c", ("deregister_check", "c")),
        ("check/pass/c?note=fine", ("update_check", "c", "passing", "fine")),
        ("check/warn/c", ("update_check", "c", "warning", "")),
        ("check/fail/c", ("update_check", "c", "critical", "")),
        ("maintenance?enable=true", ("set_maintenance", "", True, "", "")),
        ("maintenance?enable=F&token=t", ("set_maintenance", "", False, "", "t")),
        (
            "service/maintenance/web-1?enable=1&reason=moving+on",
            ("set_maintenance", "web-1", True, "moving on", ""),
        ),
    ],
)
async def test_deed_is_passed_on_and_answered_with_nothing(
    target: str, told: tuple[object, ...]
) -> None:
    client = make_client(local=make_local())
    response = await client.put(f"/v1/agent/{target}")
    assert client.local.told == [told]
    assert (response.status, response.body) == (200, b"")
    assert response.header("Content-Type") is None


async def test_services_by_id() -> None:
    response = await make_client(local=make_local()).get("/v1/agent/services")
    assert as_json(response)["web-1"]["Port"] == 80


async def test_services_and_checks_are_filtered() -> None:
    local = make_local()
    local.known["db"] = AgentService(id="db", service="db", meta={"tier": "1"})
    local.known_checks["d"] = HealthCheck(node="alpha", check_id="d", status="passing")
    client = make_client(local=local)
    for target, kept in (
        ("services?filter=Meta.tier == 1", ["db"]),
        ("services?filter=Service matches `^w`", ["web-1"]),
        ("services?filter=Port == 9", []),
        ("checks?filter=Status != passing", ["c"]),
        ("checks?filter=", ["c", "d"]),
    ):
        response = await client.get("/v1/agent/" + target.replace(" ", "%20"))
        assert sorted(as_json(response)) == kept


async def test_filters_that_do_not_fit_are_refused() -> None:
    prefix = b"Failed to create boolean expression evaluator: "
    client = make_client(local=make_local())
    response = await client.get("/v1/agent/services?filter=ContentHash==x")
    assert (response.status, response.body) == (
        500,
        prefix + b'Selector "ContentHash" is not valid',
    )
    response = await client.get("/v1/agent/checks?filter=(Node==x")
    assert response.body == prefix + b'1:9 (8): rule "grouping": Unmatched parentheses'
    # Checks are looked at one by one, and only then the selector is found to be wrong.
    response = await client.get("/v1/agent/checks?filter=X==x")
    assert (response.status, response.body) == (500, b'Selector "X" is not valid')
    response = await make_client().get("/v1/agent/checks?filter=X==x")
    assert as_json(response) == {}


async def test_one_service_tells_its_hash() -> None:
    client = make_client(local=make_local())
    response = await client.get("/v1/agent/service/web-1")
    assert as_json(response)["ContentHash"] == "a1"
    assert response.header("X-Consul-Contenthash") == "a1"
    await client.get("/v1/agent/service/web-1?hash=a1&wait=10s")
    assert client.local.told == [
        ("service_changed", "web-1", "", 0.0),
        ("service_changed", "web-1", "a1", 10.0),
    ]


async def test_unknown_service_is_404() -> None:
    response = await make_client().get("/v1/agent/service/nope")
    assert (response.status, response.body) == (404, b"unknown service ID: nope")


async def test_service_is_registered_with_the_requests_token() -> None:
    client = make_client()
    body = {"Name": "web", "Check": {"TTL": "10s"}, "Token": "body"}
    await client.put("/v1/agent/service/register?replace-existing-checks=true&token=query", body)
    definition = ServiceDefinition(
        name="web", check=CheckDefinition(ttl=Duration.of(10)), token="query"
    )
    assert client.local.told == [("register_service", definition, True)]
    await client.put("/v1/agent/service/register", body)
    assert client.local.told[1][2] is False


async def test_refusal_of_the_agent_keeps_its_status() -> None:
    local = FakeLocal()
    local.fault = InvalidRequest("Missing service name")
    response = await make_client(local=local).put("/v1/agent/service/register", {})
    assert (response.status, response.body) == (400, b"Missing service name")


async def test_agent_that_cannot_now_is_500() -> None:
    local = FakeLocal()
    local.fault = NoLeader()
    response = await make_client(local=local).put("/v1/agent/join/x")
    assert (response.status, response.body) == (500, b"No cluster leader")


async def test_service_id_is_needed() -> None:
    response = await make_client().put("/v1/agent/service/deregister/")
    assert (response.status, response.body) == (500, b"ServiceID missing")


async def test_checks_by_id() -> None:
    response = await make_client(local=make_local()).get("/v1/agent/checks")
    assert as_json(response)["c"]["ServiceTags"] == []


async def test_check_is_registered() -> None:
    client = make_client()
    await client.put("/v1/agent/check/register", {"ID": "c", "Name": "n", "TTL": "1s"})
    definition = CheckDefinition(check_id="c", name="n", ttl=Duration.of(1))
    assert client.local.told == [("register_check", definition)]


async def test_check_is_updated_by_its_body() -> None:
    client = make_client(local=make_local())
    body = {"Status": "warning", "Output": "slow"}
    assert (await client.put("/v1/agent/check/update/c", body)).status == 200
    assert client.local.told == [("update_check", "c", "warning", "slow")]
    response = await client.put("/v1/agent/check/update/c", {"Status": "bogus"})
    assert (response.status, response.body) == (400, b"Invalid check status: 'bogus'")


async def test_check_that_is_not_ours_to_set_is_refused() -> None:
    response = await make_client().put("/v1/agent/check/pass/x")
    assert (response.status, response.body) == (
        500,
        b'CheckID "x" does not have associated TTL',
    )


@pytest.mark.parametrize(
    ("status", "code"), [("passing", 200), ("warning", 429), ("critical", 503)]
)
@pytest.mark.parametrize("way", ["id/web-1", "name/web"])
async def test_health_is_told_by_the_status_code(status: str, code: int, way: str) -> None:
    local = make_local()
    local.known_checks["c"] = HealthCheck(check_id="c", service_id="web-1", status=status)
    client = make_client(local=local)
    response = await client.get(f"/v1/agent/health/service/{way}")
    assert (response.status, response.header("X-Consul-Reason")) == (code, status)
    found = as_json(response)
    assert (found if "id/" in way else found[0])["AggregatedStatus"] == status
    text = await client.get(f"/v1/agent/health/service/{way}?format=text")
    assert (text.status, text.body.decode()) == (code, status)


async def test_health_of_an_unknown_service_is_404() -> None:
    response = await make_client().get("/v1/agent/health/service/name/x")
    assert (response.status, response.body) == (404, b"[]")
    assert as_dict(response)["X-Consul-Reason"] == "ServiceName x Not Found"
    response = await make_client().get("/v1/agent/health/service/id/x")
    assert response.status == 404
    assert as_json(response) == {"AggregatedStatus": "critical", "Service": None, "Checks": None}
    response = await make_client().get("/v1/agent/health/service/id/x?format=text")
    assert (response.status, response.body) == (404, b"ServiceId x not found")


def test_maintenance_is_worse_than_critical() -> None:
    checks = [
        HealthCheck(check_id="a", status="critical"),
        HealthCheck(check_id="_service_maintenance:web", status="critical"),
    ]
    assert aggregate(checks[:1]) == "critical"
    assert aggregate(checks) == "maintenance"
    assert aggregate([]) == "passing"
    assert aggregate([HealthCheck(status="odd")]) == "critical"


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("maintenance", 400, "Missing value for enable"),
        ("maintenance?enable=zzz", 400, 'Invalid value for enable: "zzz"'),
        ("maintenance?enable=", 400, 'Invalid value for enable: ""'),
        ("service/maintenance/web-1", 400, "Missing value for enable"),
        ("service/maintenance/?enable=true", 400, "Missing service ID"),
        ("service/maintenance/none?enable=1", 404, 'No service registered with ID "none"'),
        ("service/deregister/", 500, "ServiceID missing"),
        ("check/deregister/", 500, "CheckID missing"),
    ],
)
async def test_deed_without_what_it_needs_is_refused(target: str, status: int, text: str) -> None:
    response = await make_client(local=make_local()).put(f"/v1/agent/{target}")
    assert (response.status, response.body.decode()) == (status, text)


@pytest.mark.parametrize(
    ("query", "replaces"),
    [
        ("", False),
        ("?replace-existing-checks", True),
        ("?replace-existing-checks=true", True),
        ("?replace-existing-checks=false", False),
    ],
)
async def test_checks_are_replaced_when_that_is_asked_for(query: str, replaces: bool) -> None:
    client = make_client()
    await client.put(f"/v1/agent/service/register{query}", b'{"Name": "web"}')
    assert client.local.told[0][-1] is replaces


@pytest.mark.parametrize("target", ["id/", "name/"])
async def test_health_of_nothing_is_refused(target: str) -> None:
    response = await make_client().get(f"/v1/agent/health/service/{target}")
    assert response.status == 500
    assert response.body.startswith(b"Bad request: Missing service")


async def test_health_as_text_can_be_asked_for_in_a_header() -> None:
    client = make_client(local=make_local())
    response = await client.get("/v1/agent/health/service/id/web-1", accept="text/plain")
    assert (response.status, response.body) == (429, b"warning")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "services"),
        ("GET", "service/web"),
        ("GET", "checks"),
        ("GET", "health/service/id/web"),
        ("GET", "health/service/name/web"),
        ("PUT", "service/register"),
        ("PUT", "service/deregister/web"),
        ("PUT", "service/maintenance/web?enable=true"),
        ("PUT", "check/register"),
        ("PUT", "check/deregister/c"),
        ("PUT", "check/pass/c"),
    ],
)
async def test_namespaces_are_refused(method: str, path: str) -> None:
    client = make_client()
    mark = "&" if "?" in path else "?"
    response = await client.request(method, f"/v1/agent/{path}{mark}ns=team", {"Name": "x"})
    assert response.status == 400
    assert response.body.startswith(b'Bad request: Invalid query parameter: "ns" - ')
    assert client.local.told == []
