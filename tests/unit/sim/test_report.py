"""The page: well-formed, self-contained, complete, also when there is little to show."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from isthmus.sim.recording import Recording
from isthmus.sim.report import render_report, show_bytes
from isthmus.sim.summary import Summary
from isthmus.sim.topology import Host, Role
from support.recordings import make_recording, make_scenario

_VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements of a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] != "style":
            self.text.append(data)

    def tags(self, *names: str) -> list[dict[str, str]]:
        """Attributes of all elements of these names."""
        return [attributes for tag, attributes in self.elements if tag in names]

    @property
    def words(self) -> str:
        """All text, in one line."""
        return " ".join(" ".join(self.text).split())


def page_of(recording: Recording) -> Page:
    return Page(render_report(Summary.of(recording)))


def test_page_needs_nothing_from_anywhere() -> None:
    text = render_report(Summary.of(make_recording()))
    page = Page(text)
    assert page.tags("script", "link", "img", "iframe", "object", "embed") == []
    assert not any(
        name in attributes for _, attributes in page.elements for name in ("src", "href", "onclick")
    )
    assert not re.search(r"https?://|url\(|@import|javascript:", text)


def test_every_plot_has_data_a_title_and_a_description() -> None:
    text = render_report(Summary.of(make_recording()))
    plots = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert len(plots) == 2 * 8  # Each wide and narrow.
    for plot in plots:
        assert re.search(r"<title id=[^>]+>[^<]+</title><desc id=[^>]+>[^<]+</desc>", plot)
        drawn = re.findall(r'class="(?:line|bar|turn) ?[^"]*"', plot)
        assert drawn, plot[:200]
        lines = re.findall(r'class="line[^"]*" d="(M[^"]+)"', plot)
        assert all(line.count("L") >= 100 for line in lines)


def test_ids_are_unique_and_references_lead_somewhere() -> None:
    page = page_of(make_recording())
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.tags("svg"):
        assert set(attributes["aria-labelledby"].split()) <= set(ids)


def test_sections_are_all_there_with_their_figures() -> None:
    recording = make_recording()
    page = page_of(recording)
    assert [attributes["id"] for attributes in page.tags("h2")] == [
        "faults",
        "verdicts",
        "members",
        "detection",
        "false-positives",
        "traffic",
        "gateways",
        "convergence",
        "events",
        "topology",
        "replay",
    ]
    for words in (
        "50 datacenters × 3 servers, 2 gateways each",
        "✓ all 4 held",
        "partition dc1|dc2 at 1m for 1m",
        "no index goes back",
        "1 lost host, 147 observations",
        "Lifeguard: dead if not confirmed, mean 5.3 s 399.6 s",
        "averaged over 5s: line, the mean of all servers",
        "4m dc2 9.60 s",
        "links between latency 40ms, shape lognormal, spread 0.1",
        "WAN gossip gossip_interval 500ms",
        "isthmus sim -datacenters 50 -servers 3 -expect 'detection=5m false_positives=0'",
        "No member that ran and could be reached was declared dead.",
    ):
        assert words in page.words


def test_what_did_not_hold_is_said_at_the_top_and_listed() -> None:
    recording = make_recording()
    victim, observer = Host("dc4", Role.SERVER, 1), Host("dc5", Role.SERVER, 2)
    recording.mistaken(70.0, pool="wan", victim=victim, observer=observer)
    recording.mistaken(71.0, pool="wan", victim=victim, observer=replace(observer, number=3))
    recording.violated(77.0, "indexes", "dc3: from 9 back to 8")
    page = page_of(recording)
    assert "✗ 2 of 4 did not hold" in page.words
    assert "1m17s indexes dc3: from 9 back to 8" in page.words
    assert "could be reached: 2 times, 1 member" in page.words
    assert "1m10s WAN server1.dc4 server2.dc5 2" in page.words


def test_texts_are_escaped() -> None:
    scenario = replace(make_scenario("loss 1% dc1>dc2"), name="<b>&", about="<script>x</script>")
    recording = make_recording(scenario)
    recording.violated(1.0, "indexes", '<b class="good">✓ held</b>')
    text = render_report(Summary.of(recording))
    page = Page(text)
    assert page.tags("script") == []
    assert "<b>& · isthmus sim" in page.words
    assert "loss 1% dc1>dc2 at 10s" in page.words
    assert "&lt;b class=&quot;good&quot;&gt;✓ held&lt;/b&gt;</td>" in text


def test_empty_recording_makes_a_page_that_says_so() -> None:
    page = page_of(Recording(make_scenario()))
    assert page.tags("svg") == []
    for words in (
        "Nothing goes wrong in this run.",
        "Nothing was checked.",
        "Nothing was sampled.",
        "No host was lost long enough to be declared dead.",
    ):
        assert words in page.words


def test_stopped_run_shows_what_was_measured() -> None:
    recording = make_recording()
    recording.samples = recording.samples[:90]
    recording.interrupted, recording.ended_at = True, 90.0
    page = page_of(recording)
    assert "This run was stopped before its end at 9m" in page.words
    assert "1m30s of virtual time" in page.words
    assert "2  pause server" not in page.words  # It would have begun later.


def test_every_second_of_a_long_rolling_fault_does_not_swell_the_page() -> None:
    scenario = make_scenario(
        "restart every server of * at 10s for 1s 2s apart", datacenters=300, name="rolling"
    )
    recording = Recording(scenario, ended_at=scenario.ends_at)
    assert len(render_report(Summary.of(recording))) < 30_000


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (296.4, "296 B"), (1500, "1.5 kB"), (2000, "2 kB"), (123_456, "123 kB")],
)
def test_bytes_are_shown_in_a_unit_that_fits(count: float, text: str) -> None:
    assert show_bytes(count) == text
