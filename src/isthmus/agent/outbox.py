"""What the catalog has still to be told, in order, a bounded part of it on its way at a time.

Pure: `agent.sync` carries it out. Items that concern one service share a lane, and of a lane one
item is on its way at a time, so that an older state never overtakes a newer one.
"""

from typing import Final, NamedTuple

NODE, SERVICE, CHECK = "node", "service", "check"


class Item(NamedTuple):
    """Something whose state goes to the catalog.

    Attributes:
        kind: `NODE`, `SERVICE` or `CHECK`.
        id: Of the service or check; empty for the node.
        lane: Id of the service that it belongs to; empty for the node and its own checks.
    """

    kind: str
    id: str
    lane: str = ""


THE_NODE: Final = Item(NODE, "")


class Outbox:
    """Items that wait, oldest first, and those on their way; an item may be both."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], Item] = {}
        self._away: dict[tuple[str, str], Item] = {}
        self._busy: set[object] = set()

    def __contains__(self, item: Item) -> bool:
        """Whether the catalog has still to learn of it, or is being told."""
        return item[:2] in self._waiting or item[:2] in self._away

    def __len__(self) -> int:
        """How many wait or are on their way."""
        return len(self._waiting.keys() | self._away.keys())

    def waits(self, item: Item) -> bool:
        """Whether it waits for its turn."""
        return item[:2] in self._waiting

    def add(self, item: Item) -> None:
        """Let it wait; one that waits already keeps its place."""
        self._waiting.setdefault(item[:2], item)

    def discard(self, item: Item) -> None:
        """Let it wait no longer."""
        self._waiting.pop(item[:2], None)

    def take(self) -> Item | None:
        """Send the next one on its way; None while none waits whose lane is free.

        The node goes before everything else and alone, a service before its checks.
        """
        if NODE in self._busy:
            return None
        if THE_NODE[:2] in self._waiting:
            return None if self._away else self._go(THE_NODE)
        for item in self._waiting.values():
            if _lane(item) in self._busy:
                continue
            service = self._waiting.get((SERVICE, item.lane))
            return self._go(service if item.kind == CHECK and service is not None else item)
        return None

    def take_along(self, check: Item) -> bool:
        """Send a check on its way with its service, which is; whether it waited."""
        if not self.waits(check) or check[:2] in self._away:
            return False
        self._go(check)
        return True

    def arrived(self, item: Item) -> None:
        """The catalog has been told, or refuses to be."""
        del self._away[item[:2]]
        self._busy.discard(_lane(item))

    def came_back(self, item: Item) -> None:
        """The catalog could not be told: it waits again."""
        self.arrived(item)
        self.add(item)

    def _go(self, item: Item) -> Item:
        del self._waiting[item[:2]]
        self._away[item[:2]] = item
        self._busy.add(_lane(item))
        return item


def _lane(item: Item) -> object:
    """What at most one item on its way may hold."""
    if item.kind == NODE:
        return NODE
    return (SERVICE, item.lane) if item.lane else (item.kind, item.id)
