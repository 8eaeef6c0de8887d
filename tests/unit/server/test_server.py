"""The server: forwarding, leadership, life."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.engine.memory import MemoryEngine
from isthmus.errors import NoLeader, NoPathToDatacenter, RequestError
from isthmus.model.catalog import (
    DatacentersRequest,
    HealthCheck,
    IndexedServices,
    NodeService,
    RegisterRequest,
    ServiceRequest,
)
from isthmus.model.federation import (
    UPSERT,
    FederationState,
    FederationStateQuery,
    FederationStateRequest,
    FederationStateResponse,
)
from isthmus.model.kv import KV_SET, DirEntry, KeyRequest, KVSRequest
from isthmus.model.methods import METHODS
from isthmus.model.query import DatacenterRequest, Empty
from isthmus.server.server import Server
from isthmus.store.engine import (
    Batch,
    Corrupt,
    EngineUnavailable,
    Head,
    Lead,
    LeaderInfo,
    Locked,
    OutcomeUnknown,
)
from support.servers import make_server, make_sqlite


class FakeForwarder:
    """Remembers what it was to carry, and answers with a word."""

    def __init__(self, *datacenters: str) -> None:
        self.calls: list[tuple[str, str, Any, object]] = []
        self._datacenters = datacenters

    async def call(self, dc: str, method: str, request: Any, reply: Any) -> Any:
        self.calls.append((dc, method, request, reply))
        return "answer"

    def datacenters(self) -> tuple[str, ...]:
        return self._datacenters


class BrokenEngine(MemoryEngine):
    """Its disk breaks at the first commit."""

    async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
        raise Corrupt("bad page", operation="commit")


def set_key(key: str) -> KVSRequest:
    return KVSRequest(op=KV_SET, dir_ent=DirEntry(key=key, value=b"v"))


def register(service: NodeService, check: HealthCheck | None = None) -> RegisterRequest:
    return RegisterRequest(node="alpha", address="10.0.0.1", service=service, check=check)


def test_every_method_of_the_table_has_a_handler(server: Server) -> None:
    for method, entry in METHODS.items():
        if method.partition(".")[0] in {
            "Status",
            "Catalog",
            "Health",
            "Internal",
            "KVS",
            "FederationState",
        }:
            assert server.request_type(method) is entry.request


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("Nope.Get", "rpc: can't find service Nope.Get"),
        ("Status.Nope", "rpc: can't find method Status.Nope"),
        ("nodot", "rpc: service/method request ill-formed: nodot"),
    ],
)
async def test_unknown_methods_are_refused_in_gos_words(
    server: Server, method: str, text: str
) -> None:
    with pytest.raises(RequestError) as caught:
        server.request_type(method)
    assert str(caught.value) == text
    with pytest.raises(RequestError) as caught:
        await server.call(method, Empty())
    assert str(caught.value) == text


@pytest.mark.parametrize("dc", ["", "dc1"])
async def test_our_own_datacenter_is_answered_here(server: Server, dc: str) -> None:
    await server.call("KVS.Apply", msgspec.structs.replace(set_key("a"), datacenter=dc))
    reply = await server.call("KVS.Get", KeyRequest(key="a", datacenter=dc))
    assert reply.entries[0].key == "a"


async def test_other_datacenters_are_forwarded_to() -> None:
    forward = FakeForwarder("dc2")
    server = make_server(forward=forward)
    await server.start()
    request = DatacenterRequest(datacenter="dc2")
    assert await server.call("Catalog.ListServices", request) == "answer"
    assert forward.calls == [("dc2", "Catalog.ListServices", request, IndexedServices)]
    await server.stop()


async def test_without_a_way_there_is_no_path(server: Server) -> None:
    with pytest.raises(NoPathToDatacenter, match="No path to datacenter"):
        await server.call("KVS.Get", KeyRequest(key="a", datacenter="dc9"))


async def test_federation_states_are_asked_of_the_target_datacenter() -> None:
    forward = FakeForwarder("dc2")
    server = make_server(forward=forward)
    await server.start()
    here = await server.call("FederationState.Get", FederationStateQuery(datacenter="dc2"))
    assert isinstance(here, FederationStateResponse)
    query = FederationStateQuery(datacenter="dc1", target_datacenter="dc2")
    assert await server.call("FederationState.Get", query) == "answer"
    assert forward.calls[0][:3] == ("dc2", "FederationState.Get", query)
    await server.stop()


async def test_federation_states_are_written_in_the_primary_whatever_the_request_says() -> None:
    forward = FakeForwarder("dc1")
    server = make_server(dc="dc2", primary="dc1", forward=forward, enabled=lambda: False)
    await server.start()
    request = FederationStateRequest(
        datacenter="dc2", op=UPSERT, state=FederationState(datacenter="dc2")
    )
    await server.call("FederationState.Apply", request)
    wanted = msgspec.structs.replace(request, datacenter="dc1")
    assert forward.calls == [("dc1", "FederationState.Apply", wanted, bool)]
    await server.stop()


async def test_datacenters_are_known_ones_and_ours() -> None:
    for known, wanted in (
        (("dc2", "dc1"), ("dc2", "dc1")),
        (("dc2",), ("dc1", "dc2")),
        ((), ("dc1",)),
    ):
        server = make_server(forward=FakeForwarder(*known))
        await server.start()
        assert await server.call("Catalog.ListDatacenters", DatacentersRequest()) == wanted
        await server.stop()


async def test_status_names_the_leader_and_the_peers(server: Server) -> None:
    assert await server.call("Status.Ping", Empty()) == Empty()
    assert await server.call("Status.Leader", DatacenterRequest()) == "127.0.0.1:8300"
    assert await server.call("Status.Peers", DatacenterRequest()) == ("127.0.0.1:8300",)


async def test_consistent_reads_are_confirmed(server: Server) -> None:
    await server.call("KVS.Get", KeyRequest(key="a", require_consistent=True))
    assert await server.engine.claim(LeaderInfo("other", "beta", ""), preempt=True) is not None
    with pytest.raises(NoLeader):
        await server.call("KVS.Get", KeyRequest(key="a", require_consistent=True))


async def test_stopped_server_refuses_writes_and_releases_readers() -> None:
    server = make_server()
    await server.start()
    reading = asyncio.ensure_future(server.call("KVS.Get", KeyRequest(key="a", min_query_index=99)))
    await asyncio.sleep(0)
    await server.stop()
    with pytest.raises(NoLeader):
        await reading
    with pytest.raises(NoLeader):
        await server.call("KVS.Apply", set_key("a"))
    assert not server.is_leader


async def test_broken_disk_ends_leadership_and_keeps_reads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = make_server(BrokenEngine())
    await server.start()
    with pytest.raises(Corrupt):
        await server.call("KVS.Apply", set_key("a"))
    with pytest.raises(NoLeader):
        await server.call("KVS.Apply", set_key("a"))
    assert (await server.call("KVS.Get", KeyRequest(key="a"))).entries is None
    assert await server.call("Status.Leader", DatacenterRequest()) == ""
    assert "this server does not lead any more: storage failed" in caplog.text
    await server.stop()


async def test_version_changes_with_the_tables_and_ends_with_the_leadership() -> None:
    server = make_server()
    assert server.version() is None
    await server.start()
    first = server.version()
    assert server.version() == first is not None
    await server.call("KVS.Apply", set_key("a"))
    second = server.version()
    assert second not in {None, first}
    await server.call("KVS.Get", KeyRequest(key="a"))
    assert server.version() == second
    await server.stop()
    assert server.version() is None


async def test_repeated_answer_counts_as_a_call(server: Server) -> None:
    before = server.call_counts["KVS.Get"]
    server.note_repeat("KVS.Get")
    assert server.call_counts["KVS.Get"] == before + 1


async def test_broken_invariant_is_reported_and_the_server_still_stops() -> None:
    class Wrong(MemoryEngine):
        async def commit(self, lead: Lead, base: int, batch: Batch) -> Head:
            raise AssertionError("impossible")

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context.get("exception"))
    )
    engine = Wrong()
    server = make_server(engine)
    await server.start()
    with pytest.raises(OutcomeUnknown):
        await server.call("KVS.Apply", set_key("a"))
    assert not server.is_leader
    await server.stop()
    assert [str(error) for error in reported] == ["impossible"]
    with pytest.raises(EngineUnavailable):
        await engine.claim(LeaderInfo("", "", ""))


async def test_start_over_locked_data_fails_and_leaves_nothing_open(tmp_path: Path) -> None:
    first, second = make_server(make_sqlite(tmp_path)), make_server(make_sqlite(tmp_path))
    await first.start()
    with pytest.raises(Locked):
        await second.start()
    await first.stop()
    await second.start()
    await second.stop()


async def test_restart_keeps_everything_and_no_index_goes_back(tmp_path: Path) -> None:
    server = make_server(make_sqlite(tmp_path))
    await server.start()
    check = HealthCheck(name="c", service_id="web", status="passing")
    await server.call("Catalog.Register", register(NodeService(service="web"), check))
    await server.call("KVS.Apply", set_key("a"))
    state = FederationState(datacenter="dc1")
    await server.call("FederationState.Apply", FederationStateRequest(op=UPSERT, state=state))
    asked: list[tuple[str, Any]] = [
        ("Health.ServiceNodes", ServiceRequest(service_name="web")),
        ("KVS.List", KeyRequest(key="")),
        ("FederationState.List", DatacenterRequest()),
        ("Catalog.ListNodes", DatacenterRequest()),
    ]
    before = [await server.call(*call) for call in asked]
    await server.stop()
    again = make_server(make_sqlite(tmp_path))
    await again.start()
    for call, old in zip(asked, before, strict=True):
        reply = await again.call(*call)
        assert msgspec.structs.replace(reply, index=old.index) == old
        assert reply.index >= old.index
    await again.call("KVS.Apply", set_key("b"))
    assert again.store.index == server.store.index + 1
    await again.stop()


# What duties watch ----------------------------------------------------------------------------


async def test_duty_sees_our_gateways_now_and_when_they_change(server: Server) -> None:
    index, gateways = await server.mesh_gateways(0)
    assert (index, gateways) == (1, ())
    waiting = asyncio.ensure_future(server.mesh_gateways(index))
    await asyncio.sleep(0)
    await server.call("Catalog.Register", register(NodeService(service="web")))
    assert not waiting.done()
    gateway = NodeService(service="gw", kind="mesh-gateway", port=8443)
    await server.call("Catalog.Register", register(gateway))
    index, gateways = await waiting
    assert [item.service.id for item in gateways if item.service] == ["gw"]
    assert index == server.store.index


async def test_duty_sees_federation_states_now_and_when_they_change(server: Server) -> None:
    index, states = await server.federation_states(0)
    assert (index, states) == (1, ())
    waiting = asyncio.ensure_future(server.federation_states(index))
    await asyncio.sleep(0)
    await server.apply(FederationStateRequest(op=UPSERT, state=FederationState(datacenter="dc2")))
    index, states = await waiting
    assert [state.datacenter for state in states] == ["dc2"]
