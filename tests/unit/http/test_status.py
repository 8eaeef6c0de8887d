from support.http import FakeRpc, as_json, make_client


async def test_leader_is_text_also_when_there_is_none() -> None:
    client = make_client(FakeRpc(Status_Leader="10.0.0.1:8300"))
    assert as_json(await client.get("/v1/status/leader?dc=dc2")) == "10.0.0.1:8300"
    assert client.rpc.last.datacenter == "dc2"
    assert (await make_client(FakeRpc(Status_Leader="")).get("/v1/status/leader")).body == b'""'


async def test_peers_are_a_list_also_when_there_are_none() -> None:
    client = make_client(FakeRpc(Status_Peers=("10.0.0.1:8300",)))
    assert as_json(await client.get("/v1/status/peers")) == ["10.0.0.1:8300"]
    assert (await make_client(FakeRpc(Status_Peers=())).get("/v1/status/peers")).body == b"[]"
