"""What the definition of a sidecar proxy must keep to, in Consul's words.

Source: Consul 1.10, agent/structs, validation of connect proxies.
"""

from collections.abc import Iterator
from typing import Final

from isthmus.model.catalog import ConnectProxyConfig, Upstream
from isthmus.names import host_port

SERVICE_UPSTREAM: Final = "service"
QUERY_UPSTREAM: Final = "prepared_query"
_LOCAL_ADDRESS: Final = "127.0.0.1"
_EXPOSE_PROTOCOLS: Final = ("", "http", "http2")
_PORT_MAX: Final = 65535


def upstream_faults(proxy: ConnectProxyConfig) -> Iterator[str]:
    """What is wrong with the upstreams of a proxy."""
    keys: set[str] = set()
    places: set[str] = set()
    for upstream in proxy.upstreams or ():
        if fault := _upstream_fault(upstream):
            yield fault
            continue
        key = (
            f'[type="{upstream.destination_type}", name="{upstream.destination_name}", '
            f'namespace="{upstream.destination_namespace}", datacenter="{upstream.datacenter}"]'
        )
        if key in keys:
            yield f"upstreams cannot contain duplicates of {key}"
            continue
        keys.add(key)
        place = _place(upstream)
        if place in places and not upstream.centrally_configured:
            yield (
                "upstreams cannot contain duplicates by local bind address and port or unix path; "
                f'"{place}" is specified twice'
            )
            continue
        places.add(place)


def _upstream_fault(upstream: Upstream) -> str:
    kind = upstream.destination_type
    if kind not in ("", SERVICE_UPSTREAM, QUERY_UPSTREAM):
        return f'unknown upstream destination type: "{kind}"'
    if not upstream.destination_name:
        return "upstream destination name cannot be empty"
    if upstream.centrally_configured:
        return ""
    if upstream.destination_name == "*":
        return "upstream destination name cannot be a wildcard"
    if not upstream.local_bind_port and not upstream.local_bind_socket_path:
        return "upstream local bind port or local socket path must be defined and nonzero"
    if upstream.local_bind_port and upstream.local_bind_socket_path:
        return (
            "only one of upstream local bind port or local socket path can be defined and nonzero"
        )
    return ""


def _place(upstream: Upstream) -> str:
    """Where a proxy listens for an upstream."""
    if not upstream.local_bind_port and not upstream.local_bind_address:
        return upstream.local_bind_socket_path
    return host_port(upstream.local_bind_address or _LOCAL_ADDRESS, upstream.local_bind_port)


def expose_faults(proxy: ConnectProxyConfig) -> Iterator[str]:
    """What is wrong with the paths that a proxy exposes."""
    ports: set[int] = set()
    for path in proxy.expose.paths or ():
        if not path.path:
            yield "expose.paths: empty path exposed"
        if path.listener_port in ports:
            yield "expose.paths: duplicate listener ports exposed"
        ports.add(path.listener_port)
        if not 0 < path.listener_port <= _PORT_MAX:
            yield f"expose.paths: invalid listener port: {path.listener_port}"
        if path.protocol.lower() not in _EXPOSE_PROTOCOLS:
            yield (
                f"protocol '{path.protocol.lower()}' not supported for path: {path.path}, "
                f"must be in: [{' '.join(filter(None, _EXPOSE_PROTOCOLS))}]"
            )
