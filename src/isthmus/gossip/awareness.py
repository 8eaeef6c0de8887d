"""How well we ourselves are: a slow member should doubt itself before it accuses others.

Source: Lifeguard, Local Health Aware Probe; protocol/gossip.md §5.
"""


class Awareness:
    """Health score from 0 (well) to ``limit - 1``; it stretches the probe interval.

    Args:
        limit: Score stays below this.
    """

    __slots__ = ("_limit", "score")

    def __init__(self, limit: int) -> None:
        assert limit >= 1
        self._limit = limit
        self.score = 0

    def apply(self, delta: int) -> None:
        """Worsen (positive) or improve the score, within its bounds."""
        score = self.score + delta
        self.score = 0 if score < 0 else min(self._limit - 1, score)

    def scale(self, duration: float) -> float:
        """`duration`, stretched by our health."""
        return duration * (self.score + 1)
