"""User events of our datacenter: firing them, remembering the newest, waiting for the next.

Serf spreads an event to every agent; each decides by its own name and services whether it is
meant. The servers' own event, a new leader, comes the same way.

Source: protocol/gossip.md §14.6, protocol/http-api.md §6.5.
"""

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec.structs import replace

from isthmus.errors import MalformedPacket, RequestError, Unavailable
from isthmus.model.catalog import NodeService
from isthmus.model.event import EVENT_VERSION, EventFireRequest, UserEvent, event_index
from isthmus.model.pattern import compile_pattern
from isthmus.model.record import Record
from isthmus.net.gossip import UserEventReceived
from isthmus.wire.user_event import (
    NEW_LEADER,
    PREFIX,
    decode_user_event,
    encode_user_event,
)

logger = logging.getLogger(__name__)

EVENT_COUNT_MAX: Final = 256
"""Newest events that an agent remembers; Consul's number."""
WAIT_MAX: Final = 600.0
"""Longest wait for the next event, in seconds, and the one of who does not say."""
LEADERSHIP_LOOK_INTERVAL: Final = 60.0
"""Seconds after which we look who leads, though nothing told us to."""

_REMOTE_EXECUTION: Final = "_rexec"
_NO_EVENTS: Final = 1  # The index of an empty list: 0 would not block.


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are asked for; what is empty admits all.

    Attributes:
        name: Of the event.
        node: An agent of this name takes it.
        service: An agent with a service of this name takes it.
        tag: That service has this tag.
    """

    name: str = ""
    node: str = ""
    service: str = ""
    tag: str = ""

    def admits(self, event: UserEvent) -> bool:
        """Whether an event is among them."""
        return (
            (not self.name or event.name == self.name)
            and (not self.node or _matches(event.node_filter, self.node))
            and (not self.service or _matches(event.service_filter, self.service))
            and (not self.tag or _matches(event.tag_filter, self.tag))
        )


class UserEvents:
    """The newest events that were meant for us, and the way to fire others.

    Args:
        node: Our node.
        services: The services of our agent, as they are now.
        rpc: Calls to servers, of other datacenters too.
        entropy: Makes that many random bytes, for the ids of events.
        leader_elected: Called when our datacenter has a new leader.
    """

    def __init__(
        self,
        *,
        node: str,
        services: Callable[[], Iterable[NodeService]],
        rpc: Callable[[str, Record], Awaitable[object]],
        entropy: Callable[[int], bytes],
        leader_elected: Callable[[], None],
    ) -> None:
        self._node, self._services, self._rpc = node, services, rpc
        self._entropy, self._leader_elected = entropy, leader_elected
        self._events: OrderedDict[str, UserEvent] = OrderedDict()
        self._changed = asyncio.Event()

    async def fire(self, event: UserEvent, *, dc: str, token: str) -> UserEvent:
        """Spread an event in a datacenter.

        Args:
            event: Its name, payload and filters.
            dc: Whose agents are told.
            token: Of the caller.

        Returns:
            The event with its id, by which it will be known everywhere.

        Raises:
            RequestError: A filter is none, or the event is too long.
            Unavailable: That datacenter cannot be reached.
        """
        _check_filters(event)
        event_id = str(uuid.UUID(bytes=self._entropy(16), version=4))
        event = replace(event, id=event_id, version=EVENT_VERSION, ltime=0)
        request = EventFireRequest(
            datacenter=dc,
            name=event.name,
            payload=encode_user_event(event),
            token=token,
            allow_stale=True,  # Any server will do: gossip takes over.
        )
        await self._rpc("Internal.EventFire", request)
        return event

    def receive(self, event: object) -> None:
        """Take an event of the LAN pool; those that are not user events change nothing."""
        if not isinstance(event, UserEventReceived):
            return
        if event.name == NEW_LEADER:
            leader = event.payload.decode("utf-8", "replace")
            logger.info("new leader of the datacenter: %r", leader)
            self._leader_elected()
        elif event.name.startswith(PREFIX):
            self._receive_user_event(event)
        else:
            logger.debug("event of no known kind: %r", event.name)

    def recent(self, chosen: EventFilter) -> tuple[int, tuple[UserEvent, ...]]:
        """The newest events, oldest first, and the index that stands for them."""
        events = tuple(event for event in self._events.values() if chosen.admits(event))
        return (event_index(events[-1].id) if events else _NO_EVENTS), events

    async def changed(
        self, chosen: EventFilter, *, index: int, wait: float
    ) -> tuple[int, tuple[UserEvent, ...]]:
        """The newest events as soon as their index differs from one given, or in time.

        Args:
            chosen: Which of them.
            index: What the caller has seen; 0: the answer comes at once.
            wait: Longest wait in seconds, 0 for `WAIT_MAX`; then the list comes as it is.
        """
        deadline = asyncio.get_running_loop().time() + (min(wait, WAIT_MAX) or WAIT_MAX)
        while True:
            arrived = self._changed
            found = self.recent(chosen)
            if not index or found[0] != index:
                return found
            try:
                async with asyncio.timeout_at(deadline):
                    await arrived.wait()
            except TimeoutError:
                return found

    def _receive_user_event(self, received: UserEventReceived) -> None:
        try:
            event = decode_user_event(received.payload, ltime=received.ltime)
            event_index(event.id)
        except (MalformedPacket, ValueError) as error:
            logger.debug("event %r cannot be read: %s", received.name, error)
            return
        if event.version > EVENT_VERSION:
            logger.warning(
                "event %r has version %d, we know %d", event.name, event.version, EVENT_VERSION
            )
        elif event.name == _REMOTE_EXECUTION:
            logger.info("remote execution was asked for, which this agent never does")
        elif event.id not in self._events and self._is_meant(event):
            logger.debug("event %r", event.name, extra={"event": event.id})
            self._events[event.id] = event
            if len(self._events) > EVENT_COUNT_MAX:
                self._events.popitem(last=False)
            arrived, self._changed = self._changed, asyncio.Event()
            arrived.set()

    def _is_meant(self, event: UserEvent) -> bool:
        """Whether we are among those whom an event is for."""
        if not _matches(event.node_filter, self._node):
            return False
        if not event.service_filter:
            return True
        return any(
            # Consul looks at ids, its documents say names: both are one for most services.
            (_matches(event.service_filter, service.id) or _named(event, service))
            and (not event.tag_filter or _tagged(event, service))
            for service in self._services()
        )


class Leadership(Protocol):
    """Whether our server leads its datacenter; `server.replica.Replica` knows."""

    @property
    def is_leader(self) -> bool:
        """Whether it does."""

    async def leader_changed(self, timeout: float) -> None:
        """Return when something about the leadership changed, or after so many seconds."""


async def announce_leadership(
    leadership: Leadership, fire: Callable[[str, bytes], Awaitable[object]], *, node: str
) -> None:
    """Tell the datacenter each time that our server becomes its leader, until cancelled.

    Args:
        leadership: Of our server.
        fire: Spreads an event in the LAN pool.
        node: Our node.
    """
    led = False
    while True:
        leads = leadership.is_leader
        if leads and not led:
            try:
                await fire(NEW_LEADER, node.encode())
            except Unavailable as error:
                logger.warning("could not tell the datacenter of its new leader: %s", error)
                leads = False
        led = leads
        await leadership.leader_changed(LEADERSHIP_LOOK_INTERVAL)


def _named(event: UserEvent, service: NodeService) -> bool:
    return _matches(event.service_filter, service.service)


def _tagged(event: UserEvent, service: NodeService) -> bool:
    return any(_matches(event.tag_filter, tag) for tag in service.tags or ())


def _matches(pattern: str, text: str) -> bool:
    """Whether a filter admits a text; an empty one admits all, a broken one nothing."""
    if not pattern:
        return True
    try:
        return compile_pattern(pattern)(text)
    except ValueError as error:
        logger.debug("event with a filter that cannot be used: %s", error)
        return False


def _check_filters(event: UserEvent) -> None:
    if event.tag_filter and not event.service_filter:
        raise RequestError("Cannot provide tag filter without service filter")
    for name, pattern in (
        ("node", event.node_filter),
        ("service", event.service_filter),
        ("tag", event.tag_filter),
    ):
        try:
            compile_pattern(pattern)
        except ValueError as error:
            raise RequestError(f"Invalid {name} filter: {error}") from None
