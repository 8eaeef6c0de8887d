"""Reading a question with the library, which is loaded when the first one comes."""

import struct

import dns.edns
import dns.flags
import dns.message
from dns.exception import DNSException

from isthmus.dns.records import ANY, AXFR, IN, IXFR
from isthmus.dns.request import (
    BAD_VERSION,
    FORMAT_ERROR,
    HEADER_SIZE,
    NOT_IMPLEMENTED,
    REFUSED,
    Edns,
    Request,
    Subnet,
    refusal,
)


def parse(data: bytes) -> Request | bytes:
    """Read a message whose header says that it is one question.

    Returns:
        The question; or bytes to answer to what is none.
    """
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
    return Request(
        id=data[:2],
        question=encoded,
        labels=tuple([_text(label) for label in question.name.labels[:-1]]),
        type=int(question.rdtype),
        recursion_desired=bool(message.flags & dns.flags.RD),
        edns=_edns(message),
        data=data,
    )


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
    for option in message.options:
        if isinstance(option, dns.edns.ECSOption):
            encoded = option.to_wire() or b""
            return Edns(message.payload, Subnet(option.address, option.srclen, encoded))
    return Edns(message.payload)
