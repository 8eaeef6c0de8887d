"""``/v1/txn``: operations as callers write them become those of servers. Shapes: Consul 1.10.11."""

import base64
from typing import Any

import pytest

from isthmus.model.catalog import HealthCheck, Node, NodeService, ServiceAddress, Weights
from isthmus.model.kv import DirEntry
from isthmus.model.session import Session
from isthmus.model.txn import (
    OPERATION_COUNT_MAX,
    TxnCheckOp,
    TxnError,
    TxnKVOp,
    TxnNodeOp,
    TxnOp,
    TxnReadResponse,
    TxnResponse,
    TxnResult,
    TxnServiceOp,
    TxnSessionOp,
)
from isthmus.units import SECOND, Duration
from support.http import FakeRpc, as_dict, as_json, make_client

DONE = TxnResponse(results=())
READ = TxnReadResponse(results=(), index=1, known_leader=True)


async def sent(*ops: Any, query: str = "") -> tuple[str, Any]:
    """Method and argument of the call that operations become."""
    client = make_client(FakeRpc(Txn_Apply=DONE, Txn_Read=READ))
    response = await client.put(f"/v1/txn{query}", list(ops))
    assert response.status == 200, response.body
    ((method, request),) = client.rpc.calls
    return method, request


async def test_operations_on_keys() -> None:
    method, request = await sent(
        {"KV": {"Verb": "cas", "Key": "a", "Value": "eA==", "Flags": 3, "Index": 9}},
        {"kv": {"verb": "lock", "key": "b", "session": "s", "value": None}},
    )
    assert method == "Txn.Apply"
    assert request.ops == (
        TxnOp(
            kv=TxnKVOp(verb="cas", dir_ent=DirEntry(key="a", value=b"x", flags=3, modify_index=9))
        ),
        TxnOp(kv=TxnKVOp(verb="lock", dir_ent=DirEntry(key="b", session="s"))),
    )


async def test_operations_on_nodes_services_checks_and_sessions() -> None:
    node = {"Node": "n", "Address": "10.0.0.1", "Meta": {"a": "b"}, "ModifyIndex": 4}
    service = {
        "ID": "w",
        "Service": "web",
        "Tags": ["t"],
        "Port": 80,
        "Weights": {"Passing": 3, "Warning": 1},
        "TaggedAddresses": {"wan": {"Address": "1.2.3.4", "Port": 5}},
        "ModifyIndex": 5,
        "ContentHash": "ignored",
        "Datacenter": "ignored",
    }
    check = {"Node": "n", "Name": "c", "Status": "passing", "Definition": {"Interval": "5s"}}
    method, request = await sent(
        {"Node": {"Verb": "cas", "Node": node}},
        {"Service": {"Verb": "set", "Node": "n", "Service": service}},
        {"Check": {"Verb": "set", "Check": check}},
        {"Session": {"Verb": "delete", "Session": {"ID": "s"}}},
        query="?dc=dc2&token=t",
    )
    assert (method, request.datacenter, request.token) == ("Txn.Apply", "dc2", "t")
    assert request.ops[0] == TxnOp(
        node=TxnNodeOp(
            verb="cas", node=Node(node="n", address="10.0.0.1", meta={"a": "b"}, modify_index=4)
        )
    )
    assert request.ops[1] == TxnOp(
        service=TxnServiceOp(
            verb="set",
            node="n",
            service=NodeService(
                id="w",
                service="web",
                tags=("t",),
                port=80,
                weights=Weights(passing=3, warning=1),
                tagged_addresses={"wan": ServiceAddress(address="1.2.3.4", port=5)},
                modify_index=5,
            ),
        )
    )
    assert isinstance(request.ops[2].check, TxnCheckOp)
    assert request.ops[2].check.check.definition.interval == Duration(5 * SECOND)
    assert request.ops[3] == TxnOp(session=TxnSessionOp(verb="delete", session=Session(id="s")))


@pytest.mark.parametrize(
    ("op", "method"),
    [
        ({"KV": {"Verb": "get", "Key": "a"}}, "Txn.Read"),
        ({"KV": {"Verb": "check-index", "Key": "a"}}, "Txn.Read"),
        ({"KV": {"Verb": "bogus", "Key": "a"}}, "Txn.Read"),
        ({"KV": {"Verb": "delete-tree", "Key": "a"}}, "Txn.Apply"),
        ({"KV": {"Verb": "unlock", "Key": "a"}}, "Txn.Apply"),
        ({"Node": {"Verb": "get", "Node": {"Node": "n"}}}, "Txn.Read"),
        ({"Node": {"Verb": "bogus", "Node": {"Node": "n"}}}, "Txn.Apply"),
        ({"Service": {"Verb": "get", "Node": "n", "Service": {"ID": "w"}}}, "Txn.Read"),
        ({"Service": {"Verb": "delete", "Node": "n", "Service": {"ID": "w"}}}, "Txn.Apply"),
        ({"Check": {"Verb": "get", "Check": {"Node": "n", "CheckID": "c"}}}, "Txn.Read"),
        ({"Check": {"Verb": "set", "Check": {"Node": "n", "CheckID": "c"}}}, "Txn.Apply"),
        ({"Session": {"Verb": "delete", "Session": {"ID": "s"}}}, "Txn.Apply"),
        ({}, "Txn.Read"),
        ({"KV": None}, "Txn.Read"),
    ],
)
async def test_transaction_that_only_reads_is_a_read(op: object, method: str) -> None:
    assert (await sent(op))[0] == method


async def test_operation_that_says_nothing_is_left_out() -> None:
    _, request = await sent({}, {"KV": {"Verb": "get", "Key": "a"}})
    assert [op.kv.verb for op in request.ops] == ["get"]


async def test_read_takes_the_options_of_reads_and_tells_little() -> None:
    client = make_client(FakeRpc(Txn_Read=READ))
    response = await client.put("/v1/txn?stale&dc=dc2", b"[]")
    assert response.body == (
        b'{"Results":[],"Errors":null,"Index":1,"LastContact":0,"KnownLeader":true,'
        b'"ConsistencyLevel":"","NotModified":false,"Backend":0}'
    )
    headers = as_dict(response)
    assert (headers["X-Consul-Knownleader"], headers["X-Consul-Lastcontact"]) == ("true", "0")
    assert "X-Consul-Index" not in headers
    assert (client.rpc.last.allow_stale, client.rpc.last.datacenter) == (True, "dc2")


async def test_results_are_shown_by_their_kind() -> None:
    results = (
        TxnResult(kv=DirEntry(key="a", create_index=2, modify_index=3)),
        TxnResult(node=Node(node="n")),
        TxnResult(service=NodeService(id="w")),
        TxnResult(check=HealthCheck(node="n", check_id="c")),
    )
    client = make_client(FakeRpc(Txn_Apply=TxnResponse(results=results)))
    response = await client.put("/v1/txn", [{"KV": {"Verb": "set", "Key": "a"}}])
    shown = as_json(response)
    assert [list(result) for result in shown["Results"]] == [
        ["KV"],
        ["Node"],
        ["Service"],
        ["Check"],
    ]
    assert shown["Results"][0]["KV"] == {
        "LockIndex": 0,
        "Key": "a",
        "Flags": 0,
        "Value": None,
        "CreateIndex": 2,
        "ModifyIndex": 3,
    }
    assert shown["Errors"] is None


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        ("set", {"Txn_Apply": TxnResponse(errors=(TxnError(op_index=1, what="no"),))}),
        ("get", {"Txn_Read": TxnReadResponse(errors=(TxnError(op_index=1, what="no"),))}),
    ],
)
async def test_rolled_back_transaction_is_a_conflict(op: str, answer: dict[str, Any]) -> None:
    client = make_client(FakeRpc(**answer))
    response = await client.put("/v1/txn", [{"KV": {"Verb": op, "Key": "a"}}])
    assert response.status == 409
    assert as_dict(response)["Content-Type"] == "application/json"
    shown = as_json(response)
    assert (shown["Results"], shown["Errors"]) == (None, [{"OpIndex": 1, "What": "no"}])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "EOF"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b"{}", "json: cannot unmarshal object into Go value of type api.TxnOps"),
        (b'"s"', "json: cannot unmarshal string into Go value of type api.TxnOps"),
        (b"1", "json: cannot unmarshal number into Go value of type api.TxnOps"),
        (b"true", "json: cannot unmarshal bool into Go value of type api.TxnOps"),
        (b'[{"Bogus":1}]', 'json: unknown field "Bogus"'),
        (b'[{"KV":{"Valu":1}}]', 'json: unknown field "Valu"'),
        (b'[{"KV":{"Value":"%%"}}]', "illegal base64 data at input byte 0"),
        (b'[{"KV":{"Value":"eA="}}]', "illegal base64 data at input byte 3"),
    ],
)
async def test_body_that_cannot_be_read_is_refused(body: bytes, text: str) -> None:
    response = await make_client().put("/v1/txn", body)
    assert (response.status, response.body.decode()) == (400, f"Failed to parse body: {text}")


async def test_null_is_an_empty_transaction() -> None:
    response = await make_client(FakeRpc(Txn_Read=READ)).put("/v1/txn", b"null")
    assert response.status == 200


async def test_too_many_operations_and_too_large_values_are_refused() -> None:
    op = {"KV": {"Verb": "set", "Key": "a"}}
    assert (await sent(*[op] * OPERATION_COUNT_MAX))[0] == "Txn.Apply"
    response = await make_client().put("/v1/txn", [op] * (OPERATION_COUNT_MAX + 1))
    assert (response.status, response.body) == (
        413,
        b"Transaction contains too many operations (65 > 64)",
    )
    value = base64.b64encode(bytes(512 * 1024 + 1)).decode()
    response = await make_client().put("/v1/txn", [{"KV": {"Key": "a", "Value": value}}])
    assert (response.status, response.body) == (
        413,
        b'Value for key "a" is too large (524289 > 524288 bytes)',
    )


async def test_only_put_is_taken() -> None:
    response = await make_client().get("/v1/txn")
    assert (response.status, as_dict(response)["Allow"]) == (405, "OPTIONS,PUT")


async def test_field_of_the_wrong_kind_is_named_without_our_privacy() -> None:
    response = await make_client().put("/v1/txn", b'[{"KV":{"Flags":"x"}}]')
    assert response.body == (
        b"Failed to parse body: json: cannot unmarshal string into Go struct field "
        b"KVTxnOp.Flags of type uint64"
    )
