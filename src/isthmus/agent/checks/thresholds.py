"""How many results in a row it takes until a check is believed."""

from isthmus.model.agent import CheckDefinition
from isthmus.model.catalog import CRITICAL, WARNING


class Thresholds:
    """Counts results in a row; the first result counts at once.

    Args:
        definition: Holds the numbers; 0 is as good as 1.
    """

    def __init__(self, definition: CheckDefinition) -> None:
        self._passing = definition.success_before_passing
        self._critical = definition.failures_before_critical
        self._warning = definition.failures_before_warning or self._critical
        self._successes, self._failures = self._passing, self._critical

    def judge(self, status: str) -> str | None:
        """Take the status of a run; returns the status to show, None to leave what is shown."""
        if status != CRITICAL:
            self._successes, self._failures = self._successes + 1, 0
            return status if self._successes >= self._passing else None
        self._failures, self._successes = self._failures + 1, 0
        if self._failures >= self._critical:
            return CRITICAL
        return WARNING if self._failures >= self._warning else None
