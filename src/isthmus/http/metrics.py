"""``/v1/agent/metrics``: the agent's figures, as Consul shows them or for Prometheus.

The JSON shows the last whole interval of ten seconds, as Consul does; Prometheus counts for itself
and gets what was counted since the agent started. Source: protocol/http-api.md §6.3.
"""

import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from isthmus.errors import RequestError
from isthmus.http.context import Context
from isthmus.http.request import Request
from isthmus.http.response import JSON, Response
from isthmus.http.routing import Route
from isthmus.model.metric import Metric, MetricKind, Metrics
from isthmus.model.record import Record
from isthmus.wire import gojson

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

_NO_PROMETHEUS: Final = "Prometheus is not enabled since its retention time is not positive"
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_OTHER: Final = re.compile(r"[^a-zA-Z0-9_:]")


class _Gauge(Record, frozen=True, kw_only=True):
    name: str = ""
    value: float = 0.0
    labels: Mapping[str, str] = {}


class _Sampled(Record, frozen=True, kw_only=True):
    name: str = ""
    count: int = 0
    rate: float = 0.0
    sum: float = 0.0
    min: float = 0.0
    max: float = 0.0
    mean: float = 0.0
    stddev: float = 0.0
    labels: Mapping[str, str] = {}


class _Shown(Record, frozen=True, kw_only=True):
    timestamp: str = ""
    gauges: tuple[_Gauge, ...] = ()
    points: tuple[str, ...] = ()
    counters: tuple[_Sampled, ...] = ()
    samples: tuple[_Sampled, ...] = ()


async def metrics(context: Context, request: Request) -> Response:
    """The last ten seconds; with ``format=prometheus`` everything in Prometheus' text format."""
    if request.query.first("format") != "prometheus":
        return context.json(request, _shown(await context.local.recent_metrics()))
    if not context.local.prometheus_enabled:
        raise RequestError(_NO_PROMETHEUS, status=415)
    figures = await context.local.metrics()
    return Response(200, [("Content-Type", _TEXT)], exposition(figures.metrics))


async def stream(context: Context, _request: Request) -> Response:
    """One interval after the other, each a line of JSON, for as long as the client stays."""

    async def intervals() -> AsyncGenerator[bytes, None]:
        while True:
            yield gojson.encode(_shown(await context.local.next_metrics())) + b"\n"

    response = Response(200, [JSON])
    response.stream, response.stream_size = intervals(), None
    return response


def exposition(found: Iterable[Metric]) -> bytes:
    """Figures in Prometheus' text format, 0.0.4.

    Counters of ``isthmus.`` end in ``_total``. Those that Consul has, too, keep its name, which
    lacks that ending, and are untyped: Prometheus' own library would not name a counter so.
    """
    # Only those who ask for it pay for it: it takes a while to import, and memory.
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(tuple(found)))
    return generate_latest(registry)


@dataclass(frozen=True, slots=True)
class _Collector:
    """What `prometheus_client` asks for families: those of figures collected before."""

    found: tuple[Metric, ...]

    def collect(self) -> "Iterator[Family]":
        """One family for each name; of two figures with the same labels the first counts."""
        families: dict[str, dict[tuple[tuple[str, str], ...], Metric]] = {}
        for metric in self.found:
            members = families.setdefault(_OTHER.sub("_", metric.name), {})
            members.setdefault(metric.labels, metric)
        for name, members in families.items():
            yield _family(name, members.values())


def _family(name: str, members: Iterable[Metric]) -> "Family":
    from prometheus_client.core import Metric as Family

    members = list(members)
    kind = members[0].kind
    own = members[0].name.startswith("isthmus.")
    kinds = {
        MetricKind.GAUGE: "gauge",
        MetricKind.COUNTER: "counter" if own else "unknown",
        MetricKind.TIMING: "summary",
    }
    family = Family(name, members[0].about or name, kinds[kind])
    for metric in members:
        labels = dict(metric.labels)
        if kind is MetricKind.TIMING:
            family.add_sample(f"{name}_sum", labels, metric.value)
            family.add_sample(f"{name}_count", labels, metric.count)
        else:
            total = "_total" if kinds[kind] == "counter" else ""
            family.add_sample(name + total, labels, metric.value)
    return family


def _shown(figures: Metrics) -> _Shown:
    found = sorted(figures.metrics, key=lambda metric: (metric.name, metric.labels))
    return _Shown(
        timestamp=_date(figures.time),
        gauges=tuple(
            _Gauge(name=metric.name, value=metric.value, labels=dict(metric.labels))
            for metric in found
            if metric.kind is MetricKind.GAUGE
        ),
        counters=tuple(
            _sampled(metric, figures.seconds)
            for metric in found
            if metric.kind is MetricKind.COUNTER
        ),
        samples=tuple(
            _sampled(metric, figures.seconds)
            for metric in found
            if metric.kind is MetricKind.TIMING
        ),
    )


def _sampled(metric: Metric, seconds: float) -> _Sampled:
    timing = metric.kind is MetricKind.TIMING
    count = metric.count if timing else int(metric.value)
    one = float(count > 0)  # A counter grows by one at a time.
    return _Sampled(
        name=metric.name,
        count=count,
        rate=metric.value / seconds if seconds > 0 else 0.0,
        sum=metric.value,
        min=metric.least if timing else one,
        max=metric.most if timing else one,
        mean=metric.value / count if count else 0.0,
        stddev=metric.deviation,
        labels=dict(metric.labels),
    )


def _date(time: datetime) -> str:
    """A moment as Go prints it: ``2026-11-23 12:00:00 +0000 UTC``."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} +0000 UTC"


ROUTES: Final = (
    Route("/v1/agent/metrics", {"GET": metrics}),
    Route("/v1/agent/metrics/stream", {"GET": stream}),
)
