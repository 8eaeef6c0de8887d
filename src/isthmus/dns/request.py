"""From bytes to a question, or to the refusal of what is none."""

import struct
from dataclasses import dataclass, field
from typing import Final

import dns.edns
import dns.flags
import dns.message
from dns.exception import DNSException

from isthmus.dns.records import ANY, AXFR, IN, IXFR

HEADER_SIZE: Final = 12
PLAIN_SIZE_MAX: Final = 512
"""Bytes of an answer by UDP to who says nothing of larger ones (RFC 1035 §4.2.1)."""
UDP_SIZE_MAX: Final = 65535 - 68
"""Bytes of an answer by UDP to whoever claims to take more."""
REQUEST_SIZE_MAX: Final = 4096
"""Bytes of a request; a question with all its options has a few hundred."""

NO_ERROR: Final = 0
FORMAT_ERROR: Final = 1
SERVER_FAILURE: Final = 2
NAME_ERROR: Final = 3
NOT_IMPLEMENTED: Final = 4
REFUSED: Final = 5
BAD_VERSION: Final = 16

_QR: Final = 0x8000
_RD: Final = 0x0100
_OPCODE: Final = 0x7800
_HEADER: Final = struct.Struct(">HHHHHH")
_KEPT_FLAGS: Final = _OPCODE | _RD


@dataclass(frozen=True, slots=True)
class Edns:
    """What a request says of itself beyond the plain protocol (RFC 6891).

    Attributes:
        payload: Bytes of an answer that it takes by UDP.
        subnet: Where the asking client is (RFC 7871), if it says so.
    """

    payload: int
    subnet: dns.edns.ECSOption | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One question.

    Attributes:
        id: Two bytes that the answer repeats.
        question: Encoded, spelled as it was.
        labels: Of the name, in lower case; empty for the root.
        type: Of the records wanted.
        recursion_desired: Whether it may be passed on.
        edns: None when it speaks the plain protocol.
        message: As the library read it.
    """

    id: bytes
    question: bytes
    labels: tuple[str, ...]
    type: int
    recursion_desired: bool
    edns: Edns | None
    message: dns.message.Message = field(compare=False)

    @property
    def name(self) -> str:
        """The name, in lower case, without the dot at its end."""
        return ".".join(self.labels)


def read_request(data: bytes) -> Request | bytes | None:
    """Read a request.

    Returns:
        A question; or bytes to answer to what is none; or None for what gets no answer: answers
        sent to us, and what has no header.
    """
    if len(data) < HEADER_SIZE:
        return None
    _, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if flags & _QR:
        return None
    if flags & _OPCODE:
        return refusal(data, NOT_IMPLEMENTED)
    if len(data) > REQUEST_SIZE_MAX or questions != 1 or answers or authorities or additionals > 2:
        return refusal(data, FORMAT_ERROR)
    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
    except (DNSException, ValueError, struct.error, IndexError, KeyError):
        return refusal(data, FORMAT_ERROR)
    if message.edns > 0:
        return refusal(data, BAD_VERSION)
    if len(message.question) != 1:
        return refusal(data, FORMAT_ERROR)
    question, encoded = message.question[0], _encode(message)
    if data[HEADER_SIZE : HEADER_SIZE + len(encoded)] != encoded:
        return refusal(data, FORMAT_ERROR)  # There is nothing before it that it may point to.
    if question.rdclass not in {IN, ANY}:
        return refusal(data, REFUSED, question=encoded)
    if question.rdtype in {AXFR, IXFR}:
        return refusal(data, NOT_IMPLEMENTED, question=encoded)
    labels = tuple([_text(label) for label in question.name.labels[:-1]])
    return Request(
        id=data[:2],
        question=encoded,
        labels=labels,
        type=int(question.rdtype),
        recursion_desired=bool(flags & _RD),
        edns=_edns(message),
        message=message,
    )


def refusal(data: bytes, rcode: int, *, question: bytes = b"") -> bytes:
    """An answer of nothing but a code to a request.

    Args:
        data: The request; at least its header.
        rcode: Codes over 15 go into an OPT record.
        question: Encoded, if it could be read.
    """
    flags = _QR | int.from_bytes(data[2:4], "big") & _KEPT_FLAGS | rcode & 0xF
    opt = b"" if rcode < 16 else b"\0\0\x29\x04\xd0" + bytes([rcode >> 4]) + bytes(5)
    counts = struct.pack(">HHHHH", flags, bool(question), 0, 0, bool(opt))
    return data[:2] + counts + question + opt


def failure(data: bytes) -> bytes:
    """Answer that the server failed, to a request that `read_request` takes for a question."""
    return refusal(data, SERVER_FAILURE, question=_raw_question(data))


def cache_key(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """What requests have in common that differ in id and in the spelling of the name only.

    Only the name is put into lower case, up to its first zero byte: where a name has no zero bytes
    in it that is all of it; where it has, the rest counts as it is.
    """
    end = data.find(b"\0", HEADER_SIZE)
    if end < 0:
        return None
    return data[2:HEADER_SIZE], data[HEADER_SIZE:end].lower(), data[end:]


def _raw_question(data: bytes) -> bytes:
    end = HEADER_SIZE
    while data[end]:
        end += 1 + data[end]
    return data[HEADER_SIZE : end + 5]


def _encode(message: dns.message.Message) -> bytes:
    question = message.question[0]
    kind = struct.pack(">HH", int(question.rdtype), int(question.rdclass))
    return (question.name.to_wire() or b"") + kind


def _text(label: bytes) -> str:
    """A label in lower case; one that is no text, or has a dot in it, as no name of ours has it."""
    if b"." in label:
        return "\0"
    try:
        return label.decode().lower()
    except UnicodeDecodeError:
        return "\0"


def _edns(message: dns.message.Message) -> Edns | None:
    if message.edns < 0:
        return None
    subnets = [one for one in message.options if isinstance(one, dns.edns.ECSOption)]
    return Edns(message.payload, subnets[0] if subnets else None)
