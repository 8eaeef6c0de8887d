"""How often something was done, and how long it took."""

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Timing:
    """Durations added up; all in seconds.

    Attributes:
        count: How many.
        total: Their sum.
        least: The shortest; 0 for none.
        most: The longest.
        squares: Sum of their squares.
    """

    count: int = 0
    total: float = 0.0
    least: float = 0.0
    most: float = 0.0
    squares: float = 0.0

    def add(self, seconds: float) -> None:
        """Add one."""
        self.least = min(self.least, seconds) if self.count else seconds
        self.most = max(self.most, seconds)
        self.count += 1
        self.total += seconds
        self.squares += seconds * seconds

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample; 0 for fewer than two."""
        if self.count < 2:
            return 0.0
        variance = (self.squares - self.total * self.total / self.count) / (self.count - 1)
        return math.sqrt(max(variance, 0.0))

    def merge(self, other: "Timing") -> None:
        """Add all of another."""
        if other.count:
            self.least = min(self.least, other.least) if self.count else other.least
            self.most = max(self.most, other.most)
            self.count += other.count
            self.total += other.total
            self.squares += other.squares
