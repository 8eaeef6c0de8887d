"""``/v1/isthmus/federation`` and its doctor."""

from isthmus.errors import RemoteError
from isthmus.model.diagnosis import BROKEN, DoctorReport, FederationReport, Finding
from isthmus.model.query import DatacenterRequest
from support.http import FakeLocal, FakeRpc, as_json, make_client


async def test_federation_is_asked_of_a_server() -> None:
    rpc = FakeRpc(Isthmus_Report=FederationReport(datacenter="dc1", way_to_primary="local"))
    client = make_client(rpc)
    answer = as_json(await client.get("/v1/isthmus/federation"))
    assert (answer["Datacenter"], answer["WayToPrimary"]) == ("dc1", "local")
    assert rpc.last == DatacenterRequest(datacenter="dc1")


async def test_federation_of_another_datacenter() -> None:
    rpc = FakeRpc(Isthmus_Report=RemoteError("rpc error making call: rpc: can't find service"))
    answer = await make_client(rpc).get("/v1/isthmus/federation?dc=dc2")
    assert (answer.status, rpc.last.datacenter) == (500, "dc2")
    assert b"can't find service" in answer.body


async def test_doctor_examines_when_it_is_told_to() -> None:
    local = FakeLocal()
    local.doctor = DoctorReport(
        datacenter="dc1",
        findings=(Finding(source="dc1", target="dc2", hop="TLS", verdict=BROKEN, remedy="renew"),),
    )
    client = make_client(local=local)
    assert (await client.get("/v1/isthmus/federation/doctor")).status == 405
    assert local.told == []
    answer = as_json(await client.put("/v1/isthmus/federation/doctor?datacenter=dc2"))
    assert local.told == [("diagnose", "dc2")]
    assert answer["Findings"] == [
        {
            "Source": "dc1",
            "Target": "dc2",
            "Hop": "TLS",
            "Verdict": "broken",
            "Text": "",
            "Remedy": "renew",
        }
    ]
