from isthmus.gateway.registration import GatewayService, listen_addresses, registration

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
