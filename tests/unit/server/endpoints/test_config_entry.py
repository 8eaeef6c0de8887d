"""``ConfigEntry``: what a Consul secondary sent and got, and the rules around it."""

import asyncio
from typing import Any

import msgspec
import pytest

from isthmus.errors import RemoteError, RequestError
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    MESH,
    SERVICE_DEFAULTS,
    SERVICE_INTENTIONS,
    UPSERT,
    UPSERT_CAS,
    ConfigEntry,
    ConfigEntryListAllRequest,
    ConfigEntryQuery,
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
    IngressGatewayConfigEntry,
    MeshConfigEntry,
    ProxyConfigEntry,
    ServiceConfigEntry,
    ServiceIntentionsConfigEntry,
    SourceIntention,
)
from isthmus.model.query import Empty
from isthmus.server.endpoints.config_entry import KINDS_UNASKED
from isthmus.server.server import Server
from isthmus.store.commands import Command
from isthmus.units import SECOND, Duration
from isthmus.wire.blob import decode_blob, encode_blob
from isthmus.wire.msgpack import decode
from support.pair import Pair
from support.rpc_vectors import load

WEB = ServiceConfigEntry(name="web", protocol="http")
GLOBAL = ProxyConfigEntry(name="global", config={"protocol": "http"})
INTENTIONS = ServiceIntentionsConfigEntry(
    name="web", sources=(SourceIntention(name="api", action="allow"),)
)


def write(entry: ConfigEntry | None, op: str = UPSERT) -> ConfigEntryRequest:
    return ConfigEntryRequest(op=op, entry=entry, token="secret")


async def put(server: Server, *entries: ConfigEntry) -> None:
    for entry in entries:
        assert await server.call("ConfigEntry.Apply", write(entry)) is True


async def get(server: Server, kind: str, name: str) -> ConfigEntryResponse:
    reply = await server.call("ConfigEntry.Get", ConfigEntryQuery(kind=kind, name=name))
    assert isinstance(reply, ConfigEntryResponse)
    return reply


def names(entries: tuple[ConfigEntry, ...]) -> list[str]:
    return [f"{entry.kind}/{entry.name}" for entry in entries]


# What Consul sent ---------------------------------------------------------------------------------


async def test_captured_write_is_stored(server: Server) -> None:
    request = decode_blob(ConfigEntryRequest, load("configentry-apply-request").body)
    assert await server.call("ConfigEntry.Apply", request) is True
    reply = await get(server, SERVICE_DEFAULTS, "fromdc2")
    assert request.entry is not None
    index = server.store.index
    assert reply == ConfigEntryResponse(
        entry=msgspec.structs.replace(request.entry, create_index=index, modify_index=index),
        index=index,
        known_leader=True,
    )


async def test_captured_list_of_a_primary_is_answered_byte_for_byte(server: Server) -> None:
    """What Consul's primary lists, written here, is listed the same but for our indexes."""
    body = load("configentry-listall-response").body
    theirs = decode_blob(IndexedGenericConfigEntries, body)
    for entry in theirs.entries:
        await server.apply(ConfigEntryRequest(op=UPSERT, entry=entry))
    request = decode(ConfigEntryListAllRequest, load("configentry-listall-request").body)
    reply = await server.call(
        "ConfigEntry.ListAll",
        msgspec.structs.replace(request, datacenter="", min_query_index=0, token=""),
    )
    same = msgspec.structs.replace(
        reply,
        index=theirs.index,
        entries=tuple(
            msgspec.structs.replace(
                ours, create_index=entry.create_index, modify_index=entry.modify_index
            )
            for ours, entry in zip(reply.entries, theirs.entries, strict=True)
        ),
    )
    assert encode_blob(same) == body


# Writes -------------------------------------------------------------------------------------------


async def test_entry_is_normalised_before_it_is_stored(server: Server) -> None:
    await put(server, ServiceConfigEntry(name="web", protocol="HTTP"), INTENTIONS)
    web = (await get(server, SERVICE_DEFAULTS, "web")).entry
    intentions = (await get(server, SERVICE_INTENTIONS, "web")).entry
    assert isinstance(web, ServiceConfigEntry)
    assert isinstance(intentions, ServiceIntentionsConfigEntry)
    assert web.protocol == "http"
    assert [source.precedence for source in intentions.sources or ()] == [9]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (None, "missing config entry"),
        (ServiceConfigEntry(), "Name is required"),
        (ConfigEntry(kind="bogus", name="web"), "^invalid config entry kind: bogus$"),
    ],
)
async def test_bad_entry_is_refused_as_an_error_of_the_server(
    server: Server, entry: ConfigEntry | None, text: str
) -> None:
    with pytest.raises(RequestError, match=text) as caught:
        await server.call("ConfigEntry.Apply", write(entry))
    assert caught.value.status == 500
    assert len(server.store.config_entries) == 0


async def test_compare_that_is_lost_answers_false(server: Server) -> None:
    await put(server, WEB)
    index = server.store.index
    late = ServiceConfigEntry(name="web", protocol="grpc", modify_index=index - 1)
    assert await server.call("ConfigEntry.Apply", write(late, UPSERT_CAS)) is False
    timely = msgspec.structs.replace(late, modify_index=index)
    assert await server.call("ConfigEntry.Apply", write(timely, UPSERT_CAS)) is True
    assert await server.call("ConfigEntry.Apply", write(timely, UPSERT_CAS)) is False
    found = (await get(server, SERVICE_DEFAULTS, "web")).entry
    assert isinstance(found, ServiceConfigEntry)
    assert found.protocol == "grpc"


async def test_other_operation_is_an_upsert_and_another_than_delete_deletes(
    server: Server,
) -> None:
    assert await server.call("ConfigEntry.Apply", write(WEB, "delete")) is True
    assert (await get(server, SERVICE_DEFAULTS, "web")).entry is not None
    assert await server.call("ConfigEntry.Delete", write(WEB, "upsert")) == Empty()
    assert (await get(server, SERVICE_DEFAULTS, "web")).entry is None


@pytest.mark.parametrize("entry", [WEB, GLOBAL, ProxyConfigEntry(), MeshConfigEntry()])
async def test_delete_needs_no_content_and_no_entry(server: Server, entry: ConfigEntry) -> None:
    await put(server, WEB, GLOBAL, MeshConfigEntry())
    bare = CONFIG_ENTRY_TYPES[entry.kind](name=entry.name)
    for _ in range(2):
        assert await server.call("ConfigEntry.Delete", write(bare, "")) == Empty()
    left = {WEB.kind, GLOBAL.kind, MESH} - {entry.kind}
    assert {one.kind for one in server.store.config_entries.list().value} == left


@pytest.mark.parametrize("entry", [None, ServiceConfigEntry()])
async def test_delete_of_nothing_is_refused(server: Server, entry: ConfigEntry | None) -> None:
    with pytest.raises(RequestError, match="missing config entry"):
        await server.call("ConfigEntry.Delete", write(entry, ""))


# Reads --------------------------------------------------------------------------------------------


async def test_missing_entry_is_none_without_an_error(server: Server) -> None:
    await put(server, WEB)
    reply = await get(server, SERVICE_DEFAULTS, "db")
    assert (reply.entry, reply.index) == (None, server.store.index)


@pytest.mark.parametrize("method", ["ConfigEntry.Get", "ConfigEntry.List"])
async def test_unknown_kind_is_refused(server: Server, method: str) -> None:
    with pytest.raises(RequestError, match=r"^invalid config entry kind: foo$") as caught:
        await server.call(method, ConfigEntryQuery(kind="foo", name="x"))
    assert caught.value.status == 500


async def test_lists_hold_one_kind_or_all(server: Server) -> None:
    await put(server, WEB, GLOBAL, ServiceConfigEntry(name="api"))
    reply = await server.call("ConfigEntry.List", ConfigEntryQuery(kind=SERVICE_DEFAULTS))
    assert isinstance(reply, IndexedConfigEntries)
    assert (reply.kind, names(reply.entries)) == (
        SERVICE_DEFAULTS,
        ["service-defaults/api", "service-defaults/web"],
    )
    reply = await server.call("ConfigEntry.List", ConfigEntryQuery())
    assert len(reply.entries) == 3


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        (None, KINDS_UNASKED),
        ((), KINDS_UNASKED),
        ((MESH, "of a later release"), (MESH,)),
        (tuple(CONFIG_ENTRY_TYPES), tuple(CONFIG_ENTRY_TYPES)),
    ],
)
async def test_list_of_all_holds_the_kinds_its_caller_knows(
    server: Server, kinds: tuple[str, ...] | None, wanted: tuple[str, ...]
) -> None:
    """Without kinds those of Consul 1.8: no service-intentions, no mesh."""
    assert len(KINDS_UNASKED) == 7
    for entry_type in CONFIG_ENTRY_TYPES.values():
        await server.apply(ConfigEntryRequest(op=UPSERT, entry=entry_type(name="web")))
    reply = await server.call("ConfigEntry.ListAll", ConfigEntryListAllRequest(kinds=kinds))
    assert {entry.kind for entry in reply.entries} == set(wanted)


async def changed_by(server: Server, method: str, request: Any, command: Command) -> Any:
    """What a read answers that waits while something is written."""
    reading = asyncio.ensure_future(server.call(method, request))
    await asyncio.sleep(0)
    assert not reading.done()
    await server.apply(command)
    async with asyncio.timeout(10):
        return await reading


async def test_reads_wait_for_a_write(server: Server) -> None:
    await put(server, WEB)
    late = Duration(600 * SECOND)
    for method, request in (
        ("ConfigEntry.Get", ConfigEntryQuery(kind=WEB.kind, name="db", max_query_time=late)),
        ("ConfigEntry.List", ConfigEntryQuery(kind=WEB.kind, max_query_time=late)),
        ("ConfigEntry.ListAll", ConfigEntryListAllRequest(max_query_time=late)),
    ):
        index = server.store.index
        asked = msgspec.structs.replace(request, min_query_index=index)
        new = ServiceConfigEntry(name="db", protocol=method)
        reply = await changed_by(server, method, asked, ConfigEntryRequest(op=UPSERT, entry=new))
        assert reply.index == server.store.index > index


# Datacenters --------------------------------------------------------------------------------------


def test_writes_go_to_the_primary_whichever_server_takes_them() -> None:
    with Pair() as pair:
        first, second = pair.servers["dc1"], pair.servers["dc2"]
        for dc in ("", "dc2", "dc1"):
            entry = ServiceConfigEntry(name=f"web{dc}")
            request = ConfigEntryRequest(op=UPSERT, datacenter=dc, entry=entry)
            assert pair.run(second.call("ConfigEntry.Apply", request)) is True
            assert pair.run(first.call("ConfigEntry.Apply", request)) is True
        assert len(first.store.config_entries) == 3
        request = ConfigEntryRequest(datacenter="dc2", entry=ServiceConfigEntry(name="web"))
        assert pair.run(second.call("ConfigEntry.Delete", request)) == Empty()
        found = names(first.store.config_entries.list().value)
        assert found == ["service-defaults/webdc1", "service-defaults/webdc2"]
        assert len(second.store.config_entries) == 0
        late = ConfigEntryRequest(op=UPSERT_CAS, entry=ServiceConfigEntry(name="webdc1"))
        assert pair.run(second.call("ConfigEntry.Apply", late)) is False
        with pytest.raises(RemoteError, match="Name is required"):
            pair.run(second.call("ConfigEntry.Apply", write(ServiceConfigEntry())))


def test_reads_of_another_datacenter_are_forwarded_to_it() -> None:
    ingress = IngressGatewayConfigEntry(name="in")
    with Pair() as pair:
        first, second = pair.servers["dc1"], pair.servers["dc2"]
        for entry in (WEB, GLOBAL, MeshConfigEntry(), ingress):
            pair.run(first.apply(ConfigEntryRequest(op=UPSERT, entry=entry)))
        for method, request in (
            ("Get", ConfigEntryQuery(kind="proxy-defaults", name="global", datacenter="dc1")),
            ("Get", ConfigEntryQuery(kind="proxy-defaults", name="none", datacenter="dc1")),
            ("List", ConfigEntryQuery(kind="mesh", datacenter="dc1")),
            ("List", ConfigEntryQuery(datacenter="dc1")),
            ("ListAll", ConfigEntryListAllRequest(datacenter="dc1", kinds=("mesh", WEB.kind))),
        ):
            there = pair.run(first.call(f"ConfigEntry.{method}", request))
            assert pair.run(second.call(f"ConfigEntry.{method}", request)) == there
