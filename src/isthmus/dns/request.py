"""From bytes to a question, or to the refusal of what is none."""

import struct
from dataclasses import dataclass, field
from typing import Final

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
class Subnet:
    """Where the client of a resolver is (RFC 7871).

    Attributes:
        address: Textual IP address; bits beyond the prefix are zero.
        prefix: Bits of it that count.
        encoded: The option's data, as it came.
    """

    address: str
    prefix: int
    encoded: bytes

    def echoed(self, scope: int) -> bytes:
        """The option's data with the bits that an answer depends on."""
        return self.encoded[:3] + bytes([scope]) + self.encoded[4:]


@dataclass(frozen=True, slots=True)
class Edns:
    """What a request says of itself beyond the plain protocol (RFC 6891).

    Attributes:
        payload: Bytes of an answer that it takes by UDP.
        subnet: Where the asking client is (RFC 7871), if it says so.
    """

    payload: int
    subnet: Subnet | None = None


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
        data: As it came.
    """

    id: bytes
    question: bytes
    labels: tuple[str, ...]
    type: int
    recursion_desired: bool
    edns: Edns | None
    data: bytes = field(compare=False)

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
    from isthmus.dns.parsing import parse  # Not before there is a question: it takes 60 ms.

    return parse(data)


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
