"""``/v1/config``: what is asked of whom, and what the answer says; as Consul 1.10.11 answers."""

from typing import Any

import pytest

from isthmus.errors import RemoteError
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    ConfigEntryListAllRequest,
    ConfigEntryQuery,
    ConfigEntryRequest,
    ConfigEntryResponse,
    IndexedConfigEntries,
    IndexedGenericConfigEntries,
    MeshConfigEntry,
    ServiceConfigEntry,
    ServiceResolverConfigEntry,
    ServiceResolverSubset,
)
from isthmus.model.query import Empty
from isthmus.units import Duration
from support.http import Client, FakeRpc, as_dict, as_json, make_client

WEB = ServiceConfigEntry(name="web", protocol="http", create_index=3, modify_index=4)
SHOWN = {
    "Kind": "service-defaults",
    "Name": "web",
    "Protocol": "http",
    "TransparentProxy": {},
    "MeshGateway": {},
    "Expose": {},
    "CreateIndex": 3,
    "ModifyIndex": 4,
}
PREFIX = "Bad request: Request decoding failed: "


@pytest.fixture
def client() -> Client:
    return make_client(
        FakeRpc(
            ConfigEntry_Apply=True,
            ConfigEntry_Delete=Empty(),
            ConfigEntry_Get=ConfigEntryResponse(entry=WEB, index=9, known_leader=True),
            ConfigEntry_List=IndexedConfigEntries(
                kind="service-defaults", entries=(WEB,), index=9, known_leader=True
            ),
            ConfigEntry_ListAll=IndexedGenericConfigEntries(
                entries=(WEB,), index=9, known_leader=True
            ),
        )
    )


@pytest.mark.parametrize(
    "body",
    [
        {"Kind": "service-resolver", "Name": "web", "ConnectTimeout": "5s", "Subsets": {"a": {}}},
        {"kind": "service-resolver", "name": "web", "connect_timeout": "5s", "subsets": {"a": {}}},
    ],
)
async def test_entry_is_written(client: Client, body: dict[str, Any]) -> None:
    response = await client.request("PUT", "/v1/config?dc=dc2&token=t", body)
    assert (response.status, response.body) == (200, b"true")
    assert client.rpc.last == ConfigEntryRequest(
        op="upsert",
        datacenter="dc2",
        token="t",
        entry=ServiceResolverConfigEntry(
            name="web", connect_timeout=Duration.of(5), subsets={"a": ServiceResolverSubset()}
        ),
    )


@pytest.mark.parametrize("index", [0, 7, 2**64 - 1])
async def test_entry_is_written_if_it_has_not_changed(client: Client, index: int) -> None:
    client.rpc.answers["ConfigEntry.Apply"] = False
    body = {"Kind": "service-defaults", "Name": "web", "ModifyIndex": 99}
    response = await client.request("PUT", f"/v1/config?cas={index}", body)
    assert response.body == b"false"
    assert client.rpc.last == ConfigEntryRequest(
        op="upsert-cas",
        datacenter="dc1",
        entry=ServiceConfigEntry(name="web", modify_index=index),
    )


async def test_empty_cas_is_none(client: Client) -> None:
    await client.request("PUT", "/v1/config?cas=", {"Kind": "mesh"})
    assert client.rpc.last.op == "upsert"


@pytest.mark.parametrize(
    ("index", "fault"),
    [("abc", "invalid syntax"), ("-1", "invalid syntax"), (str(2**64), "value out of range")],
)
async def test_cas_must_be_a_number(client: Client, index: str, fault: str) -> None:
    response = await client.request("PUT", f"/v1/config?cas={index}", {"Kind": "mesh"})
    text = f'strconv.ParseUint: parsing "{index}": {fault}'
    assert (response.status, response.body.decode()) == (500, text)
    assert client.rpc.calls == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "EOF"),
        (b"{", "unexpected EOF"),
        (b"null", "Payload does not contain a kind/Kind key at the top level"),
        (b"[]", "'' expected a map, got 'slice'"),
        (b'"x"', "'' expected a map, got 'string'"),
        (b"5", "'' expected a map, got 'float64'"),
        (b'{"Kind":"bogus"}', "invalid config entry kind: bogus"),
        (
            b'{"Kind":"service-defaults","Foo":1}',
            '1 error occurred:\n\t* invalid config key "Foo"\n\n',
        ),
        (
            b'{"Kind":"service-resolver","ConnectTimeout":"x"}',
            "1 error(s) decoding:\n\n* error decoding 'ConnectTimeout': time: invalid duration "
            '"x"',
        ),
    ],
)
async def test_body_that_is_no_entry_is_refused(client: Client, body: bytes, text: str) -> None:
    response = await client.request("PUT", "/v1/config", body)
    assert (response.status, response.body.decode()) == (400, PREFIX + text)
    assert client.rpc.calls == []


async def test_refusal_by_the_server_is_an_error(client: Client) -> None:
    client.rpc.answers["ConfigEntry.Apply"] = RemoteError("Name is required")
    response = await client.request("PUT", "/v1/config", {"Kind": "service-defaults"})
    assert (response.status, response.body) == (500, b"Name is required")


async def test_entry_is_read(client: Client) -> None:
    response = await client.get("/v1/config/service-defaults/web?index=3&wait=2s&dc=dc2&stale")
    assert as_json(response) == SHOWN
    assert client.rpc.calls == [
        (
            "ConfigEntry.Get",
            ConfigEntryQuery(
                kind="service-defaults",
                name="web",
                datacenter="dc2",
                min_query_index=3,
                max_query_time=Duration.of(2),
                allow_stale=True,
            ),
        )
    ]
    headers = as_dict(response)
    assert (headers["X-Consul-Index"], headers["X-Consul-Knownleader"]) == ("9", "true")


async def test_name_may_hold_slashes_or_be_empty(client: Client) -> None:
    for name in ("a/b", ""):
        await client.get(f"/v1/config/service-defaults/{name}")
        assert (client.rpc.last.kind, client.rpc.last.name) == ("service-defaults", name)


async def test_missing_entry_is_not_found(client: Client) -> None:
    client.rpc.answers["ConfigEntry.Get"] = ConfigEntryResponse(index=9, known_leader=True)
    response = await client.get("/v1/config/service-defaults/nope")
    text = 'Config entry not found for "service-defaults" / "nope"'
    assert (response.status, response.body.decode()) == (404, text)
    assert as_dict(response)["X-Consul-Index"] == "9"


async def test_entries_of_a_kind_are_listed(client: Client) -> None:
    response = await client.get("/v1/config/service-defaults?consistent&token=t&filter=Name==x")
    assert as_json(response) == [SHOWN]
    assert client.rpc.calls == [
        (
            "ConfigEntry.List",
            ConfigEntryQuery(
                kind="service-defaults", datacenter="dc1", token="t", require_consistent=True
            ),
        )
    ]
    assert as_dict(response)["X-Consul-Index"] == "9"


async def test_entries_of_all_kinds_are_listed(client: Client) -> None:
    response = await client.get("/v1/config/?index=3&wait=1s&dc=dc2&token=t")
    assert as_json(response) == [SHOWN]
    assert client.rpc.calls == [
        (
            "ConfigEntry.ListAll",
            ConfigEntryListAllRequest(
                kinds=tuple(CONFIG_ENTRY_TYPES),
                datacenter="dc2",
                token="t",
                min_query_index=3,
                max_query_time=Duration.of(1),
            ),
        )
    ]
    assert as_dict(response)["X-Consul-Index"] == "9"


async def test_no_entries_are_an_empty_list(client: Client) -> None:
    client.rpc.answers["ConfigEntry.List"] = IndexedConfigEntries(index=1)
    assert (await client.get("/v1/config/mesh")).body == b"[]"


async def test_shape_is_consuls(client: Client) -> None:
    """A resolver begins with its timeout; a service always shows its protocol."""
    client.rpc.answers["ConfigEntry.ListAll"] = IndexedGenericConfigEntries(
        entries=(
            ServiceResolverConfigEntry(name="web", connect_timeout=Duration.of(5)),
            ServiceConfigEntry(name="web"),
            MeshConfigEntry(),
        )
    )
    assert (await client.get("/v1/config/")).body == (
        b'[{"ConnectTimeout":"5s","Kind":"service-resolver","Name":"web","CreateIndex":0,'
        b'"ModifyIndex":0},{"Kind":"service-defaults","Name":"web","Protocol":"",'
        b'"TransparentProxy":{},"MeshGateway":{},"Expose":{},"CreateIndex":0,"ModifyIndex":0},'
        b'{"Kind":"mesh","TransparentProxy":{"MeshDestinationsOnly":false},'
        b'"CreateIndex":0,"ModifyIndex":0}]'
    )


async def test_unknown_kind_is_the_servers_to_refuse(client: Client) -> None:
    fault = RemoteError("invalid config entry kind: foo")
    client.rpc.answers |= {"ConfigEntry.Get": fault, "ConfigEntry.List": fault}
    for path in ("/v1/config/foo", "/v1/config/foo/bar"):
        response = await client.get(path)
        assert (response.status, response.body) == (500, b"invalid config entry kind: foo")


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("service-defaults/a/b", ServiceConfigEntry(name="a/b")),
        ("mesh/xx", MeshConfigEntry(name="mesh")),
    ],
)
async def test_entry_is_deleted(client: Client, path: str, entry: object) -> None:
    response = await client.request("DELETE", f"/v1/config/{path}?dc=dc2&token=t")
    assert (response.status, response.body) == (200, b"{}")
    assert client.rpc.calls == [
        ("ConfigEntry.Delete", ConfigEntryRequest(datacenter="dc2", token="t", entry=entry))  # type: ignore[arg-type]
    ]


async def test_entry_without_a_name_is_not_there_to_be_deleted(client: Client) -> None:
    response = await client.request("DELETE", "/v1/config/service-defaults/")
    assert (response.status, response.body, client.rpc.calls) == (200, b"{}", [])


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("", 404, "Must provide both a kind and name to delete"),
        ("service-defaults", 404, "Must provide both a kind and name to delete"),
        ("foo/bar", 400, "invalid config entry kind: foo"),
    ],
)
async def test_deletion_names_kind_and_name(
    client: Client, path: str, status: int, text: str
) -> None:
    response = await client.request("DELETE", f"/v1/config/{path}")
    assert (response.status, response.body.decode()) == (status, text)
    assert client.rpc.calls == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/v1/config"), ("GET", "/v1/config/mesh/mesh"), ("DELETE", "/v1/config/mesh/mesh")],
)
async def test_namespaces_are_refused(client: Client, method: str, path: str) -> None:
    response = await client.request(method, f"{path}?ns=x", {"Kind": "mesh"})
    assert response.status == 400
    assert response.body.endswith(b'"ns" - Namespaces are a Consul Enterprise feature')


@pytest.mark.parametrize(
    ("path", "methods", "allowed"),
    [
        ("/v1/config", ["GET", "POST", "DELETE"], "OPTIONS,PUT"),
        ("/v1/config/mesh/mesh", ["PUT", "POST"], "OPTIONS,GET,DELETE"),
    ],
)
async def test_other_methods_are_refused(
    client: Client, path: str, methods: list[str], allowed: str
) -> None:
    for method in methods:
        response = await client.request(method, path)
        assert (response.status, response.header("Allow")) == (405, allowed)
