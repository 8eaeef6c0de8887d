"""How often something was done, and how long it took."""

import math
from dataclasses import dataclass


def deviation(count: int, total: float, squares: float) -> float:
    """Standard deviation of a sample, of the sums of its values and their squares; 0 below two."""
    if count < 2:
        return 0.0
    variance = (squares - total * total / count) / (count - 1)
    return math.sqrt(max(variance, 0.0))


@dataclass(slots=True)
class Timing:
    """Durations added up; all in seconds.

    Attributes:
        count: How many.
        total: Their sum.
        squares: Sum of their squares.
        recent: How many since the interval began.
        least: The shortest of these; 0 for none.
        most: The longest of these.
    """

    count: int = 0
    total: float = 0.0
    least: float = 0.0
    most: float = 0.0
    squares: float = 0.0
    recent: int = 0

    def add(self, seconds: float) -> None:
        """Add one."""
        if not self.recent or seconds < self.least:  # Plain, as it is done for each request.
            self.least = seconds
        if seconds > self.most:
            self.most = seconds
        self.count += 1
        self.recent += 1
        self.total += seconds
        self.squares += seconds * seconds

    def add_instant(self) -> None:
        """Add one that took no time worth measuring."""
        self.least = 0.0
        self.count += 1
        self.recent += 1

    def begin_interval(self) -> None:
        """Look for the shortest and the longest anew."""
        self.recent, self.least, self.most = 0, 0.0, 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample; 0 for fewer than two."""
        return deviation(self.count, self.total, self.squares)

    def merge(self, other: "Timing") -> None:
        """Add all of another."""
        if other.recent:
            self.least = min(self.least, other.least) if self.recent else other.least
            self.most = max(self.most, other.most)
        self.count += other.count
        self.recent += other.recent
        self.total += other.total
        self.squares += other.squares
