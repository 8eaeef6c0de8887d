"""Two members of one name: who keeps it is put to the vote.

Both ask all others which address they know the name at; whoever is not confirmed by the majority
of the answers gives the name up.

Source: protocol/gossip.md §13.7.
"""

from dataclasses import dataclass
from typing import Final

from isthmus.errors import ProtocolError
from isthmus.gossip.members import normalise_addr, pack_addr
from isthmus.gossip.queries import INTERNAL_QUERY_PREFIX, QueryResult
from isthmus.gossip.roster import Member
from isthmus.wire import serf as wire

CONFLICT_QUERY: Final = INTERNAL_QUERY_PREFIX + "conflict"


@dataclass(frozen=True, slots=True)
class ConflictLost:
    """Event: another member keeps our name; we have to stop, or give ourselves another one.

    Attributes:
        name: Ours, until now.
        matching: Answers that know it at our address.
        answers: All answers.
    """

    name: str
    matching: int
    answers: int


@dataclass(frozen=True, slots=True)
class Vote:
    """What the others said. See `ConflictLost` for the figures."""

    matching: int
    answers: int

    @property
    def lost(self) -> bool:
        """Whether the majority knows the name elsewhere; no answer at all decides nothing."""
        return self.answers > 0 and self.matching < self.answers // 2 + 1


def conflict_answer(member: Member | None) -> bytes:
    """Our answer to the question where a name is; None: it is unknown here."""
    if member is None:
        return wire.encode_message(wire.ConflictResponse())
    return wire.encode_message(
        wire.ConflictResponse(
            name=member.name,
            addr=pack_addr(member.address),
            port=member.port,
            tags=member.tags,
            status=int(member.status),
            protocol_min=member.protocol_min,
            protocol_max=member.protocol_max,
            protocol_cur=member.protocol_cur,
            delegate_min=member.delegate_min,
            delegate_max=member.delegate_max,
            delegate_cur=member.delegate_cur,
        )
    )


def count_votes(result: QueryResult, me: Member) -> Vote:
    """Count who knows our name at our address; what can not be read is no vote."""
    address = (pack_addr(me.address), me.port)
    matching = answers = 0
    for payload in result.responses.values():
        try:
            answer = wire.decode_message(payload)
        except ProtocolError:
            continue
        if isinstance(answer, wire.ConflictResponse):
            answers += 1
            matching += (normalise_addr(answer.addr), answer.port) == address
    return Vote(matching, answers)
