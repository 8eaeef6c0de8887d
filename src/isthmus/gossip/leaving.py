"""Our own leaving, step by step: say what we intend, then goodbye, then linger, then end.

Source: protocol/gossip.md §13.4.
"""

from enum import Enum, auto

from isthmus.gossip.config import GossipConfig


class Stage(Enum):
    """How far it is."""

    MEMBER = auto()
    INTENT = auto()
    """The intent is being sent."""
    DEPARTURE = auto()
    """Memberlist says goodbye."""
    LINGER = auto()
    """Everything is said; we answer probes for a moment."""
    LEFT = auto()


class Leaving:
    """Keeps the stage and when it ends.

    Args:
        config: Times.
    """

    def __init__(self, config: GossipConfig) -> None:
        self._config = config
        self.stage = Stage.MEMBER
        self.due: float | None = None
        """When the stage ends at the latest; None: something else ends it."""

    @property
    def is_member(self) -> bool:
        """Whether we mean to stay."""
        return self.stage is Stage.MEMBER

    def begin(self, *, alone: bool, now: float) -> None:
        """The intent is queued; nobody hears it if we are alone."""
        assert self.is_member
        self.stage = Stage.INTENT
        self.due = now if alone else now + self._config.broadcast_timeout

    def departed(self, *, alone: bool, now: float) -> None:
        """Memberlist said goodbye."""
        self.stage = Stage.LINGER
        self.due = now if alone else now + self._config.leave_propagate_delay

    def go_on(self, *, intent_sent: bool, now: float) -> bool:
        """Enter the next stage if it is time; return whether that happened."""
        if self.stage is Stage.INTENT and intent_sent:
            self.due = now
        if self.due is None or now < self.due:
            return False
        self.due = None
        self.stage = Stage.DEPARTURE if self.stage is Stage.INTENT else Stage.LEFT
        return True
