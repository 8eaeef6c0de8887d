"""Service and check definitions from files, in the spelling of the HTTP API's registration.

Files write ``enable_tag_override``, ``EnableTagOverride`` or ``enabletagoverride``; the agent's
code for registrations over HTTP gets ``EnableTagOverride`` in every case. Keys that belong to the
user (meta, tagged addresses, headers, a proxy's own config) stay as written.

Source: protocol/cli-config-dns.md §2.3; protocol/http-api.md, agent registration.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from isthmus.config.kinds import read_duration
from isthmus.errors import RequestError
from isthmus.model.record import Record
from isthmus.units import Duration, format_duration

if TYPE_CHECKING:
    from isthmus.model.watch_definition import WatchDefinition

T = TypeVar("T", bound=Record)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What an object may hold: field names, and the shapes of those that are objects."""

    fields: tuple[str, ...]
    objects: Mapping[str, "_Shape | None"] = field(default_factory=dict)
    """Fields that hold objects or lists of them; None: the keys are the user's."""


_CHECK: Final = _Shape(
    (
        "ID", "CheckID", "Name", "Notes", "ServiceID", "Token", "Status", "ScriptArgs", "Args",
        "HTTP", "Method", "Body", "DisableRedirects", "TCP", "Interval", "DockerContainerID",
        "Shell", "GRPC", "GRPCUseTLS", "TLSServerName", "TLSSkipVerify", "AliasNode",
        "AliasService", "Timeout", "TTL", "SuccessBeforePassing", "FailuresBeforeWarning",
        "FailuresBeforeCritical", "DeregisterCriticalServiceAfter", "OutputMaxSize", "H2PING",
    ),
    {"Header": None},
)  # fmt: skip
_UPSTREAM: Final = _Shape(
    (
        "DestinationType", "DestinationNamespace", "DestinationName", "Datacenter",
        "LocalBindAddress", "LocalBindPort", "LocalBindSocketPath", "LocalBindSocketMode",
    ),
    {"Config": None, "MeshGateway": _Shape(("Mode",))},
)  # fmt: skip
_EXPOSE: Final = _Shape(
    ("Checks",),
    {"Paths": _Shape(("ListenerPort", "Path", "LocalPathPort", "Protocol", "ParsedFromCheck"))},
)
_PROXY: Final = _Shape(
    (
        "DestinationServiceName", "DestinationServiceID", "LocalServiceAddress",
        "LocalServicePort", "LocalServiceSocketPath", "Mode",
    ),
    {
        "Config": None,
        "Upstreams": _UPSTREAM,
        "MeshGateway": _Shape(("Mode",)),
        "Expose": _EXPOSE,
        "TransparentProxy": _Shape(("OutboundListenerPort", "DialedDirectly")),
    },
)  # fmt: skip
_TAGGED_ADDRESS: Final = _Shape(("Address", "Port"))
_SERVICE_FIELDS: Final = (
    "Kind", "ID", "Name", "Tags", "Address", "SocketPath", "Port", "Token", "EnableTagOverride",
)  # fmt: skip
_SERVICE_OBJECTS: Final[dict[str, _Shape | None]] = {
    "Meta": None,
    "TaggedAddresses": None,
    "Check": _CHECK,
    "Checks": _CHECK,
    "Weights": _Shape(("Passing", "Warning")),
    "Proxy": _PROXY,
}
_SIDECAR: Final = _Shape(_SERVICE_FIELDS, {**_SERVICE_OBJECTS})
_SERVICE: Final = _Shape(
    _SERVICE_FIELDS,
    {**_SERVICE_OBJECTS, "Connect": _Shape(("Native",), {"SidecarService": _SIDECAR})},
)

_LISTS: Final = frozenset({"Checks", "Upstreams", "Paths"})
"""Fields that hold lists of objects; a single block stands for a list of one."""
_DURATIONS: Final = frozenset({"Interval", "Timeout", "TTL", "DeregisterCriticalServiceAfter"})


def service_definition(written: Mapping[str, object]) -> dict[str, Any]:
    """Normalise one service.

    Raises:
        ValueError: An unknown field, a value of the wrong kind, or a broken rule of registration;
            the text says which and where.
    """
    from isthmus.model.agent import ServiceDefinition
    from isthmus.model.registration import register

    service = _normalise(written, _SERVICE, "service")
    with _named("service", service):
        register(_decoded(ServiceDefinition, service), node="")
    return service


def check_definition(written: Mapping[str, object]) -> dict[str, Any]:
    """Normalise one check.

    Raises:
        ValueError: As in `service_definition`.
    """
    from isthmus.model.agent import CheckDefinition
    from isthmus.model.registration import register_check

    check = _normalise(written, _CHECK, "check")
    with _named("check", check):
        register_check(_decoded(CheckDefinition, check), node="")
    return check


def watch_definition(written: Mapping[str, object]) -> "WatchDefinition":
    """Read one watch.

    Raises:
        ValueError: A parameter is missing or wrong; the text is Consul's.
    """
    from isthmus.model.watch_definition import read_definition
    from isthmus.model.watch_plan import InvalidWatch

    try:
        return read_definition(written)
    except InvalidWatch as error:
        raise ValueError(str(error)) from None


def _decoded(kind: type[T], written: Mapping[str, Any]) -> T:
    """Read a definition as the agent will. Imported late: most configurations have none."""
    import json

    from isthmus.http.decode import decode

    return decode(kind, json.dumps(written).encode(), snake_case=True)


@contextmanager
def _named(place: str, written: Mapping[str, Any]) -> Iterator[None]:
    """Say which definition a refused request was about."""
    try:
        yield
    except RequestError as error:
        name = written.get("Name") or written.get("ID") or written.get("CheckID") or ""
        text = str(error).removeprefix("Request decode failed: ")
        raise ValueError(f'{place} "{name}": {text}') from error


def _normalise(written: Mapping[str, object], shape: _Shape, place: str) -> dict[str, Any]:
    known = {_plain(name): name for name in (*shape.fields, *shape.objects)}
    result: dict[str, Any] = {}
    for key, value in written.items():
        name = known.get(_plain(key))
        if name is None:
            raise ValueError(f"invalid config key {place}.{key}")
        if value is None:
            continue
        result[name] = _value(name, value, shape, f"{place}.{key}")
    return result


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _value(name: str, value: object, shape: _Shape, place: str) -> object:
    if name == "TaggedAddresses" and isinstance(value, dict):
        return {
            tag: _object(item, _TAGGED_ADDRESS, f"{place}.{tag}") for tag, item in value.items()
        }
    if name in shape.objects:
        return _objects(name, value, shape.objects[name], place)
    if name in _DURATIONS:
        return _duration(value, place)
    return value


def _objects(name: str, value: object, inner: _Shape | None, place: str) -> object:
    if name in _LISTS:
        items = value if isinstance(value, list) else [value]
        return [_object(item, inner, place) for item in items]
    return _object(value, inner, place)


def _object(value: object, inner: _Shape | None, place: str) -> object:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise ValueError(f"{place} must be an object {{ … }}")
    return dict(value) if inner is None else _normalise(value, inner, place)


def _duration(value: object, place: str) -> str:
    try:
        return format_duration(Duration.of(read_duration(value)))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
