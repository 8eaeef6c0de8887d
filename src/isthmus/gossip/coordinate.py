"""Where we lie among the members of a pool, by round-trip time: Vivaldi, as serf runs it.

Each ack brings its sender's coordinate. Comparing the distance to it with the round trip just
measured, as if a spring were between the two, moves ours a little. The height stands for the
access link that all of a node's packets cross, the adjustment for what no such space can express,
and a weak gravity keeps a whole pool from drifting away.

Source: Vivaldi (Dabek, Cox, Kaashoek, Morris; SIGCOMM 2004) §2.4, §2.5 and §5.4; protocol/gossip.md
§13.9. Formulas and their order are serf's, since both ends of a distance must agree.
"""

import math
from random import Random
from typing import Final

from isthmus.errors import MalformedPacket
from isthmus.model.coordinate import (
    ERROR_MAX,
    HEIGHT_MIN,
    ORIGIN,
    ORIGIN_VEC,
    Coord,
    whole_nanoseconds,
)
from isthmus.wire.coordinate import decode_ack, encode_ack

RTT_MAX: Final = 10.0
"""A longer round trip tells nothing."""
LATENCY_SAMPLES: Final = 3
"""The median of so many round trips of a member is used: one that was delayed is left out."""
ADJUSTMENT_SAMPLES: Final = 20
MEMBERS_MAX: Final = 65_536
"""Members that are remembered; of more, those first heard of give way."""

_SMALLEST: Final = 1e-6
"""What is smaller counts as nothing: of a distance, or as a divisor."""
_CE: Final = 0.25  # How fast the error follows.
_CC: Final = 0.25  # How fast the coordinate follows.
_GRAVITY_RHO: Final = 150.0


class Vivaldi:
    """Our own coordinate in one pool.

    Args:
        rng: Gives the direction in which to leave a member that lies where we lie.

    Attributes:
        coord: Where we are now; a new object after each update.
        resets: How often we had to begin anew at the origin.
    """

    def __init__(self, *, rng: Random) -> None:
        self._rng = rng
        self.resets = 0
        self._latencies: dict[str, list[float]] = {}
        self._begin()

    def _begin(self) -> None:
        self.coord = ORIGIN
        self._vec: tuple[float, ...] = ORIGIN_VEC
        self._height, self._adjustment, self._error = ORIGIN.height, 0.0, ORIGIN.error
        self._samples = [0.0] * ADJUSTMENT_SAMPLES
        self._sample_place = 0

    def update(self, node: str, other: Coord, rtt: float) -> Coord:
        """Take in one measurement.

        Args:
            node: Member that was measured.
            other: Its coordinate.
            rtt: Round trip to it in seconds.

        Returns:
            Our coordinate, moved.

        Raises:
            MalformedPacket: The coordinate is of another space or absurd, or the round trip is not
                within 0 to `RTT_MAX`. Nothing changed.
        """
        if not other.is_compatible():
            raise MalformedPacket(f"coordinate of {node} is incompatible with ours")
        if not 0.0 <= rtt <= RTT_MAX:
            raise MalformedPacket(f"round trip to {node} of {rtt} s is not within 0 to {RTT_MAX} s")
        rtt = self._usual_latency(node, rtt)
        self._pull(other, max(rtt, _SMALLEST))
        self._adjust(other, rtt)
        self._fall()
        coord = Coord(
            vec=self._vec, error=self._error, adjustment=self._adjustment, height=self._height
        )
        if coord.is_compatible():
            self.coord = coord
        else:
            self._begin()
            self.resets += 1
        return self.coord

    def forget(self, node: str) -> None:
        """Drop what is remembered of a member that is gone."""
        self._latencies.pop(node, None)

    def _usual_latency(self, node: str, rtt: float) -> float:
        """Median of a member's last round trips."""
        samples = self._latencies.get(node)
        if samples is None:
            samples = self._latencies[node] = []
            if len(self._latencies) > MEMBERS_MAX:
                del self._latencies[next(iter(self._latencies))]
        samples.append(rtt)
        if len(samples) > LATENCY_SAMPLES:
            del samples[0]
        return sorted(samples)[len(samples) // 2]

    def _pull(self, other: Coord, rtt: float) -> None:
        """Let the spring between us and `other` act; whoever is less sure moves more."""
        apart = self._distance(other)
        weight = self._error / max(self._error + other.error, _SMALLEST)
        share = _CE * weight
        error = share * abs(apart - rtt) / rtt + self._error * (1.0 - share)
        self._error = min(ERROR_MAX, error)
        self._push(_CC * weight * (rtt - apart), other)

    def _adjust(self, other: Coord, rtt: float) -> None:
        """Take half of what the space got wrong on average; the other end adds its half."""
        self._samples[self._sample_place] = rtt - self._raw_distance(other)
        self._sample_place = (self._sample_place + 1) % ADJUSTMENT_SAMPLES
        self._adjustment = sum(self._samples) / (2 * ADJUSTMENT_SAMPLES)

    def _fall(self) -> None:
        """Let gravity draw us towards the origin, the more the further away we are."""
        away = self._distance(ORIGIN) / _GRAVITY_RHO
        self._push(-(away * away), ORIGIN)

    def _raw_distance(self, other: Coord) -> float:
        return math.dist(self._vec, other.vec or ()) + self._height + other.height

    def _distance(self, other: Coord) -> float:
        """As `model.coordinate.distance`, from where we are in the middle of an update."""
        raw = self._raw_distance(other)
        adjusted = raw + self._adjustment + other.adjustment
        return whole_nanoseconds(adjusted if adjusted > 0 else raw)

    def _push(self, force: float, other: Coord) -> None:
        """Move along the line to `other`, away from it if `force` (in seconds) is positive."""
        there = other.vec or ()
        apart = math.dist(self._vec, there)
        if apart <= _SMALLEST:
            unit = self._direction()
            self._vec = tuple([a + force * u for a, u in zip(self._vec, unit, strict=True)])
            return
        scale = force / apart
        self._vec = tuple([a + (a - b) * scale for a, b in zip(self._vec, there, strict=True)])
        height = (self._height + other.height) * scale + self._height
        self._height = max(HEIGHT_MIN, height)

    def _direction(self) -> tuple[float, ...]:
        """A random vector of length 1."""
        vec = [self._rng.random() - 0.5 for _ in ORIGIN_VEC]
        length = math.hypot(*vec)
        if length <= _SMALLEST:
            return (1.0, *ORIGIN_VEC[1:])
        return tuple([value / length for value in vec])


class PoolCoordinates:
    """The coordinates of a pool: ours, and the last that each member told us.

    Args:
        name: Our member name.
        enabled: Whether acks carry coordinates at all; if not, ours stays at the origin.
        rng: Source of chance.

    Attributes:
        known: Last coordinate by member, ours included; empty when not enabled. Changed in place
            on the pool's thread; other threads copy it in one step, as `dict(known)`.
        refused: Acks whose coordinate or round trip was of no use.
    """

    def __init__(self, name: str, *, enabled: bool, rng: Random) -> None:
        self._name, self._enabled = name, enabled
        self._vivaldi = Vivaldi(rng=rng)
        self._payload: bytes | None = None
        self.known: dict[str, Coord] = {name: ORIGIN} if enabled else {}
        self.refused = 0

    @property
    def own(self) -> Coord:
        """Our coordinate."""
        return self._vivaldi.coord

    @property
    def resets(self) -> int:
        """How often we had to begin anew at the origin."""
        return self._vivaldi.resets

    def ack_payload(self) -> bytes:
        """What our acks carry; encoded once for as long as we do not move."""
        if not self._enabled:
            return b""
        if self._payload is None:
            self._payload = encode_ack(self._vivaldi.coord)
        return self._payload

    def receive_ack(self, node: str, payload: bytes, *, rtt: float) -> None:
        """Take in what a member's direct ack carried; what is of no use is counted and dropped."""
        if not self._enabled or node == self._name:
            return
        try:
            other = decode_ack(payload)
            own = self._vivaldi.update(node, other, rtt)
        except MalformedPacket:
            self.refused += 1
            return
        self._payload = None
        if node not in self.known and len(self.known) >= MEMBERS_MAX:
            oldest = next(name for name in self.known if name != self._name)
            del self.known[oldest]
        self.known[node] = other
        self.known[self._name] = own

    def forget(self, node: str) -> None:
        """Drop what is known of a member that is gone for good."""
        self._vivaldi.forget(node)
        if node != self._name:
            self.known.pop(node, None)
