"""The primary's federation states against ours: the writes that close the gap.

Source: protocol/federation.md §10. Consul decides by the index of its last round and rewrites
everything after an error; we compare `primary_modify_index` and skip records that are equal.
"""

from collections.abc import Iterable

import msgspec

from isthmus.model.federation import DELETE, UPSERT, FederationState, FederationStateRequest


def writes_to_follow(
    primary: Iterable[FederationState], ours: Iterable[FederationState]
) -> list[FederationStateRequest]:
    """Writes that make our store equal to the primary's: deletions first, each in order of name.

    A record is written when it is missing here or was written in the primary since: its
    `primary_modify_index` becomes the primary's modify index, so a second run finds nothing.
    """
    theirs = {state.datacenter.lower(): state for state in primary}
    stored = {state.datacenter.lower(): state for state in ours}
    deletes = [
        FederationStateRequest(op=DELETE, state=FederationState(datacenter=state.datacenter))
        for name, state in sorted(stored.items())
        if name not in theirs
    ]
    upserts = [
        FederationStateRequest(op=UPSERT, state=_as_replica(state))
        for name, state in sorted(theirs.items())
        if name not in stored or not _is_replica(stored[name], state)
    ]
    return deletes + upserts


class ReplicationIndex:
    """Which index of the primary to wait for next.

    A remote index that goes back means another store (a restored or rebuilt primary): the next
    round reads everything.
    """

    def __init__(self) -> None:
        self._last = 0

    @property
    def last(self) -> int:
        """Index to block on; 0 answers at once."""
        return self._last

    def receive(self, index: int) -> bool:
        """Take the index of an answer; returns whether it went back."""
        went_back = index < self._last
        self._last = 0 if went_back else index
        return went_back

    def reset(self) -> None:
        """An error left the gap unknown: read everything next time."""
        self._last = 0


def _as_replica(state: FederationState) -> FederationState:
    return msgspec.structs.replace(
        state, primary_modify_index=state.modify_index, create_index=0, modify_index=0
    )


def _is_replica(ours: FederationState, primary: FederationState) -> bool:
    """Same write of the primary. Content is compared too: a rebuilt primary may reuse indexes."""
    return (
        ours.primary_modify_index == primary.modify_index
        and ours.updated_at == primary.updated_at
        and ours.is_same(primary)
    )
