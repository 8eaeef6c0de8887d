"""Writing answers: order, limits, name compression, EDNS.

Source: protocol/cli-config-dns.md §3.2; RFC 1035 §4.1.4 (compression), RFC 6891 (EDNS).

The library could write them too, ten times slower; here the records are encoded already.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final

from isthmus.dns.instances import Group
from isthmus.dns.records import SRV, Record
from isthmus.dns.request import (
    HEADER_SIZE,
    NO_ERROR,
    PLAIN_SIZE_MAX,
    UDP_SIZE_MAX,
    Request,
)

PLAIN_ANSWERS_MAX: Final = 8
"""Most records by UDP without EDNS, however many the operator allows."""
TCP_SIZE_MAX: Final = 65535 - 12
TCP_ANSWERS_MAX: Final = 4096
TCP_SRV_ANSWERS_MAX: Final = 1024
_HEADROOM: Final = 7
"""Bytes that Consul leaves free in an answer by UDP."""

_QR: Final = 0x8000
_AA: Final = 0x0400
_TC: Final = 0x0200
_RD: Final = 0x0100
_RA: Final = 0x0080
_FLAGS_AND_COUNTS: Final = struct.Struct(">HHHHH")
_OPT: Final = struct.Struct(">BHHIH")
_POINTER: Final = struct.Struct(">H")
_POINTER_MARK: Final = 0xC000
_POINTER_MAX: Final = 0x3FFF
_QUESTION_TAIL: Final = 4
_OPTION: Final = struct.Struct(">HH")
_CLIENT_SUBNET: Final = 8
_EXTENDED_ERROR: Final = 15


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered, before order and limits.

    Attributes:
        rcode: Code of the answer.
        groups: For ANSWER, with what belongs to each in ADDITIONAL.
        authority: Records for AUTHORITY.
        extra: Further records for ADDITIONAL.
        shuffled: Whether groups are put in a new order each time.
        authoritative: Whether it is about a domain of ours.
        is_local: Whether it depends on where the client is.
        explanation: Number and text of an extended error (RFC 8914), for who speaks EDNS.
    """

    rcode: int = NO_ERROR
    groups: tuple[Group, ...] = ()
    authority: tuple[Record, ...] = ()
    extra: tuple[Record, ...] = ()
    shuffled: bool = False
    authoritative: bool = True
    is_local: bool = False
    explanation: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows in an answer; see `dns.config.DnsConfig`."""

    a_record_limit: int = 0
    udp_answer_limit: int = 3
    enable_truncate: bool = False
    disable_compression: bool = False
    recursion_available: bool = False


def write_answer(
    request: Request,
    answer: Answer,
    limits: Limits,
    *,
    tcp: bool,
    rng: Random,
    ident: bytes = b"",
    question: bytes = b"",
) -> bytes:
    """Encode an answer.

    Args:
        request: Which is answered.
        answer: To it.
        limits: Of the operator.
        tcp: How the request came.
        rng: Source of the order.
        ident: Id of a later request that is the same but for this, and for the next.
        question: The question as that one spells it.
    """
    question = question or request.question
    groups = _choose(answer, request.type, limits, rng)
    draft = _Draft(
        question=question,
        groups=groups,
        authority=answer.authority,
        extra=answer.extra,
        opt=_opt(request, answer),
        compress=not limits.disable_compression,
    )
    trimmed = draft.fit_tcp(request.type) if tcp else draft.fit_udp(request, limits)
    flags = _QR | answer.rcode
    if answer.authoritative:
        flags |= _AA
    if trimmed and limits.enable_truncate:
        flags |= _TC
    if request.recursion_desired:
        flags |= _RD
    if limits.recursion_available:
        flags |= _RA
    return draft.bytes(ident or request.id, flags)


def _choose(answer: Answer, kind: int, limits: Limits, rng: Random) -> Sequence[Group]:
    """Groups in their order; names for the service only when there is nothing else, and one."""
    groups: Sequence[Group] = answer.groups
    if answer.shuffled and len(groups) > 1:
        random = rng.random  # A third of what `rng.shuffle` takes.
        groups = sorted(groups, key=lambda group: random())
    if kind == SRV or not groups:
        return groups
    if any(group.host for group in groups):
        direct = [group for group in groups if not group.is_alias]
        groups = direct or groups[:1]
    return groups[: limits.a_record_limit] if limits.a_record_limit > 0 else groups


class _Draft:
    """An answer that is being fitted into its limits."""

    def __init__(
        self,
        *,
        question: bytes,
        groups: Sequence[Group],
        authority: Sequence[Record],
        extra: Sequence[Record],
        opt: bytes,
        compress: bool,
    ) -> None:
        self._question, self._groups, self._opt = question, groups, opt
        self._authority, self._extra = authority, extra
        self._compress = compress
        self._answers = [record for group in groups for record in group.answers]
        self._count = len(self._answers)
        self._body = b""
        self._counts = (0, 0, 0)

    def fit_udp(self, request: Request, limits: Limits) -> bool:
        """Leave out what a datagram has no room for; whether answers were."""
        total, payload = self._count, request.edns.payload if request.edns is not None else 0
        size_max = min(max(PLAIN_SIZE_MAX, payload), UDP_SIZE_MAX) - _HEADROOM
        answers_max = max(0, min(PLAIN_ANSWERS_MAX, limits.udp_answer_limit))
        if payload <= PLAIN_SIZE_MAX and total > answers_max:
            # Consul counts names in full then, lest somebody on the way writes them so.
            self._write(answers_max, compress=False)
            if self._size > size_max:
                self._shrink(size_max, compress=False)
            self._write(self._count)
        else:
            self._write(total)
            if self._size > size_max:
                self._shrink(size_max, compress=self._compress)
        return self._count < total

    def fit_tcp(self, kind: int) -> bool:
        """Leave out what the length of a message cannot express; whether answers were."""
        total = self._count
        self._write(min(total, TCP_SRV_ANSWERS_MAX if kind == SRV else TCP_ANSWERS_MAX))
        if self._size > TCP_SIZE_MAX:
            self._shrink(TCP_SIZE_MAX, compress=self._compress)
        return self._count < total

    def bytes(self, ident: bytes, flags: int) -> bytes:
        """The whole message."""
        answers, authority, extra = self._counts
        header = _FLAGS_AND_COUNTS.pack(flags, 1, answers, authority, extra)
        return b"".join((ident, header, self._question, self._body))

    @property
    def _size(self) -> int:
        return HEADER_SIZE + len(self._question) + len(self._body)

    def _shrink(self, size_max: int, *, compress: bool) -> None:
        """Find how many answers fit; one is sent even if it does not."""
        if self._count <= 1:
            return
        self._authority = ()
        low, high = 1, max(1, self._count)
        while low < high:
            middle = (low + high + 1) // 2
            self._write(middle, compress=compress)
            if self._size <= size_max:
                low = middle
            else:
                high = middle - 1
        self._write(min(low, len(self._answers)))

    def _write(self, count: int, *, compress: bool | None = None) -> None:
        """Encode with that many answers: what belongs to others is left out, and all texts."""
        self._count = count
        whole = count == len(self._answers)
        if compress if compress is not None else self._compress:
            writer: _Writer = _Compressor(self._question[:-_QUESTION_TAIL])
        else:
            writer = _Writer(self._question[:-_QUESTION_TAIL])
        writer.write(self._answers if whole else self._answers[:count])
        writer.write(self._authority)
        extra = self._additional(count, whole=whole)
        writer.write(extra)
        size = len(extra)
        if self._opt:
            writer.parts.append(self._opt)
            size += 1
        self._body = b"".join(writer.parts)
        self._counts = (count, len(self._authority), size)

    def _additional(self, count: int, *, whole: bool) -> Sequence[Record]:
        found: dict[Record, None] = {}
        for group in self._groups:
            if count <= 0 and not whole:
                break
            count -= len(group.answers)
            for record in group.extra:
                found[record] = None
            if whole:
                for record in group.texts:
                    found[record] = None
        if whole:
            found |= dict.fromkeys(self._extra)
        return list(found)


class _Writer:
    """Writes records with names in full."""

    def __init__(self, name: bytes) -> None:
        self.parts: list[bytes] = []
        self._name = name

    def write(self, records: Iterable[Record]) -> None:
        """Add records."""
        for record in records:
            self.parts += (record.owner or self._name, record.body)


class _Compressor(_Writer):
    """Writes owners as pointers to where their names, or ends of them, stand already."""

    def __init__(self, name: bytes) -> None:
        super().__init__(name)
        self._at = HEADER_SIZE + len(name) + _QUESTION_TAIL
        self._places: dict[bytes, int] = {}
        self._note(name, HEADER_SIZE)
        self._pointer = _POINTER.pack(_POINTER_MARK | HEADER_SIZE) if len(name) > 1 else name

    def write(self, records: Iterable[Record]) -> None:
        """Add records."""
        parts, pointer = self.parts, self._pointer
        for record in records:
            owner = self._shorten(record.owner) if record.owner else pointer
            parts.append(owner)
            parts.append(record.body)
            self._at += len(owner) + len(record.body)
            if record.target:
                self._note(record.target, self._at - len(record.target))

    def _shorten(self, name: bytes) -> bytes:
        for start, suffix in _suffixes(name):
            place = self._places.get(suffix)
            if place is not None:
                short = name[:start] + _POINTER.pack(_POINTER_MARK | place)
                break
        else:
            short = name
        self._note(name, self._at)
        return short

    def _note(self, name: bytes, at: int) -> None:
        """Remember where a name and its ends stand, or would if it is written in full there."""
        for start, suffix in _suffixes(name):
            if suffix in self._places:
                return
            if at + start > _POINTER_MAX:
                return
            self._places[suffix] = at + start


@lru_cache(maxsize=8192)
def _suffixes(name: bytes) -> tuple[tuple[int, bytes], ...]:
    """Ends of an encoded name and where they begin, the whole first, without the root."""
    found, at = [], 0
    while at < len(name) and name[at]:
        found.append((at, name[at:]))
        at += 1 + name[at]
    return tuple(found)


def _opt(request: Request, answer: Answer) -> bytes:
    """The OPT record, if the request has one: its size echoed, its subnet with our scope."""
    if request.edns is None:
        return b""
    options = b""
    subnet = request.edns.subnet
    if subnet is not None:
        echo = subnet.echoed(subnet.prefix if answer.is_local and answer.rcode == NO_ERROR else 0)
        options += _OPTION.pack(_CLIENT_SUBNET, len(echo)) + echo
    if answer.explanation is not None:
        code, text = answer.explanation
        data = code.to_bytes(2, "big") + text.encode()
        options += _OPTION.pack(_EXTENDED_ERROR, len(data)) + data
    return _OPT.pack(0, 41, request.edns.payload, 0, len(options)) + options
