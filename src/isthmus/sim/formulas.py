"""What SWIM and Lifeguard promise of a pool, to set beside what a run measured."""

import math
from dataclasses import dataclass

from isthmus.gossip.config import GossipConfig
from isthmus.gossip.suspicion import SuspicionTimes


@dataclass(frozen=True, slots=True)
class Expected:
    """Times from a member's end, in seconds.

    Attributes:
        suspected: Until the first other member suspects it, on average.
        dead_min: Until it is declared dead, on average, when enough others confirm at once.
        dead_max: The same, when nobody confirms.
        spread: Until a rumour has reached every member, roughly.
    """

    suspected: float
    dead_min: float
    dead_max: float
    spread: float

    @classmethod
    def of(cls, config: GossipConfig, *, member_count: int) -> "Expected":
        """Times in a pool of `member_count`.

        Each period every other member probes one of its peers, the victim with a chance of one in
        ``n - 1``. The mean number of periods until somebody does is
        ``1 / (1 - (1 - 1/(n-1))^(n-1))``, which tends to ``e / (e - 1)``. Then the suspicion timer
        runs, Lifeguard's minimum or maximum. A rumour told to `gossip_nodes` members each round
        reaches all within about ``log(n) / log(1 + gossip_nodes)`` rounds.

        Source: SWIM §3.1 and §5; Lifeguard, LHA-Suspicion.
        """
        others = max(1, member_count - 1)
        missed = (1 - 1 / others) ** others if others > 1 else 0.0
        suspected = config.probe_interval / (1 - missed)
        times = SuspicionTimes.of(config, member_count=member_count)
        longest = times.timeout_max if times.confirmations else times.timeout_min
        rounds = math.log(max(2, member_count)) / math.log(1 + config.gossip_nodes)
        return cls(
            suspected,
            suspected + times.timeout_min,
            suspected + longest,
            rounds * config.gossip_interval,
        )
