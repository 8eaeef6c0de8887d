"""``/v1/event``."""

from isthmus.errors import NoPathToDatacenter, RequestError
from isthmus.model.event import UserEvent
from support.http import FakeLocal, as_dict, as_json, make_client

ID = "00000000-0000-4000-8000-000000000001"
INDEX = str(0x4000 ^ 0x8000000000000001)


async def test_event_is_fired_with_payload_and_filters() -> None:
    local = FakeLocal()
    client = make_client(local=local)
    answer = await client.put("/v1/event/fire/deploy?node=^a&service=web&tag=v1&token=s", b"\x00p")
    event = UserEvent(
        name="deploy", payload=b"\x00p", node_filter="^a", service_filter="web", tag_filter="v1"
    )
    assert local.told == [("fire_event", event, "dc1", "s")]
    assert as_json(answer) == {
        "ID": ID,
        "Name": "deploy",
        "Payload": "AHA=",
        "NodeFilter": "^a",
        "ServiceFilter": "web",
        "TagFilter": "v1",
        "Version": 1,
        "LTime": 0,
    }


async def test_event_without_payload_for_another_datacenter() -> None:
    local = FakeLocal()
    answer = as_json(await make_client(local=local).put("/v1/event/fire/a/b?dc=dc2"))
    assert local.told == [("fire_event", UserEvent(name="a/b"), "dc2", "")]
    assert answer["Payload"] is None


async def test_event_has_a_name() -> None:
    answer = await make_client().put("/v1/event/fire/")
    assert (answer.status, answer.body) == (400, b"Missing name")
    assert (await make_client().get("/v1/event/fire/x")).status == 405


async def test_what_is_wrong_with_an_event_is_said() -> None:
    local = FakeLocal()
    local.fault = RequestError("Invalid node filter: error parsing regexp: …")
    answer = await make_client(local=local).put("/v1/event/fire/x?node=(")
    assert answer.status == 500
    assert answer.body.startswith(b"Invalid node filter")
    local.fault = NoPathToDatacenter("dc9")
    answer = await make_client(local=local).put("/v1/event/fire/x?dc=dc9")
    assert (answer.status, answer.body) == (500, b"No path to datacenter")


async def test_list_has_an_index_and_no_other_header_of_a_query() -> None:
    local = FakeLocal()
    local.known_events = [UserEvent(id=ID, name="deploy", payload=b"x", version=1, ltime=7)]
    answer = await make_client(local=local).get("/v1/event/list")
    assert [(event["Name"], event["Payload"], event["LTime"]) for event in as_json(answer)] == [
        ("deploy", "eA==", 7)
    ]
    headers = as_dict(answer)
    assert headers["X-Consul-Index"] == INDEX
    assert "X-Consul-Knownleader" not in headers
    assert local.told == [("events", "", "", "", "", 0, 0.0)]


async def test_list_is_narrowed_and_waited_for() -> None:
    local = FakeLocal()
    answer = await make_client(local=local).get(
        f"/v1/event/list?name=d&node=n&service=s&tag=t&index={INDEX}&wait=2m"
    )
    assert (answer.status, answer.body) == (200, b"[]")
    assert as_dict(answer)["X-Consul-Index"] == "1"
    assert local.told == [("events", "d", "n", "s", "t", int(INDEX), 120.0)]


async def test_list_refuses_what_is_no_wait() -> None:
    answer = await make_client().get("/v1/event/list?index=1&wait=soon")
    assert (answer.status, answer.body) == (400, b"Invalid wait time")
