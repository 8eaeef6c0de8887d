"""Rumours: each is sent a bounded number of times, on packets that travel anyway.

Source: SWIM §4.1 (infection-style dissemination); protocol/gossip.md §7.
"""

import math
from typing import Final

from sortedcontainers import SortedKeyList

SCAN_MAX: Final = 48
"""Most rumours of one queue in one packet: four queues stay below a compound's 255 messages."""


def transmission_limit(retransmit_mult: int, member_count: int) -> int:
    """How often one rumour is sent in a pool of `member_count`."""
    return retransmit_mult * math.ceil(math.log10(member_count + 1))


class Broadcast:
    """One rumour in a queue.

    Attributes:
        name: A later rumour of the same name replaces it; empty: never replaced.
        data: Bytes to send.
        transmissions: How often it was sent.
        token: Reported in `BroadcastQueue.finished` when it is sent out or replaced; 0: not.
    """

    __slots__ = ("_home", "_number", "data", "name", "replaced", "token", "transmissions")

    def __init__(self, home: "BroadcastQueue", number: int, name: str, data: bytes, token: int):
        self._home, self._number = home, number
        self.name, self.data, self.token = name, data, token
        self.transmissions = 0
        self.replaced = False

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sent least first, then the longest, then the newest."""
        return self.transmissions, -len(self.data), -self._number

    def restore(self) -> None:
        """Take one transmission back: it surely did not go out."""
        self._home.restore(self)


class Tally:
    """How many rumours wait in all queues of a member."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0


class BroadcastQueue:
    """Rumours that still have to be sent.

    Args:
        retransmit_mult: As in GossipConfig.
        tally: Counts those of this queue, too.
    """

    def __init__(self, retransmit_mult: int, tally: Tally | None = None) -> None:
        self._tally = tally or Tally()
        self._retransmit_mult = retransmit_mult
        self._waiting: SortedKeyList = SortedKeyList(key=lambda broadcast: broadcast.rank)
        self._by_name: dict[str, Broadcast] = {}
        self._number = 0
        self.finished: list[int] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def queue(self, data: bytes, *, name: str = "", token: int = 0) -> None:
        """Add a rumour; one of the same name that still waits is replaced."""
        self._number += 1
        broadcast = Broadcast(self, self._number, name, data, token)
        if name:
            self.forget(name)
            self._by_name[name] = broadcast
        self._add(broadcast)

    def forget(self, name: str) -> None:
        """Drop the rumour of that name, if one waits."""
        old = self._by_name.get(name)
        if old is not None:
            self._remove(old)
            old.replaced = True
            self._finish(old)

    def take(self, budget: int, *, overhead: int, member_count: int) -> list[Broadcast]:
        """Choose rumours for one packet and count them as sent.

        Args:
            budget: Bytes the packet has left.
            overhead: Bytes each rumour costs beside its own.
            member_count: Size of the pool; decides how often a rumour is sent.
        """
        chosen: list[Broadcast] = []
        for broadcast in self._waiting.islice(0, SCAN_MAX):
            size = overhead + len(broadcast.data)
            if size <= budget:
                budget -= size
                chosen.append(broadcast)
        limit = transmission_limit(self._retransmit_mult, member_count)
        for broadcast in chosen:
            self._remove(broadcast)
            broadcast.transmissions += 1
            if broadcast.transmissions >= limit:
                self._finish(broadcast)
            else:
                self._add(broadcast)
        return chosen

    def restore(self, broadcast: Broadcast) -> None:
        """Take one transmission of `broadcast` back, unless it was replaced meanwhile."""
        newer = self._by_name.get(broadcast.name)
        if broadcast.replaced or newer not in {None, broadcast}:
            return
        if broadcast in self._waiting:
            self._remove(broadcast)
        if broadcast.name:
            self._by_name[broadcast.name] = broadcast
        broadcast.transmissions -= 1
        self._add(broadcast)

    def prune(self, depth: int) -> int:
        """Drop those sent most often until `depth` are left; return how many were dropped."""
        dropped = 0
        while len(self._waiting) > depth:
            broadcast = self._waiting.pop()
            self._tally.size -= 1
            broadcast.replaced = True
            self._finish(broadcast)
            dropped += 1
        return dropped

    def take_finished(self) -> list[int]:
        """Remove and return the tokens of rumours that need no more sending."""
        finished, self.finished = self.finished, []
        return finished

    def _add(self, broadcast: Broadcast) -> None:
        self._waiting.add(broadcast)
        self._tally.size += 1

    def _remove(self, broadcast: Broadcast) -> None:
        self._waiting.remove(broadcast)
        self._tally.size -= 1

    def _finish(self, broadcast: Broadcast) -> None:
        if broadcast.name and self._by_name.get(broadcast.name) is broadcast:
            del self._by_name[broadcast.name]
        if broadcast.token:
            self.finished.append(broadcast.token)
            broadcast.token = 0
