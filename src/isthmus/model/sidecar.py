"""A sidecar proxy that is registered along with its service, and its defaults.

Source: protocol/http-api.md §6.3, "Defaults applied on registration".
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from isthmus.model.agent import CheckDefinition, ServiceDefinition
from isthmus.model.catalog import ConnectProxyConfig, NodeService
from isthmus.model.registration import CONNECT_PROXY_KIND
from isthmus.names import host_port
from isthmus.units import Duration

CHECK_INTERVAL: Final = 10.0  # Consul's.
_LOCAL_ADDRESS: Final = "127.0.0.1"
_ENDING: Final = "-sidecar-proxy"


def sidecar_id(service_id: str) -> str:
    """Id of the sidecar of a service."""
    return service_id + _ENDING


def sidecar_definition(
    service: ServiceDefinition, sidecar: ServiceDefinition, *, port: int
) -> ServiceDefinition:
    """The definition of a sidecar with all that follows from its service.

    Args:
        service: The service; its id may be empty for its name.
        sidecar: What its `connect.sidecar_service` says.
        port: For a sidecar that names none.
    """
    service_id = service.id or service.name
    proxy = _proxy(service, sidecar.proxy or ConnectProxyConfig())
    port = sidecar.port if sidecar.port > 0 else port
    checks = [check for check in (sidecar.check,) if check not in (None, CheckDefinition())]
    checks += sidecar.checks or ()
    if not checks:
        checks = [
            CheckDefinition(
                name="Connect Sidecar Listening",
                tcp=host_port(proxy.local_service_address or _LOCAL_ADDRESS, port),
                interval=Duration.of(CHECK_INTERVAL),
            ),
            CheckDefinition(
                name=f"Connect Sidecar Aliasing {service_id}", alias_service=service_id
            ),
        ]
    return msgspec.structs.replace(
        sidecar,
        id=sidecar_id(service_id),
        kind=sidecar.kind or CONNECT_PROXY_KIND,
        name=sidecar.name or service.name + _ENDING,
        address=sidecar.address or service.address,
        port=port,
        tags=sidecar.tags or service.tags,
        meta=sidecar.meta or service.meta,
        token=sidecar.token or service.token,
        proxy=proxy,
        check=None,
        checks=tuple(check for check in checks if check is not None),
    )


def _proxy(service: ServiceDefinition, proxy: ConnectProxyConfig) -> ConnectProxyConfig:
    proxy = msgspec.structs.replace(
        proxy,
        destination_service_name=proxy.destination_service_name or service.name,
        destination_service_id=proxy.destination_service_id or service.id or service.name,
    )
    if proxy.local_service_socket_path or (
        proxy.local_service_address and proxy.local_service_port > 0
    ):
        return proxy
    if service.socket_path:
        return msgspec.structs.replace(proxy, local_service_socket_path=service.socket_path)
    return msgspec.structs.replace(
        proxy,
        local_service_address=proxy.local_service_address or _LOCAL_ADDRESS,
        local_service_port=proxy.local_service_port
        if proxy.local_service_port > 0
        else service.port,
    )


def free_port(
    services: Mapping[str, NodeService], service_id: str, *, first: int, last: int
) -> int | None:
    """A port for a sidecar: the one it has, or the first of the range that no service has.

    Args:
        services: Of this node, by id.
        service_id: Of the sidecar.
        first: Of the range.
        last: Of the range.
    """
    known = services.get(service_id)
    if known is not None and first <= known.port <= last:
        return known.port
    taken = {service.port for service in services.values()}
    return next((port for port in range(max(first, 1), last + 1) if port not in taken), None)
