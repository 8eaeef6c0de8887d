"""What a read answers: the value, its index, and what would change it."""

from typing import Generic, TypeVar

import msgspec

from isthmus.store.watch import Topic

T = TypeVar("T")
U = TypeVar("U")


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """A value with what a blocking query needs to know of it.

    Attributes:
        value: Immutable; the same object until something it shows changes, where the read
            says so.
        index: Index that the reply shows.
        topics: The next write to one of them may change the value.
        changed: Index at which the value last changed: a blocking query waits until it passes
            the caller's. Where nothing was found it may be lower than `index`, so that writes
            elsewhere wake nobody.
    """

    value: T
    index: int
    topics: tuple[Topic, ...]
    changed: int

    @property
    def shown_index(self) -> int:
        """Index for the reply: never 0, or its caller could not block on it."""
        return self.index or 1

    def of(self, value: U) -> "Answer[U]":
        """The same about a value made from this one's."""
        return Answer(value, self.index, self.topics, self.changed)
