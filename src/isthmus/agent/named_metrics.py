"""Figures that servers and client agents have alike, under Consul's names.

Names that Consul has, too, stand behind `telemetry.metrics_prefix` and mean what they mean there;
docs/operations.md lists them. Our own begin with ``isthmus.``.
"""

import asyncio
import gc
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from isthmus.config.model import TelemetryConfig
from isthmus.errors import Unavailable
from isthmus.gossip.roster import (
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberUpdated,
)
from isthmus.model.metric import Metric, MetricKind, Metrics
from isthmus.model.timing import Timing

_LEVELS: Final = frozenset({"members", "failed", "left", "health_score"})
"""Of a pool's figures those that are not counted up; so are clocks and queues."""
_LEVEL_ENDINGS: Final = ("_time", "_queue")
_QUEUES: Final = {"intent_queue": "Intent", "event_queue": "Event", "query_queue": "Query"}
_MEMBER_EVENTS: Final = {
    MemberJoined: "join",
    MemberFailed: "failed",
    MemberLeft: "left",
    MemberUpdated: "update",
    MemberReaped: "reap",
}
_STATM: Final = Path("/proc/self/statm")
HTTP_TIMINGS: Final = "Milliseconds of requests, their waits included."


class HttpDoor(Protocol):
    """What is needed of the HTTP server."""

    @property
    def connection_count(self) -> int:
        """Clients that are connected."""

    @property
    def aborted_count(self) -> int:
        """Clients dropped to save memory."""

    @property
    def timings(self) -> Mapping[tuple[str, str], Timing]:
        """Of requests, by method and by path of the endpoint."""


class DnsDoor(Protocol):
    """What is needed of the DNS server's door."""

    domain_count: int
    reverse_count: int
    recursion_count: int
    failure_count: int


class Pool(Protocol):
    """What is needed of a gossip pool."""

    async def stats(self) -> dict[str, str]:
        """Figures by name."""


class MemberEvents:
    """How often members of a pool joined, failed, left.

    Attributes:
        counts: By Consul's word for it.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, event: object) -> None:
        """Count an event of the pool, if it is about a member."""
        word = _MEMBER_EVENTS.get(type(event))
        if word is not None:
            self.counts[word] += 1


class Filter:
    """Which figures are shown.

    Args:
        rules: Starts of names behind ``+`` (shown) or ``-`` (not shown); the longest counts.
        default: Whether figures that no rule is about are shown.
    """

    def __init__(self, rules: Iterable[str], *, default: bool) -> None:
        self._rules = sorted(
            ((rule[1:], rule.startswith("+")) for rule in rules),
            key=lambda rule: len(rule[0]),
            reverse=True,
        )
        self._default = default

    def shows(self, name: str) -> bool:
        """Whether a figure of this name is shown."""
        return next(
            (shown for start, shown in self._rules if name.startswith(start)), self._default
        )

    def choose(self, metrics: Iterable[Metric]) -> tuple[Metric, ...]:
        """Those that are shown."""
        if not self._rules and self._default:
            return tuple(metrics)
        return tuple(metric for metric in metrics if self.shows(metric.name))


class NamedMetrics:
    """Makes metrics under Consul's names, with the prefixes that the operator wants.

    Args:
        config: Prefix, whether gauges carry the host's name, which figures are shown.
        host: Our host's name.
        http: The HTTP server.
        dns: The DNS server's door.
        lan_events: What happened to members of the LAN pool.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        *,
        host: str,
        http: HttpDoor,
        dns: DnsDoor,
        lan_events: MemberEvents,
    ) -> None:
        self._prefix = f"{config.metrics_prefix}." if config.metrics_prefix else ""
        self._gauge_prefix = self._prefix
        if host and not config.disable_hostname:
            self._gauge_prefix += f"{host}."  # As Consul has it: of gauges only.
        self._old_names = not config.disable_compat_1_9
        self._http, self._dns, self._lan_events = http, dns, lan_events
        self.reconfigure(config)

    async def collect(self) -> Metrics:
        """Every figure as it is now; counts since the start."""
        raise NotImplementedError

    def reconfigure(self, config: TelemetryConfig) -> None:
        """Show other figures; prefix and host name stay."""
        self._filter = Filter(config.prefix_filter, default=config.filter_default)

    def _gauge(self, name: str, value: float, about: str, **labels: str) -> Metric:
        name = self._gauge_prefix + name
        return Metric(name, MetricKind.GAUGE, float(value), tuple(labels.items()), about)

    def _counter(self, name: str, value: int, about: str, **labels: str) -> Metric:
        name = self._prefix + name
        return Metric(name, MetricKind.COUNTER, float(value), tuple(labels.items()), about)

    def _timing(self, name: str, timing: Timing, about: str, **labels: str) -> Metric:
        return Metric(
            self._prefix + name,
            MetricKind.TIMING,
            timing.total * 1000,
            tuple(labels.items()),
            about,
            count=timing.count,
            least=timing.least * 1000,
            most=timing.most * 1000,
            squares=timing.squares * 1_000_000,
        )

    def begin_interval(self) -> None:
        """Look for the shortest and longest times anew."""
        for timing in self._http.timings.values():
            timing.begin_interval()

    def _doors(self) -> Iterator[Metric]:
        """Requests over HTTP and DNS."""
        for (method, path), timing in sorted(self._http.timings.items()):
            label = path.strip("/").replace("/", "_") + "_" * path.endswith("/")
            yield self._timing("api.http", timing, HTTP_TIMINGS, method=method, path=label)
            if self._old_names:
                words = path.removeprefix("/").replace("/", ".") + "_" * path.endswith("/")
                yield self._timing(f"http.{method}.{words}", timing, HTTP_TIMINGS)
        about = "Open HTTP connections."
        yield measured("isthmus.http.connections", self._http.connection_count, about)
        dns = self._dns
        about = "DNS requests about our domain."
        yield self._counter("dns.domain_query", dns.domain_count, about)
        yield self._counter("dns.ptr_query", dns.reverse_count, "DNS requests about addresses.")
        about = "DNS requests that other servers were asked about."
        yield counted("isthmus.dns.recursions", dns.recursion_count, about)
        about = "DNS requests answered with a server failure."
        yield counted("isthmus.dns.failures", dns.failure_count, about)

    def _process(self) -> Iterator[Metric]:
        """The process itself; Consul's names where something here is much like what they mean."""
        tasks = len(asyncio.all_tasks()) + threading.active_count()
        yield self._gauge("runtime.num_goroutines", tasks, "Tasks and threads.")
        resident, shared = _memory()
        about = "Bytes of memory that are the process's own."
        yield self._gauge("runtime.alloc_bytes", resident - shared, about)
        about = "Bytes of memory, those shared with others included."
        yield self._gauge("runtime.sys_bytes", resident, about)
        runs = sum(int(generation["collections"]) for generation in gc.get_stats())
        yield self._gauge("runtime.total_gc_runs", runs, "Runs of the garbage collector.")
        cpu = os.times()
        about = "Seconds of processor time."
        yield counted("isthmus.process.cpu.seconds", cpu.user + cpu.system, about)

    def _gossip(self, pools: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
        for word, count in sorted(self._lan_events.counts.items()):
            yield self._counter(f"serf.member.{word}", count, f"Members of the LAN pool: {word}.")
        for pool, figures in pools.items():
            if not figures:  # It is closed.
                continue
            score = figures.get("health_score")
            if score is not None:
                about = "0 if we hear of others in time; greater the later."
                yield self._gauge("memberlist.health.score", score, about, network=pool)
            about = "Probes that nobody answered, so that the member was suspected."
            suspected = int(figures.get("probes_failed", 0))
            yield self._counter("memberlist.msg.suspect", suspected, about, network=pool)
            for name, queue in _QUEUES.items():
                if name in figures:
                    about = "Messages that wait to be passed on."
                    yield self._gauge(f"serf.queue.{queue}", figures[name], about, network=pool)
        yield from gossip_figures(pools)


def measured(name: str, value: float, about: str, **labels: str) -> Metric:
    """A figure of ours that goes up and down."""
    return Metric(name, MetricKind.GAUGE, float(value), tuple(labels.items()), about)


def counted(name: str, value: float, about: str, **labels: str) -> Metric:
    """A figure of ours that only goes up."""
    return Metric(name, MetricKind.COUNTER, float(value), tuple(labels.items()), about)


def gossip_figures(pools: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    """Figures of gossip pools, given by name."""
    for pool, figures in pools.items():
        for name, value in figures.items():
            made = measured if name in _LEVELS or name.endswith(_LEVEL_ENDINGS) else counted
            about = f"The gossip pool's {name.replace('_', ' ')}."
            yield made(f"isthmus.gossip.{name}", value, about, pool=pool)


async def pool_stats(stats: Awaitable[dict[str, str]]) -> dict[str, float]:
    """A pool's numbers; none of one that is closed."""
    try:
        found = await stats
    except Unavailable:
        return {}
    return {name: float(text) for name, text in found.items() if text.isdecimal()}


def _memory() -> tuple[int, int]:
    """Bytes that are resident, and of these the shared ones."""
    try:
        _, resident, shared, *_ = _STATM.read_text().split()
    except (OSError, ValueError):
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return int(resident) * page, int(shared) * page
