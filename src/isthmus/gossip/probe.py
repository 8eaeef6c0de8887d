"""The failure detector: one member is probed at a time, directly, then through helpers.

Source: SWIM §3, §4.3 (round-robin over a shuffled list); Lifeguard, Local Health Aware Probe;
protocol/gossip.md §5. A probe whose target was refused by packet and by stream, and whose helpers
all sent their nacks, fails before its deadline; peers cannot tell, and silence never does that.
"""

from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from msgspec import Struct

from isthmus.gossip.awareness import Awareness
from isthmus.gossip.config import GossipConfig


class ProbeSucceeded(Struct, frozen=True):
    """The target answered.

    Attributes:
        target: Its name.
        rtt: Seconds from the ping to the ack.
        payload: What the ack carried; empty if it came through a helper or a stream.
        by_stream: Only the stream got through.
    """

    target: str
    rtt: float
    payload: bytes
    by_stream: bool


@dataclass(frozen=True, slots=True)
class AskHelpers:
    """The direct ping was not answered in time: ask helpers, and try a stream."""

    target: str
    sequence: int


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """Nothing answered in time: suspect the target."""

    target: str


ProbeResult: TypeAlias = ProbeSucceeded | AskHelpers | ProbeFailed


class Prober:
    """Times the probes and gathers their answers; the core around it sends.

    Args:
        config: Times.
        awareness: Our health: stretches the deadline, and is moved by results.
        rng: Chooses the first tick's phase.
        now: Seconds on the driver's monotonic clock.
    """

    def __init__(
        self, config: GossipConfig, awareness: Awareness, *, rng: Random, now: float
    ) -> None:
        self._interval, self._timeout = config.probe_interval, config.probe_timeout
        self._awareness = awareness
        self.next_tick = now + rng.random() * config.probe_interval
        """When the next probe is due if none runs."""
        self.target = ""
        self._sequence = 0
        self._started_at = self._helpers_at = self._deadline = now
        self._asked = self._streamed = False
        self._refused = self._stream_refused = False
        self._nacks_expected = self._nacks = self._silent_helpers = 0

    @property
    def running(self) -> bool:
        """Whether a probe waits for its answer."""
        return bool(self.target)

    def postpone(self, *, now: float) -> None:
        """Start over one interval from now, as after a pause."""
        self.target = ""
        self.next_tick = now + self._interval

    def is_due(self, *, now: float) -> bool:
        """Whether the next probe may start; asks only between probes. Counts the tick."""
        if self.target or now < self.next_tick:
            return False
        interval = self._interval
        self.next_tick += interval
        if self.next_tick <= now:  # Ticks missed meanwhile are skipped, the phase stays.
            self.next_tick += ((now - self.next_tick) // interval + 1) * interval
            if self.next_tick <= now:  # By a rounding.
                self.next_tick += interval
        return True

    def start(self, target: str, sequence: int, *, now: float) -> None:
        """A ping with this number goes to `target` now."""
        assert not self.target
        self.target, self._sequence = target, sequence
        self._started_at = now
        self._helpers_at = now + self._timeout
        self._deadline = now + self._awareness.scale(self._interval)
        self._asked = self._streamed = False
        self._refused = self._stream_refused = False
        self._nacks_expected = self._nacks = self._silent_helpers = 0

    def expect_nacks(self, count: int, *, silent: int = 0) -> None:
        """Helpers were asked.

        Args:
            count: So many promised to tell us that they, too, got no answer.
            silent: So many others did not: of them we only hear of an ack.
        """
        self._nacks_expected, self._silent_helpers = count, silent

    def receive_ack(self, sequence: int, payload: bytes, *, now: float) -> ProbeSucceeded | None:
        """Accept an ack, direct or through a helper; a late or unknown one changes nothing."""
        if not self.target or sequence != self._sequence:
            return None
        return self._succeed(now, payload, by_stream=False)

    def receive_plain_ack(self, sequence: int) -> str:
        """As `receive_ack`, for who needs only the target's name; empty: late or unknown."""
        return self._end() if self.target and sequence == self._sequence else ""

    def receive_nack(self, sequence: int) -> None:
        """Count a helper's nack."""
        if self.target and sequence == self._sequence:
            self._nacks += 1

    def receive_stream_ack(self, sequence: int) -> None:
        """The stream got through; that counts if nothing else does until the deadline."""
        if self.target and sequence == self._sequence:
            self._streamed = True

    def receive_refusal(self, *, now: float) -> None:
        """The target's host says that nobody listens there: helpers are asked at once."""
        if self.target:
            self._refused = True
            if not self._asked:
                self._helpers_at = now

    def receive_stream_refusal(self, sequence: int) -> None:
        """The target's host refused the stream as well."""
        if self.target and sequence == self._sequence:
            self._stream_refused = True

    def lost(self, sequence: int, *, now: float) -> None:
        """The ping surely did not go out: do not wait for its answer."""
        if self.target and sequence == self._sequence and not self._asked:
            self._helpers_at = now

    def next_timer(self) -> float:
        """When `handle_timer` or the next probe is due."""
        if not self.target:
            return self.next_tick
        if self._asked and not self._absent:
            return self._deadline
        return self._helpers_at if self._helpers_at < self._deadline else self._deadline

    def handle_timer(self, *, now: float) -> ProbeResult | None:
        """Go on with the running probe as far as `now` says; call until it returns None."""
        if not self.target:
            return None
        if not self._asked and now >= self._helpers_at:
            self._asked = True
            return AskHelpers(self.target, self._sequence)
        absent = self._absent
        if now < self._deadline and not absent:
            return None
        if self._streamed:
            return self._succeed(now, b"", by_stream=True)
        missing = self._nacks_expected - self._nacks
        self._awareness.apply(max(0, missing) if self._nacks_expected or absent else 1)
        target, self.target = self.target, ""
        return ProbeFailed(target)

    @property
    def _absent(self) -> bool:
        """Whether everyone has said that the target is not there; no answer can still come.

        Silence is no such sign: packets get lost, and a process that stands still keeps its ports.
        """
        return (
            self._asked
            and self._refused
            and self._stream_refused
            and not self._streamed
            and not self._silent_helpers
            and self._nacks >= self._nacks_expected
        )

    def _end(self) -> str:
        """The running probe succeeded; return whose it was."""
        if self._awareness.score:
            self._awareness.apply(-1)
        target, self.target = self.target, ""
        return target

    def _succeed(self, now: float, payload: bytes, *, by_stream: bool) -> ProbeSucceeded:
        target = self._end()
        return ProbeSucceeded(target, now - self._started_at, payload, by_stream)
