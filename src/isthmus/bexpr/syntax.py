"""What an expression consists of once it is parsed, and why one is refused."""

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from isthmus.errors import RequestError

_PREFIX: Final = "Failed to create boolean expression evaluator: "


class BadExpression(RequestError):
    """An expression is malformed, or does not fit the records. Nothing was filtered.

    Attributes:
        reason: The text without the words that Consul puts before it in most places.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(_PREFIX + reason)


class Operator(Enum):
    """How a field is compared; the value is what errors call it."""

    EQUAL = "Equal"
    NOT_EQUAL = "Not Equal"
    IN = "In"
    NOT_IN = "Not In"
    IS_EMPTY = "Is Empty"
    IS_NOT_EMPTY = "Is Not Empty"
    MATCHES = "Matches"
    NOT_MATCHES = "Not Matches"

    @property
    def negated(self) -> bool:
        """Whether it holds where its opposite does not."""
        return self.value in _NEGATED


_NEGATED: Final = frozenset({"Not Equal", "Not In", "Is Not Empty", "Not Matches"})


@dataclass(frozen=True, slots=True)
class Match:
    """A comparison of one field.

    Attributes:
        selector: Names that lead to the field, outermost first; at least one.
        operator: How it is compared. ``contains`` is `IN` with its sides exchanged.
        value: What it is compared with, as text; None for the operators that need none.
    """

    selector: tuple[str, ...]
    operator: Operator
    value: str | None


@dataclass(frozen=True, slots=True)
class Not:
    """Holds where its operand does not."""

    operand: "Expression"


@dataclass(frozen=True, slots=True)
class And:
    """Holds where all its terms do."""

    terms: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Holds where any of its terms does."""

    terms: tuple["Expression", ...]


Expression: TypeAlias = Match | Not | And | Or
