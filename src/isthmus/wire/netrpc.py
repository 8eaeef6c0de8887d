"""Headers of Go's net/rpc in the MessagePack dialect.

A message is two MessagePack objects, one after the other, without length or array: header, body.
Requests: ``{"Seq", "ServiceMethod"}`` and the argument. Responses: ``{"Error", "Seq",
"ServiceMethod"}`` and the reply, or an empty map when there is an error.
Source: protocol/rpc.md §3.1.
"""

from typing import Final, NamedTuple

from isthmus.errors import MalformedPacket
from isthmus.wire.msgpack import pack

EMPTY_BODY: Final = b"\x80"
"""An empty map: the body that goes with an error, and the argument of ``Status.Ping``."""

_SEQUENCE_MAX: Final = 2**64 - 1


class RequestHeader(NamedTuple):
    """First object of a request.

    Attributes:
        sequence: Number that the response repeats; 0 to 2**64 - 1.
        method: ``Service.Method``.
    """

    sequence: int
    method: str


class ResponseHeader(NamedTuple):
    """First object of a response.

    Attributes:
        error: Text of the failure; empty for success.
        sequence: The request's.
        method: The request's.
    """

    error: str
    sequence: int
    method: str


def encode_request(header: RequestHeader, body: bytes) -> bytes:
    """Encode a request; `body` is the argument, already MessagePack."""
    return pack({"Seq": header.sequence, "ServiceMethod": header.method}) + body


def encode_response(header: ResponseHeader, body: bytes) -> bytes:
    """Encode a response; `body` is the reply, already MessagePack; left out after an error."""
    fields = {"Error": header.error, "Seq": header.sequence, "ServiceMethod": header.method}
    return pack(fields) + (EMPTY_BODY if header.error else body)


def request_header(value: object) -> RequestHeader:
    """Check the first object of a request; other keys are ignored, missing ones are zero.

    Raises:
        MalformedPacket: Not a map, or a field of the wrong type.
    """
    fields = _map(value)
    return RequestHeader(_sequence(fields), _text(fields, "ServiceMethod"))


def response_header(value: object) -> ResponseHeader:
    """Check the first object of a response; other keys are ignored, missing ones are zero.

    Raises:
        MalformedPacket: Not a map, or a field of the wrong type.
    """
    fields = _map(value)
    return ResponseHeader(_text(fields, "Error"), _sequence(fields), _text(fields, "ServiceMethod"))


def _map(value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise MalformedPacket(f"RPC header is {type(value).__name__}, not a map")
    return value


def _sequence(fields: dict[object, object]) -> int:
    value = fields.get("Seq")
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _SEQUENCE_MAX:
        raise MalformedPacket("RPC header: Seq is not an unsigned integer")
    return value


def _text(fields: dict[object, object], key: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedPacket(f"RPC header: {key} is {type(value).__name__}, not a string")
    return value
