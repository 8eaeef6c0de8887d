"""How the servers of a new datacenter agree, once, on who makes up their storage cluster.

etcd wants one list of members, the same for all, before any of them starts: lists that differ make
clusters that differ, and nobody would notice. So one server coordinates, with the lowest id of all,
and each of the others promises itself to one attempt only, and keeps that promise over a restart.
A promise that came to nothing may be put aside after a while, but never for a cluster beside which
the promised one could still have its majority. So two clusters would need twice the servers that
were expected.

This is the decision alone; who asks and who writes files is `agent.storage`.
Source: design of storage, §10 "First start".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from isthmus.model.storage import MEMBER, NO_STORAGE, PROMISED, StorageReply

PROMISE_TIME: Final = 60.0
"""Seconds after which a promise that nothing came of may be put aside."""
FORM_TIME: Final = 30.0
"""Seconds in which a coordinator has all promises, or gives its attempt up: before any is old."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done yet."""

    reason: str


@dataclass(frozen=True, slots=True)
class Join:
    """There is a cluster: ask one of these to let us in."""

    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Coordinate:
    """It is for us to form the cluster, together with these."""

    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Torn:
    """There are several clusters: an operator must say which is to stay.

    Attributes:
        clusters: Their servers' nodes.
    """

    clusters: tuple[tuple[str, ...], ...]


Decision: TypeAlias = Wait | Join | Coordinate | Torn


@dataclass(frozen=True, slots=True)
class Promise:
    """What this server has promised: to start in the cluster of one attempt.

    Attributes:
        token: The attempt.
        coordinator: Server id of who forms it.
        made_at: When, in seconds since the epoch: it outlives a restart.
        members: Server ids of everyone who is to start in it.
    """

    token: str
    coordinator: str
    made_at: float
    members: tuple[str, ...] = ()

    def is_blocked_by(self, members: Sequence[str]) -> bool:
        """Whether its cluster can have no majority if all of `members` start in another one."""
        left = set(self.members) - set(members)
        return bool(self.members) and 2 * len(left) <= len(self.members)


@dataclass(frozen=True, slots=True)
class Promises:
    """All promises that this server has not been released from, oldest first; the last one counts.

    An earlier one is only put aside: it counts again when the coordinator of the later one cancels
    that. It is forgotten when its own coordinator cancels it or begins anew.
    """

    held: tuple[Promise, ...] = ()

    @property
    def token(self) -> str:
        """The attempt that we would start in; empty when nothing is promised."""
        return self.held[-1].token if self.held else ""

    def obstacle(self, new: Promise) -> Promise | None:
        """The promise because of which another one cannot be made now; None if it can.

        A promise that nothing came of may be put aside after `PROMISE_TIME`, though nobody knows
        whether its coordinator has told others to start meanwhile: only for a cluster that takes
        so many of its members that those which are left are no majority.
        """
        for promise in self.held:
            if promise.coordinator == new.coordinator:
                continue  # Who knows that it gave its earlier attempt up.
            fresh = 0 <= new.made_at - promise.made_at < PROMISE_TIME
            if fresh or not promise.is_blocked_by(new.members):
                return promise
        return None

    def adding(self, new: Promise) -> "Promises":
        """With another promise, which has no obstacle."""
        kept = [held for held in self.held if held.coordinator != new.coordinator]
        return Promises((*kept, new))

    def without(self, token: str) -> "Promises":
        """Released from one."""
        return Promises(tuple(held for held in self.held if held.token != token))


def decide(
    *,
    own_id: str,
    expect: int,
    answers: Mapping[str, StorageReply | None],
) -> Decision:
    """What a server without data does now.

    Args:
        own_id: Its server id.
        expect: How many servers make up a new datacenter; 0: it only joins.
        answers: What each other living server of the datacenter said of itself, by server id;
            None: it did not answer.
    """
    members = [server for server, answer in answers.items() if _state(answer) == MEMBER]
    clusters = clusters_of(answers.values())
    if len(clusters) > 1:
        return Torn(tuple(sorted(clusters.values())))
    if members:
        return Join(tuple(sorted(members)))
    if not expect:
        return Wait("no server of this datacenter has data, and bootstrap_expect is not set here")
    silent = sorted(server for server, answer in answers.items() if answer is None)
    ready = [
        server
        for server, answer in answers.items()
        if answer is not None and answer.expect == expect and answer.state in {NO_STORAGE, PROMISED}
    ]
    found = sorted([own_id, *ready])
    if len(found) < expect:
        differing = _differing(expect, answers)
        return Wait(
            f"{len(found)} of {expect} servers (bootstrap_expect) are there"
            + (f"; do not answer yet: {', '.join(silent)}" if silent else "")
            + (f"; expect another number: {differing}" if differing else "")
        )
    if silent and min(silent) < found[0]:
        return Wait(f"server {min(silent)} has yet to say whether it has data")
    if found[0] != own_id:
        return Wait(f"server {found[0]} forms the storage cluster")
    return Coordinate(tuple(found[1:expect]))


def clusters_of(answers: Iterable[StorageReply | None]) -> dict[str, tuple[str, ...]]:
    """Nodes of the servers that are in each storage cluster, by its token."""
    found: dict[str, list[str]] = {}
    for answer in answers:
        if answer is not None and answer.state == MEMBER:
            found.setdefault(answer.token, []).append(answer.member.node)
    return {token: tuple(sorted(nodes)) for token, nodes in found.items()}


def _state(answer: StorageReply | None) -> str:
    return answer.state if answer is not None else NO_STORAGE


def _differing(expect: int, answers: Mapping[str, StorageReply | None]) -> str:
    found: Sequence[str] = [
        f"{answer.member.node} ({answer.expect})"
        for answer in answers.values()
        if answer is not None and answer.expect != expect
    ]
    return ", ".join(sorted(found))
