"""A snapshot of Consul's becomes writes: what has a place here, and what is told of the rest."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.model.catalog import (
    DeregisterRequest,
    HealthCheck,
    NodeService,
    RegisterRequest,
)
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    ConfigEntry,
    ConfigEntryRequest,
    MeshConfigEntry,
    ServiceConfigEntry,
    ServiceIntentionsConfigEntry,
    ServiceResolverConfigEntry,
    ServiceResolverSubset,
)
from isthmus.model.federation import UPSERT, FederationState, FederationStateRequest
from isthmus.model.kv import KV_SET, DirEntry, KVSRequest
from isthmus.model.operator import AutopilotConfig
from isthmus.model.prepared_query import PreparedQuery, ServiceQuery
from isthmus.model.session import Session
from isthmus.model.snapshot import ImportedKind
from isthmus.server.consul_import import NAMES_MAX, ConsulImport, check_snapshot
from isthmus.server.server import Server
from isthmus.wire.archive import UnreadableSnapshot
from isthmus.wire.blob import encode_blob
from isthmus.wire.msgpack import pack, to_plain
from support.consul_snapshot import archive_of, state_of
from support.sessions import session_id

VECTOR = Path(__file__).parents[2] / "vectors/snapshot/federation_state_records.json"


def node(name: str, **more: Any) -> tuple[int, RegisterRequest]:
    return 0, RegisterRequest(
        datacenter="old", node=name, address="10.1.0.1", modify_index=7, **more
    )


def service(name: str, id: str = "web") -> tuple[int, RegisterRequest]:  # noqa: A002
    return node(name, service=NodeService(id=id, service="web", port=80, tags=("v1",)))


def check(name: str, id: str = "c") -> tuple[int, RegisterRequest]:  # noqa: A002
    made = HealthCheck(node=name, check_id=id, service_id="web", status="passing")
    return node(name, check=made)


def key(name: str, value: bytes = b"v", **more: Any) -> tuple[int, DirEntry]:
    return 2, DirEntry(key=name, value=value, create_index=3, modify_index=9, **more)


async def run(server: Server, rows: list[Any], *, keep: bool = False) -> dict[str, ImportedKind]:
    file = io.BytesIO(archive_of(state_of(rows)))
    assert check_snapshot(file) == len(rows)
    file.seek(0)
    kinds = await ConsulImport(
        server.store, server.apply, dc="dc1", is_primary=True, keep=keep
    ).run(file)
    return {kind.kind: kind for kind in kinds}


def counts(kind: ImportedKind) -> tuple[int, int, int, int]:
    return kind.found, kind.imported, kind.kept, kind.refused


async def test_catalog_keys_and_states_are_written(server: Server) -> None:
    vector = json.loads(VECTOR.read_text())
    states = [
        (30, bytes.fromhex(one["record_hex"])[1:]) for one in vector["federation_state_records"]
    ]
    kinds = await run(
        server,
        [
            node("n1"), service("n1"), check("n1"), node("n2"), service("n2"),
            key("a", b"\xff", flags=42), key("b", lock_index=2), *states,
        ],
    )  # fmt: skip
    assert {name: counts(kind) for name, kind in kinds.items()} == {
        "Node": (2, 2, 0, 0),
        "Service": (2, 2, 0, 0),
        "Check": (1, 1, 0, 0),
        "KVS": (2, 2, 0, 0),
        "FederationState": (2, 2, 0, 0),
    }
    assert all(kind.names is None and not kind.reason for kind in kinds.values())
    store = server.store
    instances = store.catalog.check_service_nodes("web").value
    assert [one.node.datacenter for one in instances if one.node] == ["dc1", "dc1"]
    assert [[one.check_id for one in found.checks or ()] for found in instances] == [["c"], []]
    a, b = store.kv.list("").value
    assert (a.value, a.flags, b.session, b.lock_index) == (b"\xff", 42, "", 2)
    assert a.modify_index > 1
    assert [one.datacenter for one in store.federation.list().value] == ["dc1", "dc2"]


async def test_what_is_there_is_replaced_or_kept(server: Server) -> None:
    rows = [node("n1"), service("n1"), check("n1"), key("k", b"theirs"), key("new")]
    old = FederationState(datacenter="dc2")
    rows.append((30, FederationStateRequest(op=UPSERT, state=old)))

    async def ours() -> None:
        await server.apply(
            RegisterRequest(
                node="N1",
                address="10.0.0.9",
                service=NodeService(id="WEB", service="web", port=1),
                check=HealthCheck(node="N1", check_id="C", service_id="WEB", status="critical"),
            )
        )
        await server.apply(KVSRequest(op=KV_SET, dir_ent=DirEntry(key="k", value=b"ours")))
        await server.apply(FederationStateRequest(op=UPSERT, state=old))

    await ours()
    kinds = await run(server, rows, keep=True)
    assert counts(kinds["Node"]) == counts(kinds["Service"]) == counts(kinds["Check"])
    assert counts(kinds["Check"]) == counts(kinds["FederationState"]) == (1, 0, 1, 0)
    assert counts(kinds["KVS"]) == (2, 1, 1, 0)
    assert kinds["KVS"].names == ("k",)
    assert kinds["Service"].names == ("n1/web",)
    assert "kept" in kinds["Check"].reason
    found = server.store.kv.get("k").value
    assert found is not None
    assert found.value == b"ours"
    assert await run(server, rows)
    (instance,) = server.store.catalog.check_service_nodes("web").value
    assert instance.node is not None
    assert instance.service is not None
    assert (instance.node.address, instance.service.port) == ("10.1.0.1", 80)
    assert [one.status for one in instance.checks or ()] == ["passing"]


async def test_repeated_import_changes_nothing(server: Server) -> None:
    rows = [node("n1"), service("n1"), check("n1"), key("k")]
    rows.append((9, AutopilotConfig(create_index=3, modify_index=4)))
    await run(server, rows)
    index = server.store.index
    kinds = await run(server, rows)
    assert server.store.index == index
    assert counts(kinds["KVS"]) == counts(kinds["Autopilot"]) == (1, 1, 0, 0)


async def test_what_has_no_place_is_counted_and_named(server: Server) -> None:
    rows: list[Any] = [
        (5, DirEntry(key="gone")),
        (6, [{"Node": "n1"}]),
        (16, {"Key": "kvs", "Value": 5}),
        (4, {"ID": "secret", "Name": "before 1.4"}),
        (12, {"ID": "i", "SourceName": "web", "DestinationName": "db"}),
        (13, {"Name": "Consul CA Root Cert", "ID": "aa:bb", "PrivateKey": "secret"}),
        (17, {"AccessorID": "a-1", "SecretID": "secret", "Rules": "x"}),
        (17, {"SecretID": "secret", "ID": "secret"}),
        (19, {"Name": "readers", "ID": "p"}),
        (23, {"Name": "ops", "ID": "r"}),
        (25, {"ID": "b-1", "AuthMethod": "k8s"}),
        (27, {"Name": "k8s"}),
        (99, {"Name": "x", "ID": "secret"}),
    ]
    kinds = await run(server, rows)
    assert all(kind.reason for kind in kinds.values())
    assert kinds["type 99"].found == kinds["Tombstone"].found == 1
    assert {name: kind.names for name, kind in kinds.items() if kind.names} == {
        "Intention": ("web/db",),
        "ConnectCA": ("Consul CA Root Cert/aa:bb",),
        "ACLToken": ("a-1",),
        "ACLPolicy": ("readers",),
        "ACLRole": ("ops",),
        "ACLBindingRule": ("k8s/b-1",),
        "ACLAuthMethod": ("k8s",),
    }
    assert "secret" not in repr(kinds)


async def test_autopilot_settings_come_over_unless_there_are_some(server: Server) -> None:
    theirs = AutopilotConfig(max_trailing_logs=123, cleanup_dead_servers=False)
    kinds = await run(server, [(9, theirs)], keep=True)  # Nobody has set any here.
    assert counts(kinds["Autopilot"]) == (1, 1, 0, 0)
    assert server.store.autopilot.get().max_trailing_logs == 123
    kinds = await run(server, [(9, AutopilotConfig(max_trailing_logs=7))], keep=True)
    assert counts(kinds["Autopilot"]) == (1, 0, 1, 0)
    assert server.store.autopilot.get().max_trailing_logs == 123
    await run(server, [(9, AutopilotConfig(max_trailing_logs=7))])
    assert server.store.autopilot.get().max_trailing_logs == 7


async def test_sessions_and_the_locks_they_hold_come_over(server: Server) -> None:
    ttl = Session(id=session_id(1), node="n1", ttl="10s", node_checks=("c",), behavior="delete")
    rows = [
        node("n1"), service("n1"), check("n1"),
        (3, ttl), (3, Session(id=session_id(2), node="n1")),
        key("a", b"1", flags=7, session=session_id(1), lock_index=3),
        key("b", session=session_id(2).upper(), lock_index=1),
        key("c", session=session_id(9), lock_index=4),
    ]  # fmt: skip
    kinds = await run(server, rows)
    assert counts(kinds["Session"]) == (2, 2, 0, 0)
    assert counts(kinds["KVS"]) == (3, 3, 0, 0)
    assert counts(kinds["Lock"]) == (3, 2, 0, 1)
    assert kinds["Lock"].names == ("c",)
    assert "session" in kinds["Lock"].reason
    a, b, c = server.store.kv.list("").value
    assert (a.session, a.lock_index, a.value, a.flags) == (session_id(1), 3, b"1", 7)
    assert (b.session, b.lock_index) == (session_id(2).upper(), 1)
    assert (c.session, c.lock_index) == ("", 4)
    assert server.sessions.active_count == 1, "its time runs"

    again = await run(server, rows)
    assert counts(again["Lock"]) == (3, 2, 0, 1)
    assert server.store.kv.list("").value[:2] == (a, b)
    await server.apply(DeregisterRequest(node="n1"))
    assert [entry.key for entry in server.store.kv.list("").value] == ["b", "c"]


async def test_session_that_cannot_live_here_is_counted_and_named(server: Server) -> None:
    rows: list[Any] = [(3, Session(id=session_id(n), node="none")) for n in range(25)]
    rows += [(3, Session(id="short", node="none")), key("a", session=session_id(0))]
    kinds = await run(server, rows)
    assert counts(kinds["Session"]) == (26, 0, 0, 26)
    assert kinds["Session"].names == tuple(session_id(n) for n in range(NAMES_MAX))
    assert kinds["Session"].reason == "Missing node registration"
    assert counts(kinds["Lock"]) == (1, 0, 0, 1)
    assert counts(kinds["KVS"]) == (1, 1, 0, 0)


async def test_sessions_and_locks_that_are_there_are_kept(server: Server) -> None:
    rows = [node("n1"), (3, Session(id=session_id(1), node="n1")), key("a", session=session_id(1))]
    await run(server, rows)
    index = server.store.index
    kinds = await run(server, rows, keep=True)
    assert counts(kinds["Session"]) == counts(kinds["Lock"]) == (1, 0, 1, 0)
    assert server.store.index == index


async def test_prepared_queries_keep_their_ids(server: Server) -> None:
    query_id = "a0000000-0000-0000-0000-000000000001"
    other_id = query_id.replace("a", "b")
    query = PreparedQuery(
        id=query_id, name="nearest", token="t", service=ServiceQuery(service="web"), modify_index=9
    )
    rows = [
        (7, query),
        (7, {"ID": "q1", "Name": "no uuid"}),
        (7, {"ID": other_id, "Session": other_id}),
    ]
    kinds = await run(server, rows)
    assert counts(kinds["PreparedQuery"]) == (3, 1, 0, 2)
    assert kinds["PreparedQuery"].names == ("no uuid", other_id)
    (stored,) = server.store.queries.list().value
    assert msgspec.structs.replace(stored, create_index=0, modify_index=9) == query
    index = server.store.index
    await run(server, rows[:1])
    assert server.store.index == index
    changed = msgspec.structs.replace(query, token="other")
    assert counts((await run(server, [(7, changed)], keep=True))["PreparedQuery"]) == (1, 0, 1, 0)
    await run(server, [(7, changed)])
    assert server.store.queries.list().value[0].token == "other"


async def test_row_that_is_refused_does_not_stop_the_others(server: Server) -> None:
    alive = HealthCheck(node="taken", check_id="serfHealth", status="passing")
    await server.apply(
        RegisterRequest(id="id-1", node="taken", address="10.0.0.1", checks=(alive,))
    )
    rows: list[Any] = [
        node("taken", id="id-2"),
        (0, {"Node": 7}),
        (2, {"Key": []}),
        node("orphan", check=HealthCheck(node="orphan", check_id="c", service_id="none")),
        key("k"),
    ]
    kinds = await run(server, rows)
    assert counts(kinds["Node"]) == (1, 0, 0, 1)
    assert kinds["Node"].names == ("taken",)
    assert "is reserved by node" in kinds["Node"].reason
    assert kinds["Register"].refused == 1
    assert kinds["Check"].refused == 1
    assert (kinds["KVS"].imported, kinds["KVS"].refused) == (1, 1)


async def test_states_belong_to_the_primary(server: Server) -> None:
    request = FederationStateRequest(op=UPSERT, state=FederationState(datacenter="dc9"))
    file = io.BytesIO(archive_of(state_of([(30, request)])))
    (kind,) = await ConsulImport(
        server.store, server.apply, dc="dc1", is_primary=False, keep=False
    ).run(file)
    assert (counts(kind), kind.names) == ((1, 0, 0, 0), ("dc9",))
    assert "primary" in kind.reason
    assert not server.store.federation.list().value


def config_entry(entry: ConfigEntry | None) -> tuple[int, bytes]:
    return 22, encode_blob(ConfigEntryRequest(entry=entry))


async def test_config_entries_come_over_unless_there_are_some(server: Server) -> None:
    web = ServiceConfigEntry(name="web", protocol="http", create_index=50, modify_index=60)
    rows = [config_entry(web), config_entry(MeshConfigEntry())]
    kinds = await run(server, rows)
    assert counts(kinds["ConfigEntry"]) == (2, 2, 0, 0)
    entries = server.store.config_entries
    found = entries.get("service-defaults", "web").value
    assert found is not None
    assert msgspec.structs.replace(found, create_index=50, modify_index=60) == web
    assert entries.get("mesh", "mesh").value is not None
    index = server.store.index
    await run(server, rows)
    assert server.store.index == index
    changed = [config_entry(ServiceConfigEntry(name="WEB", protocol="grpc"))]
    kept = (await run(server, changed, keep=True))["ConfigEntry"]
    assert (counts(kept), kept.names) == ((1, 0, 1, 0), ("service-defaults/WEB",))
    await run(server, changed)
    (found,) = entries.list("service-defaults").value
    assert isinstance(found, ServiceConfigEntry)
    assert (found.name, found.protocol) == ("WEB", "grpc")


async def test_config_entry_that_cannot_be_read_is_refused_and_told(server: Server) -> None:
    later = to_plain(ServiceConfigEntry(name="web"))
    blob = b"".join(map(pack, ["exported-services", {"Entry": later}]))
    rows: list[Any] = [
        (22, pack(blob.decode("utf-8", "surrogateescape"))),
        (22, {"not": "a blob"}),
        config_entry(None),
        config_entry(ServiceConfigEntry()),
        config_entry(ServiceConfigEntry(name="web")),
    ]
    kind = (await run(server, rows))["ConfigEntry"]
    assert counts(kind) == (5, 1, 0, 4)
    assert kind.reason == "invalid config entry kind: exported-services"
    assert len(kind.names or ()) == 4


async def test_config_entries_belong_to_the_primary(server: Server) -> None:
    file = io.BytesIO(archive_of(state_of([config_entry(ServiceConfigEntry(name="web"))])))
    (kind,) = await ConsulImport(
        server.store, server.apply, dc="dc1", is_primary=False, keep=False
    ).run(file)
    assert (counts(kind), kind.names) == ((1, 0, 0, 0), ("service-defaults/web",))
    assert "primary" in kind.reason
    assert not server.store.config_entries.list().value


def test_damaged_file_is_found_before_anything_is_written() -> None:
    with pytest.raises(UnreadableSnapshot):
        check_snapshot(io.BytesIO(archive_of(state_of([key("k")]), spoil=True)))


async def test_whole_snapshot_of_consul_1_10_is_imported(server: Server) -> None:
    """Saved by a server of Consul 1.10.11 that had some of everything."""
    file = io.BytesIO((VECTOR.parent / "consul-1.10.11.snap").read_bytes())
    assert check_snapshot(file) == 36
    file.seek(0)
    importing = ConsulImport(server.store, server.apply, dc="dc1", is_primary=True, keep=False)
    kinds = {kind.kind: kind for kind in await importing.run(file)}
    whole = {"Node": 3, "Service": 4, "Check": 2, "Session": 1, "KVS": 3, "PreparedQuery": 2}
    assert {name: kinds[name].imported for name in whole} == whole
    assert not any(kind.refused for kind in kinds.values())
    catalog, kv = server.store.catalog, server.store.kv
    (instance,) = catalog.check_service_nodes("web").value
    assert instance.service is not None
    assert instance.service.tags == ("a", "b")
    assert instance.service.weights is not None
    assert (instance.service.weights.passing, instance.service.weights.warning) == (3, 1)
    (proxy,) = catalog.check_service_nodes("web-proxy").value
    assert proxy.service is not None
    assert proxy.service.proxy.config == {"a": 1}
    lock, entry = kv.get("lock").value, kv.get("a/b").value
    assert entry is not None
    assert lock is not None
    assert (entry.value, entry.flags) == (b"hello", 42)
    assert lock.lock_index == 1
    session = server.store.sessions.get(lock.session).value
    assert session is not None
    assert (session.behavior, session.ttl, session.lock_delay.seconds) == ("delete", "3600s", 5)


async def test_snapshot_of_a_consul_mesh_leaves_nothing_unsaid(server: Server) -> None:
    """Saved by a server of Consul 1.10.11 with ACLs, a CA and config entries of every kind.

    The bytes of its private keys were replaced.
    """
    file = io.BytesIO((VECTOR.parent / "consul-1.10.11-mesh.snap").read_bytes())
    row_count = check_snapshot(file)
    file.seek(0)
    importing = ConsulImport(server.store, server.apply, dc="dc1", is_primary=True, keep=False)
    kinds = {kind.kind: kind for kind in await importing.run(file)}
    assert {name: kind.found for name, kind in kinds.items() if kind.imported} == {
        "Node": 3, "Service": 7, "Check": 4, "Session": 1, "KVS": 4, "Lock": 1,
        "PreparedQuery": 2, "Autopilot": 1, "FederationState": 1, "ConfigEntry": 11,
    }  # fmt: skip
    rest = {name: kind for name, kind in kinds.items() if not kind.imported}
    assert {name: len(kind.names or ()) for name, kind in rest.items()} == {
        "ACLToken": 3, "ACLPolicy": 2, "ACLRole": 1, "ACLBindingRule": 1,
        "ACLAuthMethod": 1, "ConnectCA": 1, "ConnectCAProviderState": 0, "ConnectCAConfig": 0,
        "CoordinateBatchUpdate": 0, "Tombstone": 0, "SystemMetadata": 0, "Index": 0,
        "ChunkingState": 0,
    }  # fmt: skip
    assert all(kind.reason for kind in rest.values())
    entries = server.store.config_entries
    assert {entry.kind for entry in entries.list().value} == set(CONFIG_ENTRY_TYPES)
    (resolver,) = entries.list("service-resolver").value
    assert isinstance(resolver, ServiceResolverConfigEntry)
    assert resolver.subsets == {"v1": ServiceResolverSubset(filter="Service.Meta.v == 1")}
    by_intention = {
        (entry.name, source.name, source.action, source.precedence)
        for entry in entries.list("service-intentions").value
        if isinstance(entry, ServiceIntentionsConfigEntry)
        for source in entry.sources or ()
    }
    assert by_intention == {("b", "a", "deny", 9), ("web", "api", "allow", 9)}
    found = sum(kind.found for name, kind in kinds.items() if name != "Lock")  # Part of a key.
    assert found == row_count
    (state,) = server.store.federation.list().value
    assert [gateway.service.port for gateway in state.mesh_gateways or () if gateway.service] == [
        443
    ]
