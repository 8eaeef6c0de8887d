"""What a sidecar has from its service."""

from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.catalog import ConnectProxyConfig, NodeService
from isthmus.model.sidecar import free_port, sidecar_definition
from isthmus.units import Duration

WEB = ServiceDefinition(
    id="web1",
    name="web",
    port=80,
    address="10.0.0.5",
    tags=("v1",),
    meta={"a": "b"},
    token="t",
)


def test_bare_sidecar_has_everything_from_its_service() -> None:
    made = sidecar_definition(WEB, ServiceDefinition(), port=21000)
    assert made == ServiceDefinition(
        id="web1-sidecar-proxy",
        kind="connect-proxy",
        name="web-sidecar-proxy",
        port=21000,
        address="10.0.0.5",
        tags=("v1",),
        meta={"a": "b"},
        token="t",
        proxy=ConnectProxyConfig(
            destination_service_name="web",
            destination_service_id="web1",
            local_service_address="127.0.0.1",
            local_service_port=80,
        ),
        checks=(
            CheckDefinition(
                name="Connect Sidecar Listening", tcp="127.0.0.1:21000", interval=Duration.of(10)
            ),
            CheckDefinition(name="Connect Sidecar Aliasing web1", alias_service="web1"),
        ),
    )


def test_what_a_sidecar_says_itself_counts() -> None:
    check = CheckDefinition(ttl=Duration.of(9))
    own = ServiceDefinition(
        kind="connect-proxy",
        name="own",
        port=7,
        address="10.0.0.6",
        tags=("v2",),
        meta={"c": "d"},
        token="u",
        check=check,
        proxy=ConnectProxyConfig(
            destination_service_name="other",
            destination_service_id="other1",
            local_service_address="10.0.0.7",
            local_service_port=81,
        ),
    )
    made = sidecar_definition(WEB, own, port=21000)
    assert (made.id, made.name, made.port) == ("web1-sidecar-proxy", "own", 7)
    assert (made.address, made.tags, made.meta, made.token) == (
        "10.0.0.6", ("v2",), {"c": "d"}, "u",
    )  # fmt: skip
    assert (made.proxy, made.check, made.checks) == (own.proxy, None, (check,))


def test_service_on_a_socket_is_reached_there() -> None:
    service = ServiceDefinition(name="web", socket_path="/run/web")
    proxy = sidecar_definition(service, ServiceDefinition(), port=1).proxy
    assert proxy is not None
    assert (proxy.local_service_socket_path, proxy.local_service_port) == ("/run/web", 0)
    own = ServiceDefinition(proxy=ConnectProxyConfig(local_service_socket_path="/mine"))
    proxy = sidecar_definition(WEB, own, port=1).proxy
    assert proxy is not None
    assert (proxy.local_service_socket_path, proxy.local_service_address) == ("/mine", "")


def test_first_free_port_is_taken_and_kept() -> None:
    services = {
        name: NodeService(id=name, service=name, port=port)
        for name, port in (("a", 21000), ("b", 21002), ("c", 80))
    }
    assert free_port(services, "new", first=21000, last=21003) == 21001
    assert free_port(services, "b", first=21000, last=21003) == 21002
    assert free_port(services, "c", first=21000, last=21003) == 21001
    assert free_port(services, "new", first=21000, last=21000) is None
