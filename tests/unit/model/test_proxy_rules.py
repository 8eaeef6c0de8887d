"""Upstreams and exposed paths of proxies that break a rule."""

from typing import Any

import pytest

from isthmus.model.catalog import ConnectProxyConfig, ExposeConfig, ExposePath, Upstream
from isthmus.model.proxy_rules import expose_faults, upstream_faults


def upstream(**fields: Any) -> Upstream:
    return Upstream(
        **{"destination_type": "service", "destination_name": "db", "local_bind_port": 1, **fields}
    )


def faults_of(*upstreams: Upstream) -> list[str]:
    return list(upstream_faults(ConnectProxyConfig(upstreams=upstreams)))


@pytest.mark.parametrize(
    "upstreams",
    [
        (),
        (upstream(),),
        (upstream(destination_type="prepared_query"),),
        (upstream(), upstream(destination_name="api", local_bind_port=2)),
        (upstream(), upstream(datacenter="dc2", local_bind_address="127.0.0.2")),
        (upstream(local_bind_port=0, local_bind_socket_path="/s"),),
        (
            upstream(destination_name="*", local_bind_port=0, centrally_configured=True),
            upstream(destination_name="api", local_bind_port=0, centrally_configured=True),
        ),
    ],
)
def test_good_upstreams_have_no_faults(upstreams: tuple[Upstream, ...]) -> None:
    assert faults_of(*upstreams) == []


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"destination_type": "odd"}, 'unknown upstream destination type: "odd"'),
        ({"destination_name": ""}, "upstream destination name cannot be empty"),
        ({"destination_name": "*"}, "upstream destination name cannot be a wildcard"),
        ({"local_bind_port": 0}, "upstream local bind port or local socket path must be defined"),
        ({"local_bind_socket_path": "/s"}, "only one of upstream local bind port or local socket"),
    ],
)
def test_bad_upstream_has_a_fault(fields: dict[str, Any], fault: str) -> None:
    (found,) = faults_of(upstream(**fields))
    assert found.startswith(fault)


def test_upstreams_must_differ() -> None:
    (same,) = faults_of(upstream(), upstream(local_bind_port=2))
    assert same == (
        'upstreams cannot contain duplicates of [type="service", name="db", namespace="", '
        'datacenter=""]'
    )
    (place,) = faults_of(upstream(), upstream(destination_name="api"))
    assert place.endswith('"127.0.0.1:1" is specified twice')
    socket = {"local_bind_port": 0, "local_bind_socket_path": "/s"}
    (place,) = faults_of(upstream(**socket), upstream(destination_name="api", **socket))
    assert place.endswith('"/s" is specified twice')


@pytest.mark.parametrize(
    ("paths", "faults"),
    [
        ([("/a", 1, ""), ("/b", 2, "HTTP2")], []),
        ([("", 1, "")], ["expose.paths: empty path exposed"]),
        ([("/a", 1, ""), ("/b", 1, "")], ["expose.paths: duplicate listener ports exposed"]),
        ([("/a", 0, "")], ["expose.paths: invalid listener port: 0"]),
        ([("/a", 65536, "")], ["expose.paths: invalid listener port: 65536"]),
        (
            [("/a", 1, "TCP")],
            ["protocol 'tcp' not supported for path: /a, must be in: [http http2]"],
        ),
    ],
)
def test_exposed_paths(paths: list[tuple[str, int, str]], faults: list[str]) -> None:
    exposed = tuple(
        ExposePath(path=path, listener_port=port, protocol=protocol)
        for path, port, protocol in paths
    )
    proxy = ConnectProxyConfig(expose=ExposeConfig(paths=exposed))
    assert list(expose_faults(proxy)) == faults
