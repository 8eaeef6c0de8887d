"""A check that asks a gRPC server for its health (``grpc.health.v1``).

Source: the gRPC health checking protocol; Consul 1.10, agent/checks.
"""

import asyncio
import importlib
import ssl
from types import ModuleType
from typing import Any, Final

from isthmus.agent.checks.result import Result, critical
from isthmus.agent.checks.tls import CheckTls
from isthmus.model.agent import CheckDefinition
from isthmus.model.catalog import PASSING
from isthmus.names import split_host_port
from isthmus.net.tls import dns_names

_METHOD: Final = "/grpc.health.v1.Health/Check"
_SERVICE_TAG: Final = b"\x0a"  # Field 1, bytes: HealthCheckRequest.service.
_STATUS_TAG: Final = 0x08  # Field 1, varint: HealthCheckResponse.status.
_STATUSES: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_SERVING: Final = 1
_SERVICE_NAME_SIZE_MAX: Final = 127  # So that its length is one byte.


async def probe_grpc(definition: CheckDefinition, *, timeout: float, tls: CheckTls) -> Result:
    """Ask ``host:port`` for its health, or ``host:port/service`` for that of a service."""
    target = definition.grpc
    address, _, service = target.partition("/")
    name = service.encode()
    if len(name) > _SERVICE_NAME_SIZE_MAX:
        return critical(f"gRPC {target}: the name of the service is too long")
    grpc = await _library()
    try:
        async with asyncio.timeout(timeout), await _channel(grpc, definition, address, tls) as to:
            ask = to.unary_unary(_METHOD)
            request = _SERVICE_TAG + bytes([len(name)]) + name if name else b""
            status = _status(await ask(request, timeout=timeout, wait_for_ready=False))
    except TimeoutError:
        return critical(f"gRPC {target}: no answer within {timeout:g} s")
    except grpc.aio.AioRpcError as error:
        return critical(f"gRPC {target}: {error.code().name}: {error.details()}")
    except (OSError, ValueError) as error:
        return critical(f"gRPC {target}: {error}")
    if status != _SERVING:
        word = _STATUSES[status] if status < len(_STATUSES) else str(status)
        return critical(f"gRPC {target} serving status: {word}")
    return Result(PASSING, f"gRPC check {target}: success")


def _status(message: bytes) -> int:
    """The status in a HealthCheckResponse; fields that we do not know do not occur before it."""
    if not message:
        return 0
    if len(message) < 2 or message[0] != _STATUS_TAG:
        raise ValueError("the answer is no health")
    return message[1]


async def _library() -> ModuleType:
    """Loaded by the first check of this kind."""
    await asyncio.to_thread(importlib.import_module, "grpc.aio")
    return importlib.import_module("grpc")


async def _channel(grpc: Any, definition: CheckDefinition, address: str, tls: CheckTls) -> Any:
    """A connection for one call.

    Raises:
        OSError, ValueError: The address or the agent's files can not be used.
    """
    options: list[tuple[str, object]] = [("grpc.enable_http_proxy", 0)]
    if not definition.grpc_use_tls:
        return grpc.aio.insecure_channel(address, options=options)
    host, port = split_host_port(address)
    name = tls.server_name(definition.tls_server_name)
    roots = tls.authorities()
    if definition.tls_skip_verify:
        roots, name = await _whoever_it_is(host, port, tls)
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    chain, key = tls.certificate() or (None, None)
    credentials = grpc.ssl_channel_credentials(roots, key, chain)
    return grpc.aio.secure_channel(address, credentials, options=options)


async def _whoever_it_is(host: str, port: int, tls: CheckTls) -> tuple[bytes, str]:
    """The certificate that a server shows, as an authority, and a name in it.

    The library can not be told to trust everybody; it can be told to trust this very server.
    """
    from cryptography import x509  # Both take a while to load, and few checks need them.
    from cryptography.hazmat.primitives.serialization import Encoding

    context = tls.context(skip_verify=True)
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = x509.load_der_x509_certificate(shown.getpeercert(binary_form=True) or b"")
    writer.close()
    names = dns_names(certificate)
    return certificate.public_bytes(Encoding.PEM), names[0] if names else host
