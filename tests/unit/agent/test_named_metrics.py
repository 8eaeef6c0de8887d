"""Figures that every agent has, and which of them are shown."""

from collections.abc import Iterator

import pytest

from isthmus.agent.named_metrics import Filter, MemberEvents, NamedMetrics
from isthmus.config.model import TelemetryConfig
from isthmus.gossip import roster
from isthmus.gossip.roster import Member, MemberStatus
from isthmus.model.metric import Metric, MetricKind
from isthmus.model.timing import Timing

MEMBER = Member(name="a", address="10.0.0.1", port=8301, tags={}, status=MemberStatus.ALIVE)


class FakeHttp:
    connection_count, aborted_count = 4, 1

    def __init__(self) -> None:
        self.timings: dict[tuple[str, str], Timing] = {}

    def answer(self, method: str, path: str, *seconds: float) -> None:
        for one in seconds:
            self.timings.setdefault((method, path), Timing()).add(one)


class FakeDns:
    domain_count, reverse_count, recursion_count, failure_count = 6, 2, 3, 1


class Figures(NamedMetrics):
    """What every agent tells, by name and labels."""

    def __init__(self, **telemetry: object) -> None:
        self.http, self.events = FakeHttp(), MemberEvents()
        config = TelemetryConfig(**telemetry)  # type: ignore[arg-type]
        super().__init__(config, host="h", http=self.http, dns=FakeDns(), lan_events=self.events)

    def found(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], Metric]:
        def all_of_them() -> Iterator[Metric]:
            yield from self._doors()
            yield from self._process()
            yield from self._gossip({"lan": {"probes_failed": 2, "event_queue": 1, "members": 3}})

        return {(one.name, one.labels): one for one in self._filter.choose(all_of_them())}


async def test_requests_are_told_under_old_and_new_names() -> None:
    figures = Figures()
    figures.http.answer("GET", "/v1/kv/", 0.5, 1.5)
    figures.http.answer("PUT", "/v1/agent/reload", 0.25)
    found = figures.found()
    labels = (("method", "GET"), ("path", "v1_kv_"))
    for name, label in (("consul.api.http", labels), ("consul.http.GET.v1.kv._", ())):
        metric = found[name, label]
        assert (metric.kind, metric.count, metric.value) == (MetricKind.TIMING, 2, 2000.0)
        assert (metric.least, metric.most) == (500.0, 1500.0)
    assert ("consul.http.PUT.v1.agent.reload", ()) in found


async def test_old_names_can_be_left_out() -> None:
    figures = Figures(disable_compat_1_9=True)
    figures.http.answer("GET", "/v1/kv/", 0.5)
    assert [name for name, _ in figures.found() if "http.GET" in name] == []


async def test_extremes_are_those_of_the_interval() -> None:
    figures = Figures()
    figures.http.answer("GET", "/v1/kv/", 0.5)
    figures.begin_interval()
    figures.http.answer("GET", "/v1/kv/", 0.125)
    found = figures.found()["consul.http.GET.v1.kv._", ()]
    assert (found.least, found.most, found.value) == (125.0, 125.0, 625.0)


async def test_dns_and_the_process() -> None:
    found = {name: metric.value for (name, _), metric in Figures().found().items()}
    assert (found["consul.dns.domain_query"], found["consul.dns.ptr_query"]) == (6, 2)
    assert (found["isthmus.dns.recursions"], found["isthmus.dns.failures"]) == (3, 1)
    assert found["consul.h.runtime.sys_bytes"] >= found["consul.h.runtime.alloc_bytes"] > 0
    assert found["consul.h.runtime.num_goroutines"] >= 1
    assert found["isthmus.process.cpu.seconds"] > 0


async def test_members_events_are_counted_by_consuls_words() -> None:
    figures = Figures()
    for event in (
        roster.MemberJoined(MEMBER),
        roster.MemberJoined(MEMBER),
        roster.MemberFailed(MEMBER),
        roster.MemberLeft(MEMBER),
        "something else",
    ):
        figures.events.note(event)
    found = {name: metric.value for (name, _), metric in figures.found().items()}
    assert (found["consul.serf.member.join"], found["consul.serf.member.failed"]) == (2, 1)
    assert found["consul.serf.member.left"] == 1
    assert (found["consul.memberlist.msg.suspect"], found["consul.h.serf.queue.Event"]) == (2, 1)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("consul.http.GET.v1.kv._", True),
        ("consul.http.PUT.v1.kv._", False),
        ("consul.rpc.query", True),
        ("isthmus.rpc.calls", True),
    ],
)
def test_longest_rule_counts(name: str, shown: bool) -> None:
    chosen = Filter(["+consul.http.GET", "-consul.http", "+consul"], default=True)
    assert chosen.shows(name) is shown


def test_what_no_rule_is_about_follows_the_default() -> None:
    assert not Filter(["+consul"], default=False).shows("isthmus.store.index")
    assert Filter([], default=True).shows("isthmus.store.index")


async def test_filter_changes_while_running() -> None:
    figures = Figures()
    assert ("consul.dns.domain_query", ()) in figures.found()
    figures.reconfigure(TelemetryConfig(prefix_filter=("-consul.dns",)))
    assert ("consul.dns.domain_query", ()) not in figures.found()
    assert ("consul.memberlist.msg.suspect", (("network", "lan"),)) in figures.found()
