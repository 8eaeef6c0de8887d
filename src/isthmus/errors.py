"""The exception tree. A class says whose fault it is; only here are the texts that clients match.

Source of the texts: protocol/rpc.md §7, protocol/http-api.md §3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NO_LEADER: Final = "No cluster leader"
NO_SERVERS: Final = "No known Consul servers"
NO_PATH: Final = "No path to datacenter"
NO_REACHABLE_SERVER: Final = "Remote DC has no server currently reachable"
PERMISSION_DENIED: Final = "Permission denied"
ACL_NOT_FOUND: Final = "ACL not found"
RPC_RATE_EXCEEDED: Final = "RPC rate limit exceeded"
FEDERATION_STATES_DISABLED: Final = (
    "Federation states are currently disabled until all servers in the datacenter "
    "support the feature"
)
WAN_JOIN_DISABLED: Final = "WAN join is disabled when wan federation via mesh gateways is enabled"
CALL_PREFIX: Final = "rpc error making call: "
"""Each hop puts this before an error that another server answered."""
CONNECT_PREFIX: Final = "rpc error getting client: failed to get conn: "
"""Stands before a failure to reach another server at all."""

NO_GATEWAY: Final = "no gateway known"
CONNECT: Final = "connect"
TLS: Final = "tls"
ALPN: Final = "alpn"
NO_ROUTE: Final = "route"
DEADLINE: Final = "deadline"
REMOTE_SERVER: Final = "remote server"
ACL: Final = "acl"
STEPS: Final = {
    NO_GATEWAY: "no gateway known",
    CONNECT: "connect",
    TLS: "TLS",
    ALPN: "ALPN",
    NO_ROUTE: "no route at the gateway",
    DEADLINE: "deadline",
    REMOTE_SERVER: "remote server",
    ACL: "ACL",
}
"""The steps on the way to another datacenter's server, and how operators read them.

``route``: the connection ended in the TLS handshake, as gateways do that know no way to the server
name; ``deadline``: somebody on the way accepted the connection and then said nothing.
"""


def located(text: str, *, dc: str, node: str, gateway: str, step: str) -> str:
    """An error's text with the place behind it: datacenter, server, gateway, step."""
    server = "any server" if node == "*" else f"server {node}"
    several = "s" if "," in gateway else ""
    through = f", gateway{several} {gateway}" if gateway else ""
    return f"{text} (datacenter {dc}, {server}{through}, step: {STEPS.get(step, step)})"


class IsthmusError(Exception):
    """Root of all errors of ours that a border may handle; never raised itself."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in the configuration: where it is, what it is, what would be valid."""

    source: str
    """File name, ``flag`` or ``environment``."""
    key: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        """One line: ``file: key: text; remedy``."""
        place = ": ".join(part for part in (self.source, self.key) if part)
        text = f"{place}: {self.text}" if place else self.text
        return f"{text}; {self.remedy}" if self.remedy else text


class ConfigError(IsthmusError):
    """The operator's configuration is wrong. Nothing was started; all mistakes are listed."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class InvalidNodeName(IsthmusError):
    """A WAN node name does not encode a datacenter. Nothing was sent."""


class ProtocolError(IsthmusError):
    """The peer broke a protocol. State is unchanged; drop the packet or close that connection."""

    def __init__(self, text: str, *, offset: int | None = None) -> None:
        self.offset = offset
        super().__init__(text if offset is None else f"{text} (at byte {offset})")


class MalformedPacket(ProtocolError):
    """Bytes do not follow their format."""


class BadChecksum(ProtocolError):
    """A checksum or an authentication tag does not match."""


class UnknownProtocol(ProtocolError):
    """The first byte, ALPN name or version is none that we speak."""


class RequestError(IsthmusError):
    """The caller's request is wrong. State is unchanged; answer the text and `status`."""

    status = 500

    def __init__(self, text: str, *, status: int | None = None) -> None:
        if status is not None:
            self.status = status
        super().__init__(text)


class InvalidRequest(RequestError):
    """A field is missing or out of range."""

    status = 400


class NotFound(RequestError):
    """What the caller asked for does not exist."""

    status = 404


class PermissionDenied(RequestError):
    """The caller's token may not do this."""

    status = 403

    def __init__(self, text: str = PERMISSION_DENIED) -> None:
        super().__init__(text)


class RemoteError(RequestError):
    """Another server answered with this error text; what it changed is for its text to say.

    `str()` is the text as the other server sent it; pass it on behind `CALL_PREFIX`.

    Attributes:
        gateway: ``host:port`` of the gateway that the call led through, if any.
    """

    def __init__(self, text: str, *, gateway: str = "") -> None:
        self.gateway = gateway
        denied = PERMISSION_DENIED in text or ACL_NOT_FOUND in text
        super().__init__(text, status=403 if denied else 500)


class Unavailable(IsthmusError):
    """Circumstances: the request did not take effect and may be tried again. Answered as 500."""


class NoLeader(Unavailable):
    """This datacenter has no leader now."""

    def __init__(self, text: str = NO_LEADER) -> None:
        super().__init__(text)


class NoServers(Unavailable):
    """A client agent knows no server of its datacenter now."""

    def __init__(self) -> None:
        super().__init__(NO_SERVERS)


class NoPathToDatacenter(Unavailable):
    """No server of that datacenter is known.

    The text is Consul's alone unless we know why: `why` stands behind it.
    """

    def __init__(self, dc: str, why: str = "") -> None:
        self.dc = dc
        super().__init__(f"{NO_PATH}: {why}" if why else NO_PATH)


class DialFailed(Unavailable):
    """A connection could not be made. Carries what an operator needs to find the broken hop.

    Attributes:
        dc: Datacenter dialled; empty inside our own.
        node: Server dialled (``*`` for any).
        gateway: ``host:port`` that was dialled; empty when none was known.
        step: One of `STEPS` up to ``deadline``.
    """

    def __init__(self, text: str, *, dc: str, node: str, gateway: str, step: str) -> None:
        self.dc, self.node, self.gateway, self.step = dc, node, gateway, step
        super().__init__(text)


class ConnectionLost(Unavailable):
    """A connection ended before the answer; whether the call took effect is unknown.

    Attributes:
        gateway: ``host:port`` of the gateway that it led through, if any.
        step: ``remote server``; ``tls`` when the server refused our certificate after the
            handshake, as TLS 1.3 does.
    """

    def __init__(self, text: str, *, gateway: str = "", step: str = REMOTE_SERVER) -> None:
        self.gateway, self.step = gateway, step
        super().__init__(text)


class EngineError(IsthmusError):
    """Disk or quorum failed. The server stops accepting writes; `operation` says what failed."""

    def __init__(self, text: str, *, operation: str) -> None:
        self.operation, self.text = operation, text
        super().__init__(f"{operation}: {text}")
