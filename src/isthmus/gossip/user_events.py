"""User events: a name and a few bytes that reach every member once.

Source: protocol/gossip.md §13.5.
"""

from collections.abc import Callable

from isthmus.errors import InvalidRequest
from isthmus.gossip.config import GossipConfig
from isthmus.gossip.lamport import LamportClock
from isthmus.gossip.recent import RecentEvents
from isthmus.wire import serf as wire


class UserEvents:
    """Fires events of ours and takes in those of others.

    Args:
        config: Limits.
        clock: Lamport clock of events.
        spread: Sends a serf message to all.
        tell: Told every event, ours included, once.
    """

    def __init__(
        self,
        config: GossipConfig,
        *,
        clock: LamportClock,
        spread: Callable[[bytes], None],
        tell: Callable[[wire.UserEvent], None],
    ) -> None:
        self._size_max = config.user_event_size_max
        self._clock, self._spread, self._tell = clock, spread, tell
        self.recent = RecentEvents(config.event_buffer)

    def fire(self, name: str, payload: bytes, *, coalesce: bool) -> int:
        """Tell all members an event; return its Lamport time.

        Raises:
            InvalidRequest: It is too long; nothing was sent.
        """
        ltime = self._clock.time
        event = wire.UserEvent(ltime=ltime, name=name, payload=payload, cc=coalesce)
        data = wire.encode_message(event)
        for size, when in ((len(name) + len(payload), "before"), (len(data), "after")):
            if size > self._size_max:
                raise InvalidRequest(
                    f"user event exceeds configured limit of {self._size_max} bytes {when} encoding"
                )
        self._clock.increment()
        self.receive(event)
        self._spread(data)
        return ltime

    def receive(self, event: wire.UserEvent) -> bool:
        """Take in an event; return whether it was news."""
        self._clock.witness(event.ltime)
        body = wire.UserEventBody(name=event.name, payload=event.payload)
        if not self.recent.add(event.ltime, body, clock=self._clock.time):
            return False
        self._tell(event)
        return True

    def replay(self, state: wire.SerfPushPull, *, ignore_old: bool) -> None:
        """Take in the events that a push/pull brought; those before it may be of no interest."""
        if ignore_old:
            self.recent.ltime_min = max(self.recent.ltime_min, state.event_ltime)
        for slot in state.events:
            for body in () if slot is None else slot.events:
                assert slot is not None
                self.receive(wire.UserEvent(ltime=slot.ltime, name=body.name, payload=body.payload))
