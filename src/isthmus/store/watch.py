"""Which readers a write wakes.

A reader registers interest in topics: one service, one key, all keys under a prefix, a whole
table. The first write that concerns one of them calls the reader's `notify`, once, and forgets
the registration. Nothing here waits: how a reader sleeps is its own business.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from isthmus.errors import Unavailable

WATCHES_MAX: Final = 200_000


class TooManyWatches(Unavailable):
    """More readers wait than allowed; nothing was registered. Try later, or on another server."""


class Topic(NamedTuple):
    """Something that readers wait for.

    Attributes:
        family: Kind of thing: ``service``, ``kv``, ``table`` …
        key: Which of them.
        prefix: Whether all whose key starts with `key` are meant.
    """

    family: str
    key: bytes
    prefix: bool = False


def table_topic(name: str) -> Topic:
    """Any write to a table."""
    return Topic("table", name.encode("ascii"))


class Watch:
    """One reader's registration."""

    __slots__ = ("notify", "topics")

    def __init__(self, topics: tuple[Topic, ...], notify: Callable[[], object]) -> None:
        self.topics = topics
        self.notify = notify


class Watches:
    """All registrations of a store.

    Args:
        watches_max: How many readers may wait at once.
    """

    def __init__(self, *, watches_max: int = WATCHES_MAX) -> None:
        self._watches_max = watches_max
        self._waiting: dict[Topic, dict[Watch, None]] = {}
        self._prefix_lengths: dict[str, dict[int, int]] = {}
        """Per family: length of watched prefixes → how many topics have it."""
        self._count = 0
        self.replaced_count = 0
        """How often other data took the place of all that is read here."""

    def __len__(self) -> int:
        """How many readers wait."""
        return self._count

    def register(self, topics: tuple[Topic, ...], notify: Callable[[], object]) -> Watch:
        """Call `notify` once, at the next write that concerns one of the topics.

        Raises:
            TooManyWatches: The limit is reached.
        """
        assert topics, "a watch on nothing would never wake"
        if self._count >= self._watches_max:
            raise TooManyWatches(f"too many blocking queries, max: {self._watches_max}")
        watch = Watch(topics, notify)
        for topic in topics:
            readers = self._waiting.get(topic)
            if readers is None:
                readers = self._waiting[topic] = {}
                if topic.prefix:
                    lengths = self._prefix_lengths.setdefault(topic.family, {})
                    lengths[len(topic.key)] = lengths.get(len(topic.key), 0) + 1
            readers[watch] = None
        self._count += 1
        return watch

    def cancel(self, watch: Watch) -> None:
        """Forget a registration; one that was woken or cancelled already is no error."""
        known = False
        for topic in watch.topics:
            readers = self._waiting.get(topic)
            if readers is None or watch not in readers:
                continue
            known = True
            del readers[watch]
            if not readers:
                self._forget(topic)
        self._count -= known

    def wake(self, topics: Iterable[Topic]) -> int:
        """Notify every reader whom one of `topics` concerns; return how many.

        A topic here names one thing (never a prefix); readers of prefixes of its key wake too.
        """
        woken: dict[Watch, None] = {}
        for topic in topics:
            readers = self._waiting.get(topic)
            if readers:
                woken.update(readers)
            lengths = self._prefix_lengths.get(topic.family)
            if lengths:
                key = topic.key
                for length in lengths:
                    if length <= len(key):
                        readers = self._waiting.get(Topic(topic.family, key[:length], True))
                        if readers:
                            woken.update(readers)
        for watch in woken:
            self.cancel(watch)
        for watch in woken:
            watch.notify()
        return len(woken)

    def wake_all(self, *, replaced: bool = False) -> int:
        """Notify every reader: the store was loaded again, or closes.

        Args:
            replaced: Other data is there now, for which indexes seen before mean nothing.
        """
        self.replaced_count += replaced
        woken = {watch: None for readers in self._waiting.values() for watch in readers}
        self._waiting.clear()
        self._prefix_lengths.clear()
        self._count = 0
        for watch in woken:
            watch.notify()
        return len(woken)

    def _forget(self, topic: Topic) -> None:
        del self._waiting[topic]
        if topic.prefix:
            lengths = self._prefix_lengths[topic.family]
            lengths[len(topic.key)] -= 1
            if not lengths[len(topic.key)]:
                del lengths[len(topic.key)]
