import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import ConfigError, MalformedPacket
from isthmus.gateway.registration import (
    GatewayService,
    listen_addresses,
    registered_addresses,
    registration,
)

LAN = ("10.1.0.20", 8443)
WAN = ("198.51.100.1", 443)


def test_federating_gateway_registers_as_consul_writes_it() -> None:
    service = GatewayService(lan=LAN, wan=WAN, exposes_servers=True)
    assert registration(service, wan_is_local=True) == {
        "Kind": "mesh-gateway",
        "ID": "mesh-gateway",
        "Name": "mesh-gateway",
        "Address": "10.1.0.20",
        "Port": 8443,
        "TaggedAddresses": {
            "lan": {"Address": "10.1.0.20", "Port": 8443},
            "wan": {"Address": "198.51.100.1", "Port": 443},
        },
        "Meta": {"consul-wan-federation": "1"},
        "Proxy": {
            "Config": {
                "envoy_gateway_no_default_bind": True,
                "envoy_gateway_bind_tagged_addresses": True,
            }
        },
        "Check": {
            "Name": "mesh-gateway listening",
            "TCP": "10.1.0.20:8443",
            "Interval": "10s",
            "Status": "passing",
            "DeregisterCriticalServiceAfter": "6h",
        },
    }


def test_wan_address_of_somebody_else_is_advertised_but_not_listened_on() -> None:
    service = GatewayService(lan=LAN, wan=WAN)
    assert listen_addresses(service, wan_is_local=False) == [LAN]
    assert listen_addresses(service, wan_is_local=True) == [LAN, WAN]
    body = registration(service, wan_is_local=False)
    assert (body["Meta"], body["Proxy"]) == ({}, {"Config": {}})


def test_bind_addresses_replace_the_others() -> None:
    binds = (("a", ("127.0.0.1", 1)), ("b", ("127.0.0.2", 2)), ("c", ("127.0.0.1", 1)))
    service = GatewayService(lan=LAN, wan=WAN, binds=binds)
    assert listen_addresses(service, wan_is_local=True) == [("127.0.0.1", 1), ("127.0.0.2", 2)]
    assert registration(service, wan_is_local=True)["Proxy"] == {
        "Config": {
            "envoy_gateway_no_default_bind": True,
            "envoy_gateway_bind_addresses": {
                "a": {"Address": "127.0.0.1", "Port": 1},
                "b": {"Address": "127.0.0.2", "Port": 2},
                "c": {"Address": "127.0.0.1", "Port": 1},
            },
        }
    }


def test_gateway_without_an_address_listens_everywhere_and_is_checked_on_loopback() -> None:
    service = GatewayService(lan=("", 8443), wan=WAN)
    assert listen_addresses(service, wan_is_local=True) == [("0.0.0.0", 8443)]
    body = registration(service, wan_is_local=True)
    check = body["Check"]
    assert isinstance(check, dict)
    assert (body["Address"], check["TCP"]) == ("", "127.0.0.1:8443")
    assert body["TaggedAddresses"] == {"wan": {"Address": "198.51.100.1", "Port": 443}}


def test_same_lan_and_wan_address_gives_one_listener() -> None:
    service = GatewayService(lan=LAN, wan=LAN)
    assert listen_addresses(service, wan_is_local=True) == [LAN]


def registered(**changes: object) -> bytes:
    """A gateway as the agent shows it."""
    service = GatewayService(lan=LAN, wan=WAN)
    return msgspec.json.encode(registration(service, wan_is_local=False) | changes)


def config(**keys: object) -> dict[str, object]:
    return {"Config": {f"envoy_gateway_{name}": value for name, value in keys.items()}}


BIND = {"z": {"Address": "127.0.0.9", "Port": 9}, "a": {"Address": "127.0.0.1", "Port": 1}}
BOUND = [("127.0.0.1", 1), ("127.0.0.9", 9)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [LAN]),
        ({"Address": ""}, [("0.0.0.0", 8443)]),
        ({"Proxy": None}, [LAN]),
        ({"Proxy": config(no_default_bind=True, bind_tagged_addresses=True)}, [LAN, WAN]),
        ({"Proxy": config(bind_tagged_addresses=True)}, [LAN, WAN]),
        ({"Proxy": config(no_default_bind=True, bind_addresses=BIND)}, BOUND),
        ({"Proxy": config(bind_addresses=BIND)}, [LAN, *BOUND]),
        (
            {
                "Proxy": {
                    "Config": {
                        "envoy_mesh_gateway_no_default_bind": True,
                        "envoy_mesh_gateway_bind_addresses": BIND,
                    }
                }
            },
            BOUND,
        ),
    ],
)
def test_registration_by_others_says_where_to_listen(
    changes: dict[str, object], expected: list[tuple[str, int]]
) -> None:
    assert registered_addresses(registered(**changes)) == expected


def test_our_own_registration_says_where_we_listen() -> None:
    binds = (("a", ("127.0.0.1", 1)), ("b", ("127.0.0.2", 2)))
    for service in (GatewayService(lan=LAN, wan=WAN), GatewayService(lan=LAN, binds=binds)):
        body = msgspec.json.encode(registration(service, wan_is_local=True))
        assert registered_addresses(body) == listen_addresses(service, wan_is_local=True)


@pytest.mark.parametrize(
    "changes",
    [{"Kind": "connect-proxy"}, {"Port": 0}, {"Proxy": config(no_default_bind=True)}],
)
def test_service_that_cannot_be_listened_for_is_a_mistake(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="the registered service"):
        registered_addresses(registered(**changes))


@given(st.binary(max_size=100))
def test_any_answer_is_a_registration_or_refused(body: bytes) -> None:
    try:
        registered_addresses(body)
    except (MalformedPacket, ConfigError):
        return
