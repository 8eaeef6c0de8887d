"""Two members of one name: who keeps it is put to the vote.

Both ask all others which address they know the name at; whoever is not confirmed by the majority
of the answers gives the name up.

Source: protocol/gossip.md §13.7.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from isthmus.errors import ProtocolError
from isthmus.gossip.members import addr_text, normalise_addr, pack_addr
from isthmus.gossip.outputs import Warned
from isthmus.gossip.queries import INTERNAL_QUERY_PREFIX, QueryResult
from isthmus.gossip.roster import Member
from isthmus.wire import serf as wire
from isthmus.wire.memberlist import NodeState

CONFLICT_QUERY: Final = INTERNAL_QUERY_PREFIX + "conflict"
CONFLICT_VOTE_INTERVAL: Final = 30.0
"""Between two votes about our name, however often the other claims it."""
CONFLICTS_MAX: Final = 64
"""Names claimed by two members that are remembered."""


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


class Conflicts:
    """Notes which names two members claim, and puts ours to the vote.

    Args:
        name: Ours.
        emit: Receives warnings and, after a lost vote, ConflictLost.
    """

    def __init__(self, name: str, *, emit: Callable[[Warned | ConflictLost], None]) -> None:
        self._name, self._emit = name, emit
        self._vote_at = -inf
        self.is_vote_due = False
        """Whether the others are to be asked; whoever asks resets it."""
        self.claims: dict[str, tuple[str, float]] = {}
        """Names that another member claims too: its address, and when it did so last."""

    def note(self, known: NodeState, claimed: NodeState, *, now: float) -> None:
        """Two members claim one name: warn once, however often both say so."""
        name = known.name
        ours, theirs = (f"{addr_text(node.addr)}:{node.port}" for node in (known, claimed))
        address, _ = self.claims.get(name, ("", 0.0))
        if address != theirs:
            text = (
                f"Name conflict for '{name}' both {ours} and {theirs} are claiming:"
                " give every datacenter a name of its own, and every agent in it a node_name"
            )
            self._emit(Warned(text))
        if name in self.claims or len(self.claims) < CONFLICTS_MAX:
            self.claims[name] = (theirs, now)
        if name == self._name and now >= self._vote_at:
            self._vote_at = now + CONFLICT_VOTE_INTERVAL
            self.is_vote_due = True

    def finish_vote(self, result: QueryResult, me: Member) -> bool:
        """Find out from the answers whether we keep our name; return whether we lost it."""
        vote = count_votes(result, me)
        figures = f"[{vote.matching} / {vote.answers}]"
        if not vote.lost:
            self._emit(Warned(f"name conflict resolution: we keep our name {figures}"))
            return False
        self._emit(Warned(f"minority in name conflict resolution, quitting {figures}"))
        self._emit(ConflictLost(self._name, vote.matching, vote.answers))
        return True


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
