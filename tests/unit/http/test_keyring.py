"""``/v1/operator/keyring``: what clients of Consul read, and what stays visible on failure."""

import pytest

from isthmus.errors import RequestError
from isthmus.model.keyring import KeyringRequest, KeyringResponse, KeyringResponses
from support.http import FakeRpc, as_json, make_client

PATH = "/v1/operator/keyring"
KEYS = {"a2V5": 2}
WAN = KeyringResponse(wan=True, datacenter="dc1", keys=KEYS, primary_keys=KEYS, num_nodes=2)
LAN = KeyringResponse(datacenter="dc1", keys=KEYS, primary_keys=KEYS, num_nodes=2)
SILENT = KeyringResponse(
    datacenter="dc2", messages={"dc2": "No path to datacenter"}, keys={}, error="silent"
)


def rpc(*responses: KeyringResponse) -> FakeRpc:
    return FakeRpc(Internal_KeyringOperation=KeyringResponses(responses=responses))


async def test_list_asks_every_pool() -> None:
    asked = rpc(WAN, LAN)
    answer = await make_client(asked).get(f"{PATH}?relay-factor=2&token=t")
    assert [(one["WAN"], one["Keys"], one["NumNodes"]) for one in as_json(answer)] == [
        (True, KEYS, 2),
        (False, KEYS, 2),
    ]
    assert asked.last == KeyringRequest(
        datacenter="dc1", operation="list", token="t", relay_factor=2, allow_stale=True
    )


async def test_list_of_our_pool_alone() -> None:
    asked = rpc(LAN)
    await make_client(asked).get(f"{PATH}?local-only=true")
    assert asked.last.local_only
    await make_client(asked).get(f"{PATH}?local-only=0")
    assert not asked.last.local_only


async def test_list_shows_the_datacenter_that_did_not_answer_beside_the_others() -> None:
    answer = await make_client(rpc(WAN, LAN, SILENT)).get(PATH)
    assert answer.status == 200
    shown = as_json(answer)
    assert [one["Datacenter"] for one in shown] == ["dc1", "dc1", "dc2"]
    assert shown[2] == {
        "WAN": False,
        "Datacenter": "dc2",
        "Segment": "",
        "Messages": {"dc2": "No path to datacenter"},
        "Keys": {},
        "PrimaryKeys": None,
        "NumNodes": 0,
        "Error": "silent",
    }


async def test_pools_that_are_not_encrypted_fail_as_in_consul() -> None:
    text = "Keyring is empty (encryption not enabled)"
    responses = [
        KeyringResponse(
            wan=wan,
            datacenter="dc1",
            messages={name: text},
            num_nodes=1,
            error="1/1 nodes reported failure",
        )
        for wan, name in ((True, "a.dc1"), (False, "a"))
    ]
    answer = await make_client(rpc(*responses)).get(PATH)
    assert (answer.status, answer.body.decode()) == (
        500,
        "4 errors occurred:\n\t* WAN error: 1/1 nodes reported failure\n"
        f"\t* a.dc1: {text}\n\t* dc1 (LAN) error: 1/1 nodes reported failure\n"
        f"\t* a: {text}\n\n",
    )


@pytest.mark.parametrize(
    ("method", "operation"), [("POST", "install"), ("PUT", "use"), ("DELETE", "remove")]
)
async def test_change_of_keys(method: str, operation: str) -> None:
    asked = rpc(WAN, LAN)
    answer = await make_client(asked).request(method, PATH, {"Key": "a2V5"})
    assert (answer.status, answer.body) == (200, b"")
    assert (asked.last.operation, asked.last.key) == (operation, "a2V5")


async def test_change_that_failed_somewhere_says_where_it_was_made() -> None:
    answer = await make_client(rpc(WAN, LAN, SILENT)).request("POST", PATH, {"Key": "a2V5"})
    assert (answer.status, answer.body.decode()) == (
        500,
        "2 errors occurred:\n\t* dc2 (LAN) error: silent\n\t* dc2: No path to datacenter\n\n"
        "done in: WAN (2 members), dc1 (LAN) (2 members)",
    )


@pytest.mark.parametrize(
    ("method", "query", "text"),
    [
        (
            "GET",
            "relay-factor=x",
            'Error parsing relay factor: strconv.Atoi: parsing "x": invalid syntax',
        ),
        (
            "GET",
            "relay-factor=6",
            "Invalid relay-factor: Relay factor must be in range: [0, 5]",
        ),
        (
            "GET",
            "relay-factor=-1",
            "Invalid relay-factor: Relay factor must be in range: [0, 5]",
        ),
        (
            "GET",
            "local-only=yes",
            'Error parsing local-only: strconv.ParseBool: parsing "yes": invalid syntax',
        ),
        (
            "PUT",
            "local-only=true",
            "Invalid use of local-only: local-only can only be set for list requests",
        ),
    ],
)
async def test_bad_parameters(method: str, query: str, text: str) -> None:
    asked = rpc(LAN)
    answer = await make_client(asked).request(method, f"{PATH}?{query}", {"Key": "a2V5"})
    assert (answer.status, answer.body.decode()) == (400, f"Bad request: {text}")
    assert asked.calls == []


async def test_body_that_is_no_json() -> None:
    answer = await make_client(rpc(LAN)).request("POST", PATH, b"a2V5")
    assert (answer.status, answer.body[:23]) == (400, b"Request decode failed: ")


async def test_key_that_is_none_is_said_by_the_server() -> None:
    asked = FakeRpc(Internal_KeyringOperation=RequestError("invalid gossip key: …"))
    answer = await make_client(asked).request("POST", PATH, {"Key": "?"})
    assert (answer.status, answer.body.decode()) == (500, "invalid gossip key: …")
