"""The gateway as a service of its agent: what it registers, and where it listens.

Source: protocol/mesh.md §3.1; protocol/federation.md §16.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import msgspec

from isthmus.errors import ConfigError, MalformedPacket, Mistake, RequestError
from isthmus.gateway.agent import Agent
from isthmus.names import MESH_GATEWAY_KIND, WAN_FEDERATION_META, host_port

CHECK_NAME: Final = "mesh-gateway listening"
CHECK_INTERVAL: Final = "10s"
ANY_ADDRESS: Final = "0.0.0.0"
_REGISTER_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayService:
    """A mesh gateway as a service.

    Attributes:
        name, id: Of the service.
        lan: Host and port for our own datacenter; an empty host stands for the node's address.
        wan: The same for other datacenters; None when not given.
        binds: Addresses to listen on by name; empty: where `lan` (and `wan`) say.
        exposes_servers: Mark the service as a gateway to the datacenter's servers.
        deregister_after: Go duration after which a critical gateway is deregistered.
    """

    name: str = MESH_GATEWAY_KIND
    id: str = MESH_GATEWAY_KIND
    lan: tuple[str, int]
    wan: tuple[str, int] | None = None
    binds: tuple[tuple[str, tuple[str, int]], ...] = ()
    exposes_servers: bool = False
    deregister_after: str = "6h"


def listen_addresses(service: GatewayService, *, wan_is_local: bool) -> list[tuple[str, int]]:
    """Addresses on which the gateway listens, each once.

    Args:
        service: The gateway.
        wan_is_local: The WAN address is one of this machine.
    """
    if service.binds:
        wanted = [address for _, address in service.binds]
    else:
        host, port = service.lan
        wanted = [(host or ANY_ADDRESS, port)]
        if service.wan is not None and host and wan_is_local:
            wanted.append(service.wan)
    return list(dict.fromkeys(wanted))


def registration(service: GatewayService, *, wan_is_local: bool) -> dict[str, object]:
    """Body of ``PUT /v1/agent/service/register``.

    The listener is open when we register, so the check begins as passing instead of leaving the
    gateway unusable until its first run.
    """
    host, port = service.lan
    tagged: dict[str, object] = {}
    if host:
        tagged["lan"] = _address(host, port)
    if service.wan is not None:
        tagged["wan"] = _address(*service.wan)
    config: dict[str, object] = {}
    if service.binds:
        config["envoy_gateway_no_default_bind"] = True
        config["envoy_gateway_bind_addresses"] = {
            name: _address(*address) for name, address in service.binds
        }
    elif host and service.wan is not None and wan_is_local:
        config["envoy_gateway_no_default_bind"] = True
        config["envoy_gateway_bind_tagged_addresses"] = True
    return {
        "Kind": MESH_GATEWAY_KIND,
        "ID": service.id,
        "Name": service.name,
        "Address": host,
        "Port": port,
        "TaggedAddresses": tagged,
        "Meta": {WAN_FEDERATION_META: "1"} if service.exposes_servers else {},
        "Proxy": {"Config": config},
        "Check": {
            "Name": CHECK_NAME,
            "TCP": host_port(host or "127.0.0.1", port),
            "Interval": CHECK_INTERVAL,
            "Status": "passing",
            "DeregisterCriticalServiceAfter": service.deregister_after,
        },
    }


def _address(host: str, port: int) -> dict[str, object]:
    return {"Address": host, "Port": port}


class _Address(msgspec.Struct, rename="pascal"):
    address: str = ""
    port: int = 0


class _Proxy(msgspec.Struct, rename="pascal"):
    config: dict[str, object] | None = None


class _Registered(msgspec.Struct, rename="pascal"):
    kind: str = ""
    address: str = ""
    port: int = 0
    tagged_addresses: dict[str, _Address] | None = None
    proxy: _Proxy | None = None


def registered_addresses(body: bytes) -> list[tuple[str, int]]:
    """Addresses on which a gateway that somebody else registered shall listen, each once.

    Follows the binding keys of its ``Proxy.Config``, under their ``envoy_gateway_…`` and
    ``envoy_mesh_gateway_…`` names; sorted by the names of the addresses, the service's own first.

    Args:
        body: Answer of ``GET /v1/agent/service/ID``.

    Raises:
        MalformedPacket: It is not such an answer.
        ConfigError: The service is not a mesh gateway, or has no address to listen on.

    Source: protocol/mesh.md §3.1.
    """
    try:
        service = msgspec.json.decode(body, type=_Registered)
        config = (service.proxy.config if service.proxy is not None else None) or {}
        named = msgspec.convert(
            _bind_key(config, "bind_addresses") or {}, dict[str, _Address], strict=False
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedPacket(f"registered service: {error}") from error
    wanted = []
    if not _bind_key(config, "no_default_bind"):
        wanted.append((service.address or ANY_ADDRESS, service.port))
    if _bind_key(config, "bind_tagged_addresses"):
        named = {**(service.tagged_addresses or {}), **named}
    wanted += [(bind.address, bind.port) for _, bind in sorted(named.items())]
    found = list(dict.fromkeys((host, port) for host, port in wanted if host and port))
    if service.kind != MESH_GATEWAY_KIND:
        text = f"is of kind {service.kind!r}"
        raise ConfigError([Mistake("agent", "the registered service", text, MESH_GATEWAY_KIND)])
    if not found:
        text = "has no address to listen on"
        raise ConfigError([Mistake("agent", "the registered service", text)])
    return found


def _bind_key(config: dict[str, object], key: str) -> object:
    return config.get(f"envoy_gateway_{key}", config.get(f"envoy_mesh_gateway_{key}"))


class Registrar:
    """Registers the gateway with its agent, and takes it back.

    Args:
        agent: The local agent.
        service_id: Of the gateway.
        body: What `registration` made.
    """

    def __init__(self, agent: Agent, service_id: str, body: dict[str, object]) -> None:
        self._agent, self._service_id = agent, service_id
        self._body = msgspec.json.encode(body)

    def register(self) -> None:
        """Register; repeating it changes nothing.

        Raises:
            Unavailable: No agent answers.
            RequestError: It refused, for instance because its datacenter has no leader yet.
        """
        reply = self._agent.request(
            "PUT", "/v1/agent/service/register", body=self._body, timeout=_REGISTER_TIMEOUT
        )
        if reply.status != 200:
            raise RequestError(reply.text, status=reply.status)

    def deregister(self, *, timeout: float) -> None:
        """Deregister, so that nobody is sent to a gateway that is closing.

        Raises:
            Unavailable: No agent answers; its check will find the gateway gone.
            RequestError: It refused.
        """
        path = f"/v1/agent/service/deregister/{quote(self._service_id, safe='')}"
        reply = self._agent.request("PUT", path, timeout=timeout)
        if reply.status != 200:
            raise RequestError(reply.text, status=reply.status)
