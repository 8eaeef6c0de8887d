"""The mailbox from the gossip thread to the main loop, and how a failed join reads."""

import asyncio
import threading
from typing import Any, cast

import pytest

from isthmus.gossip.serf import SerfEvent
from isthmus.net.gossip_pool import EVENTS_PENDING_MAX, JoinFailed, Mailbox
from support.virtual_loop import settle


def event(number: int) -> SerfEvent:
    """The mailbox does not look into what it carries."""
    return cast(SerfEvent, number)


class Receiver:
    """The main loop's side."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.threads: set[int] = set()
        self.mailbox = Mailbox(asyncio.get_running_loop(), self.take)

    def take(self, taken: SerfEvent) -> None:
        self.events.append(taken)
        self.threads.add(threading.get_ident())


async def test_events_arrive_in_order_on_the_main_loop() -> None:
    receiver = Receiver()

    def send() -> None:
        for number in range(1000):
            receiver.mailbox.put(event(number))

    await asyncio.to_thread(send)
    assert receiver.events == list(range(1000))
    assert receiver.threads == {threading.get_ident()}


async def test_sender_never_waits_for_the_main_loop_and_the_newest_give_way() -> None:
    receiver = Receiver()
    for number in range(EVENTS_PENDING_MAX + 3):
        receiver.mailbox.put(event(number))
    assert (receiver.events, receiver.mailbox.dropped) == ([], 3)
    await settle()
    assert receiver.events == list(range(EVENTS_PENDING_MAX))


async def test_mailbox_that_was_full_takes_events_again() -> None:
    receiver = Receiver()
    for number in range(EVENTS_PENDING_MAX + 1):
        receiver.mailbox.put(event(number))
    await settle()
    receiver.mailbox.put(event(-1))
    await settle()
    assert (receiver.events[-1], receiver.mailbox.dropped) == (-1, 1)


async def test_event_that_causes_another_is_followed_by_it() -> None:
    receiver = Receiver()

    def answer(taken: SerfEvent) -> None:
        receiver.events.append(taken)
        if len(receiver.events) < 5:
            mailbox.put(event(len(receiver.events)))

    mailbox = Mailbox(asyncio.get_running_loop(), answer)
    mailbox.put(event(0))
    await settle()
    assert receiver.events == [0, 1, 2, 3, 4]


def test_event_after_the_end_of_the_main_loop_is_no_error() -> None:
    async def make() -> Mailbox:
        return Receiver().mailbox

    mailbox = asyncio.run(make())
    for number in range(3):
        mailbox.put(event(number))


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        (["a: refused"], "1 error occurred:\n\t* a: refused\n\n"),
        (["a: refused", "b: lost"], "2 errors occurred:\n\t* a: refused\n\t* b: lost\n\n"),
    ],
)
def test_failed_join_lists_its_errors_as_memberlist_does(errors: list[str], text: str) -> None:
    failure = JoinFailed(errors)
    assert (str(failure), failure.errors) == (text, tuple(errors))
