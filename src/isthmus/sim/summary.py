"""A recording in figures: what was measured, what was expected, and the verdict."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from isthmus.sim.command import replay_command
from isthmus.sim.formulas import Expected
from isthmus.sim.recording import LAN, WAN, Recording, Sample, Spread


@dataclass(frozen=True, slots=True)
class Times:
    """How a number of lengths of time are spread, in seconds.

    Attributes:
        count: How many there are; with none all else is 0.
    """

    count: int
    median: float
    p95: float
    longest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Times":
        """Of `values`; a percentile is the smallest value that so many per cent do not exceed."""
        ordered = sorted(values)
        if not ordered:
            return cls(0, 0.0, 0.0, 0.0)

        def at(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return cls(len(ordered), at(0.5), at(0.95), ordered[-1])


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one thing that had to hold did.

    Attributes:
        name: Which.
        about: What had to hold.
        held: Whether it did.
        found: What was measured, or what went wrong.
    """

    name: str
    about: str
    held: bool
    found: str


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """Figures of the LAN pools together, or of the WAN pool.

    Attributes:
        members: Members of one such pool.
        detection: From a host's end to an observer's declaration.
        expected: What the formulas say.
        false_positives: Declarations about members that were well.
        rate: Bytes per second a server sends, the mean of all and over time.
        rate_peak: The most that any server sent between two samples.
    """

    members: int
    detection: Times
    expected: Expected
    false_positives: int
    rate: float
    rate_peak: float


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures of one run."""

    recording: Recording
    lan: PoolFigures
    wan: PoolFigures
    gateway_rate: float
    connections: float
    connections_peak: float
    convergence: Times
    unconverged: int
    whole_after: float | None
    verdicts: tuple[Verdict, ...]

    @classmethod
    def of(cls, recording: Recording) -> "Summary":
        """Of one recording."""
        convergence = Times.of(
            one.seconds for one in recording.convergences if one.seconds is not None
        )
        samples = recording.samples
        return cls(
            recording=recording,
            lan=_pool(recording, LAN),
            wan=_pool(recording, WAN),
            gateway_rate=_mean(samples, lambda sample: sample.gateway_rate),
            connections=_mean(samples, lambda sample: sample.connections),
            connections_peak=_peak(samples, lambda sample: sample.connections),
            convergence=convergence,
            unconverged=sum(one.seconds is None for one in recording.convergences),
            whole_after=_whole_after(recording),
            verdicts=(*_invariants(recording), *_expectations(recording)),
        )

    @property
    def held(self) -> bool:
        """Whether all that had to hold did."""
        return all(verdict.held for verdict in self.verdicts)

    def as_json(self) -> str:
        """One line of JSON; the same scenario and seed give the same line."""
        recording, scenario = self.recording, self.recording.scenario
        topology = scenario.topology
        document: dict[str, Any] = {
            "Name": scenario.name,
            "Seed": scenario.seed,
            "Datacenters": topology.datacenters,
            "Servers": topology.servers,
            "Clients": topology.clients,
            "Gateways": topology.gateways,
            "Faults": [str(fault) for fault in scenario.faults],
            "Seconds": recording.ended_at,
            "Interrupted": recording.interrupted,
            "Held": self.held,
            "Lan": _pool_json(self.lan),
            "Wan": _pool_json(self.wan),
            "GatewayBytesPerSecond": _rounded(self.gateway_rate),
            "GatewayConnections": _rounded(self.connections),
            "GatewayConnectionsPeak": _rounded(self.connections_peak),
            "Convergence": {**_times_json(self.convergence), "Unfinished": self.unconverged},
            "WholeAfter": None if self.whole_after is None else _rounded(self.whole_after),
            "Verdicts": [
                {"Name": one.name, "About": one.about, "Held": one.held, "Found": one.found}
                for one in self.verdicts
            ],
            "Violations": [
                {"At": _rounded(one.at), "Invariant": one.invariant, "Text": one.text}
                for one in recording.violations
            ],
            "Counters": dict(sorted(recording.counters.items())),
            "Replay": replay_command(scenario),
        }
        return json.dumps(document, separators=(",", ":"))


def _pool(recording: Recording, pool: str) -> PoolFigures:
    scenario = recording.scenario
    topology = scenario.topology
    if pool == LAN:
        members, config = topology.servers + topology.clients, scenario.lan
    else:
        members, config = topology.servers * topology.datacenters, scenario.wan

    def rate(sample: Sample) -> Spread:
        return sample.lan_rate if pool == LAN else sample.wan_rate

    return PoolFigures(
        members=members,
        detection=Times.of(one.seconds for one in recording.detections if one.pool == pool),
        expected=Expected.of(config, member_count=members),
        false_positives=sum(one.pool == pool for one in recording.false_positives),
        rate=_mean(recording.samples, rate),
        rate_peak=_peak(recording.samples, rate),
    )


def _mean(samples: Sequence[Sample], of: Callable[[Sample], Spread]) -> float:
    return sum(of(sample).mean for sample in samples) / len(samples) if samples else 0.0


def _peak(samples: Sequence[Sample], of: Callable[[Sample], Spread]) -> float:
    return max((of(sample).high for sample in samples), default=0.0)


def _whole_after(recording: Recording) -> float | None:
    """Seconds from the last fault's end until all running servers know each other, for good."""
    healed_at = recording.scenario.healed_at
    whole_at = None
    for sample in reversed(recording.samples):
        if not sample.known.low == sample.known.high == sample.alive:
            break
        whole_at = sample.at
    return None if whole_at is None else max(0.0, whole_at - healed_at)


def _invariants(recording: Recording) -> Iterable[Verdict]:
    for name, about in recording.invariants.items():
        broken = [one for one in recording.violations if one.invariant == name]
        found = "held" if not broken else f"{_times(len(broken))}, first: {broken[0].text}"
        yield Verdict(name, about.removesuffix("."), not broken, found)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _expectations(recording: Recording) -> Iterable[Verdict]:
    expect, healed_at = recording.scenario.expect, recording.scenario.healed_at
    whole = not recording.interrupted  # Otherwise what is late may still have come.
    if expect.detection is not None:
        slowest = max((one.seconds for one in recording.detections), default=0.0)
        yield _at_most("detection", "the last observer knows of a loss", expect.detection, slowest)
    if expect.converged_within is not None and whole:
        yield _converged(recording, expect.converged_within, healed_at)
    if expect.members_within is not None and whole:
        whole_after = _whole_after(recording)
        about = "all servers know all members after the last fault"
        if whole_after is None:
            yield Verdict("members_within", about, False, "not before the run ended")
        else:
            yield _at_most("members_within", about, expect.members_within, whole_after)
    if expect.false_positives is not None:
        count = len(recording.false_positives) + recording.dropped.get("false_positives", 0)
        yield Verdict(
            "false_positives",
            f"at most {expect.false_positives} declared dead that were well",
            count <= expect.false_positives,
            str(count),
        )


def _at_most(name: str, about: str, bound: float, found: float) -> Verdict:
    return Verdict(name, f"{about} within {bound:g} s", found <= bound, f"{found:.1f} s")


def _converged(recording: Recording, bound: float, healed_at: float) -> Verdict:
    about = "all datacenters have the newest federation states"
    slowest = 0.0
    for one in recording.convergences:
        if one.seconds is None:
            text = f"the state of {one.dc} of {one.changed_at:.1f} s is not everywhere"
            return Verdict("converged_within", f"{about} within {bound:g} s", False, text)
        late = one.seconds - max(0.0, healed_at - one.changed_at)
        slowest = max(slowest, late)
    return _at_most("converged_within", about, bound, slowest)


def _pool_json(pool: PoolFigures) -> dict[str, Any]:
    return {
        "Members": pool.members,
        "Detection": _times_json(pool.detection),
        "SwimExpected": _rounded(pool.expected.suspected),
        "LifeguardMin": _rounded(pool.expected.dead_min),
        "LifeguardMax": _rounded(pool.expected.dead_max),
        "FalsePositives": pool.false_positives,
        "BytesPerSecond": _rounded(pool.rate),
        "BytesPerSecondPeak": _rounded(pool.rate_peak),
    }


def _times_json(times: Times) -> dict[str, Any]:
    return {
        "Count": times.count,
        "Median": _rounded(times.median),
        "P95": _rounded(times.p95),
        "Max": _rounded(times.longest),
    }


def _rounded(value: float) -> float:
    return round(value, 3)


def format_summary(summary: Summary) -> str:
    """The summary as a terminal shows it: a table of figures, then the verdicts."""
    rows = [("", "LAN", "WAN")]
    lan, wan = summary.lan, summary.wan
    for title, of in _ROWS:
        rows.append((title, of(lan), of(wan)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}".rstrip()
        for row in rows
    ]
    lines += ["", *_others(summary), ""]
    for verdict in summary.verdicts:
        sign = "ok  " if verdict.held else "FAIL"
        lines.append(f"{sign}  {verdict.name}: {verdict.about} ({verdict.found})")
    return "\n".join(lines)


_ROWS: tuple[tuple[str, Callable[[PoolFigures], str]], ...] = (
    ("members of a pool", lambda pool: f"{pool.members}"),
    ("losses seen by observers", lambda pool: f"{pool.detection.count}"),
    ("detection: median", lambda pool: show_times(pool.detection, pool.detection.median)),
    ("detection: 95 %", lambda pool: show_times(pool.detection, pool.detection.p95)),
    ("detection: longest", lambda pool: show_times(pool.detection, pool.detection.longest)),
    ("SWIM: first suspicion, mean", lambda pool: f"{pool.expected.suspected:.1f} s"),
    ("Lifeguard: dead if confirmed", lambda pool: f"{pool.expected.dead_min:.1f} s"),
    ("Lifeguard: if not confirmed", lambda pool: f"{pool.expected.dead_max:.1f} s"),
    ("false positives", lambda pool: f"{pool.false_positives}"),
    ("bytes/s of a server", lambda pool: f"{pool.rate:,.0f}".replace(",", " ")),
    ("bytes/s of a server, peak", lambda pool: f"{pool.rate_peak:,.0f}".replace(",", " ")),
)


def show_times(times: Times, value: float) -> str:
    """One figure of `times`, or a dash when there was nothing to measure."""
    return f"{value:.1f} s" if times.count else "–"


def _others(summary: Summary) -> Iterable[str]:
    connections, peak = summary.connections, summary.connections_peak
    yield f"connections of a gateway: {connections:.0f}, at most {peak:.0f}"
    times = summary.convergence
    if times.count or summary.unconverged:
        yield (
            f"federation states everywhere after {show_times(times, times.median)} (median), "
            f"{show_times(times, times.longest)} (longest)"
            + (f"; {summary.unconverged} not before the end" if summary.unconverged else "")
        )
    if summary.recording.samples and summary.whole_after is None:
        yield "at the end not every server knows every other"
    elif summary.whole_after is not None and summary.recording.scenario.faults:
        yield f"every server knows every other {summary.whole_after:.0f} s after the last fault"
