"""A run as one HTML page that needs nothing else: figures, plots, verdicts, how to repeat it."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from typing import Final

from isthmus.sim.amounts import format_seconds
from isthmus.sim.command import replay_command
from isthmus.sim.faults import HostFault
from isthmus.sim.keys import GOSSIP_KEYS, LINK_KEYS, Key
from isthmus.sim.plots import (
    Line,
    Mark,
    Point,
    Span,
    draw_histogram,
    draw_lines,
    draw_timeline,
)
from isthmus.sim.recording import LAN, WAN, FalsePositive, Recording, Sample, Spread
from isthmus.sim.scenario import Scenario
from isthmus.sim.style import STYLE
from isthmus.sim.summary import PoolFigures, Summary, show_times
from isthmus.sim.topology import Host

ROWS_MAX: Final = 50
"""Rows of a table of events; the rest is counted."""
AVERAGES_MAX: Final = 120
"""Points of a line of averages."""
TURNS_MAX: Final = 400
"""Turns of one fault that its row in the timeline shows apart."""


def render_report(summary: Summary) -> str:
    """The page.

    Args:
        summary: Of a recording, which may be empty or interrupted.
    """
    recording = summary.recording
    spans = _spans(recording)
    sections = (
        _head(summary),
        _timeline(recording, spans),
        _verdicts(summary),
        _members(recording, spans),
        _detection(summary),
        _false_positives(recording),
        _rates(summary, spans),
        _gateways(summary, spans),
        _convergence(summary, spans),
        _notes(recording),
        _built(recording.scenario),
        _replay(recording.scenario),
    )
    body = "\n".join("\n".join(section) for section in sections)
    title = f"{escape(recording.scenario.name)} · isthmus sim"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _spans(recording: Recording) -> list[Span]:
    """The faults that began before the run was over."""
    scenario, ended_at = recording.scenario, recording.ended_at
    spans = list[Span]()
    for number, fault in enumerate(scenario.faults, 1):
        if isinstance(fault, HostFault):
            turns = [(at, until) for at, until, _ in fault.turns(scenario.topology)]
            moment = fault.verb in {"restart", "move", "leave"}
        else:
            turns, moment = [(fault.at, fault.until)], False
        shown = [
            (at, min(ended_at, at if moment and until is None else until or ended_at))
            for at, until in turns
            if at < ended_at
        ]
        if len(shown) > TURNS_MAX:
            shown = [(min(at for at, _ in shown), max(until for _, until in shown))]
        if shown:
            spans.append(Span(number, str(fault), shown))
    return spans


# Sections


def _head(summary: Summary) -> Iterator[str]:
    recording = summary.recording
    scenario, topology = recording.scenario, recording.scenario.topology
    yield f"<header>\n<h1>{escape(scenario.name)}</h1>"
    yield (
        f'<p class="about">{topology.datacenters} datacenters × {topology.servers} servers, '
        f"{_plural(topology.gateways, 'gateway')} each; "
        f"{format_seconds(round(recording.ended_at, 3))} of virtual time; seed {scenario.seed}</p>"
    )
    if scenario.about:
        yield f"<p>{escape(scenario.about)}</p>"
    if recording.interrupted:
        text = f"stopped before its end at {format_seconds(scenario.ends_at)}"
        yield f'<p class="bad">This run was {text}; what follows is what was measured so far.</p>'
    failed = sum(not verdict.held for verdict in summary.verdicts)
    if failed:
        yield f'<p class="verdict bad">✗ {failed} of {len(summary.verdicts)} did not hold</p>'
    elif summary.verdicts:
        yield f'<p class="verdict good">✓ all {len(summary.verdicts)} held</p>'
    yield '<ul class="tiles">'
    for figure, label in _tiles(summary):
        yield f"<li><b>{escape(figure)}</b><span>{escape(label)}</span></li>"
    yield "</ul>\n</header>"


def _tiles(summary: Summary) -> Iterator[tuple[str, str]]:
    for pool, name in ((summary.lan, "LAN"), (summary.wan, "WAN")):
        if pool.detection.count:
            yield _seconds(pool.detection.median), f"{name} detection, median"
    yield str(summary.lan.false_positives + summary.wan.false_positives), "false positives"
    yield show_bytes(summary.lan.rate) + "/s", "LAN traffic of a server"
    yield show_bytes(summary.wan.rate) + "/s", "WAN traffic of a server"
    yield f"{summary.connections:.0f}", "connections of a gateway"
    if summary.convergence.count:
        longest = summary.convergence.longest
        yield _seconds(longest), "until all have a new federation state, longest"


def _timeline(recording: Recording, spans: Sequence[Span]) -> Iterator[str]:
    yield _heading("faults", "Faults")
    if not spans:
        yield _empty("Nothing goes wrong in this run.")
        return
    about = "; ".join(f"{span.number}: {span.text}" for span in spans)
    plot = draw_timeline(
        "faults-plot", "Timeline of the faults", about, spans, x_max=_end(recording)
    )
    yield _plot(plot, "When what goes wrong. The plots below shade the same times.")


def _verdicts(summary: Summary) -> Iterator[str]:
    yield _heading("verdicts", "What had to hold")
    if not summary.verdicts:
        yield _empty("Nothing was checked.")
        return
    yield from _table(
        ("verdict", "what", "found"),
        (
            (_sign(verdict.held), f"{verdict.name}: {verdict.about}", verdict.found)
            for verdict in summary.verdicts
        ),
        caption="Invariants, and what the scenario expects",
    )
    violations = summary.recording.violations
    if violations:
        yield from _table(
            ("at", "invariant", "what"),
            ((_moment(one.at), one.invariant, one.text) for one in violations[:ROWS_MAX]),
            caption=f"Violations{_cut(len(violations))}",
            figures={0},
        )


def _members(recording: Recording, spans: Sequence[Span]) -> Iterator[str]:
    yield _heading("members", "Members known")
    if not recording.samples:
        yield _empty("Nothing was sampled.")
        return
    topology = recording.scenario.topology
    everyone = topology.datacenters * topology.servers
    plot = draw_lines(
        "members-plot",
        "WAN members that servers take to be alive, over time",
        _range(recording.samples, lambda sample: sample.known, "{:.0f}".format),
        [_line("a server", 1, recording.samples, lambda sample: sample.known)],
        x_max=_end(recording),
        show="{:.0f}".format,
        spans=spans,
        y_max=everyone,
        marks=[Mark(everyone, f"{everyone} servers")],
    )
    yield _plot(
        plot,
        "How many servers of all datacenters a server takes to be alive: line, the median server; "
        "band, from the one that knows fewest to the one that knows most.",
    )
    yield _values(recording.samples, (("known", lambda sample: sample.known),), "{:.0f}".format)


def _detection(summary: Summary) -> Iterator[str]:
    yield _heading("detection", "Detection")
    recording = summary.recording
    if not recording.detections:
        yield _empty("No host was lost long enough to be declared dead.")
    for pool, name, colour in ((LAN, "LAN", 1), (WAN, "WAN", 2)):
        values = [one.seconds for one in recording.detections if one.pool == pool]
        if not values:
            continue
        expected = (summary.lan if pool == LAN else summary.wan).expected
        marks = [Mark(expected.suspected, "SWIM: first suspicion")]
        if expected.dead_min == expected.dead_max:
            marks.append(Mark(expected.dead_min, "Lifeguard: dead, mean"))
        else:
            marks.append(Mark(expected.dead_min, "Lifeguard: dead if confirmed, mean"))
            marks.append(Mark(expected.dead_max, "Lifeguard: dead if not confirmed"))
        victims = len({one.victim for one in recording.detections if one.pool == pool})
        counted = f"{_plural(victims, 'lost host')}, {_plural(len(values), 'observation')}"
        plot = draw_histogram(
            f"detection-{pool}",
            f"Detection times in the {name}",
            f"{counted}; from {min(values):.1f} s to {max(values):.1f} s",
            values,
            colour=colour,
            marks=marks,
        )
        yield _plot(plot, f"{name}: from a host's end to an observer's verdict; {counted}.")
    yield from _table(
        ("figure", "LAN", "WAN"),
        ((title, of(summary.lan), of(summary.wan)) for title, of in _DETECTION),
        caption="Measured, and what the formulas say of pools of this size",
        figures={1, 2},
    )
    yield (
        '<p class="note">SWIM §3.1: the mean time until the first member finds out, in whole '
        "periods; a refused packet says so earlier. Lifeguard: its suspicion timer at its shortest "
        "(enough members confirm) and at its longest (nobody does), added to that. Until the news "
        "is everywhere some rounds of gossip pass.</p>"
    )


_DETECTION: Final[tuple[tuple[str, Callable[[PoolFigures], str]], ...]] = (
    ("members of a pool", lambda pool: str(pool.members)),
    ("observations", lambda pool: str(pool.detection.count)),
    ("median", lambda pool: show_times(pool.detection, pool.detection.median)),
    ("95 %", lambda pool: show_times(pool.detection, pool.detection.p95)),
    ("longest", lambda pool: show_times(pool.detection, pool.detection.longest)),
    ("SWIM: first suspicion, mean", lambda pool: _seconds(pool.expected.suspected)),
    ("Lifeguard: dead if confirmed, mean", lambda pool: _seconds(pool.expected.dead_min)),
    ("Lifeguard: dead if not confirmed, mean", lambda pool: _seconds(pool.expected.dead_max)),
    ("gossip to all, about", lambda pool: _seconds(pool.expected.spread)),
)


def _false_positives(recording: Recording) -> Iterator[str]:
    events = recording.false_positives
    yield _heading("false-positives", "False positives")
    if not events:
        yield _empty("No member that ran and could be reached was declared dead.")
        return
    mistaken = dict[tuple[str, Host], list[FalsePositive]]()
    for event in events:
        mistaken.setdefault((event.pool, event.victim), []).append(event)
    firsts = [(group[0], len({one.observer for one in group})) for group in mistaken.values()]
    observers = f"{len(events)} times, {_plural(len(firsts), 'member')}"
    yield from _table(
        ("first at", "pool", "declared dead", "first by", "by how many"),
        (
            (_moment(one.at), one.pool.upper(), one.victim.name, one.observer.name, str(count))
            for one, count in firsts[:ROWS_MAX]
        ),
        caption=f"Declared dead although they ran and could be reached: {observers}"
        + (f", the first {ROWS_MAX} shown" if len(firsts) > ROWS_MAX else ""),
        figures={0, 4},
    )


def _rates(summary: Summary, spans: Sequence[Span]) -> Iterator[str]:
    recording = summary.recording
    yield _heading("traffic", "Traffic of a server")
    if not recording.samples:
        yield _empty("Nothing was sampled.")
        return
    lines = [
        _averages("LAN", 1, recording.samples, lambda sample: sample.lan_rate),
        _averages("WAN", 2, recording.samples, lambda sample: sample.wan_rate),
    ]
    plot = draw_lines(
        "traffic-plot",
        "Bytes per second that a server sends into its LAN and into the WAN pool, over time",
        f"LAN: {show_bytes(summary.lan.rate)}/s on average, at most "
        f"{show_bytes(summary.lan.rate_peak)}/s; WAN: {show_bytes(summary.wan.rate)}/s, at most "
        f"{show_bytes(summary.wan.rate_peak)}/s",
        lines,
        x_max=_end(recording),
        show=_rate,
        spans=spans,
    )
    yield _plot(
        plot,
        f"What a server sends, {_averaged(recording.samples)}: line, the mean of all servers; "
        "band, from the one that sends least to the one that sends most. Between two samples: at "
        f"most {_rate(summary.lan.rate_peak)} into the LAN pool, {_rate(summary.wan.rate_peak)} "
        "into the WAN pool.",
        legend=lines,
        shaded=bool(spans),
    )
    yield _values(
        recording.samples,
        (("LAN", lambda sample: sample.lan_rate), ("WAN", lambda sample: sample.wan_rate)),
        _rate,
    )


def _gateways(summary: Summary, spans: Sequence[Span]) -> Iterator[str]:
    recording = summary.recording
    yield _heading("gateways", "Gateways")
    if not recording.samples:
        yield _empty("Nothing was sampled.")
        return
    connections = draw_lines(
        "connections-plot",
        "Connections open at a gateway, over time",
        _range(recording.samples, lambda sample: sample.connections, "{:.0f}".format),
        [_line("a gateway", 3, recording.samples, lambda sample: sample.connections)],
        x_max=_end(recording),
        show="{:.0f}".format,
        spans=spans,
    )
    yield _plot(
        connections,
        "Open connections: line, the median gateway; band, from the fewest to the most.",
    )
    traffic = draw_lines(
        "forwarded-plot",
        "Bytes per second that a gateway forwards, over time",
        _range(recording.samples, lambda sample: sample.gateway_rate, _rate),
        [_averages("a gateway", 3, recording.samples, lambda sample: sample.gateway_rate)],
        x_max=_end(recording),
        show=_rate,
        spans=spans,
    )
    yield _plot(traffic, f"What a gateway forwards, {_averaged(recording.samples)}, likewise.")
    yield _values(
        recording.samples,
        (("connections", lambda sample: sample.connections),),
        "{:.0f}".format,
    )


def _convergence(summary: Summary, spans: Sequence[Span]) -> Iterator[str]:
    recording = summary.recording
    yield _heading("convergence", "Federation states")
    if not recording.samples:
        yield _empty("Nothing was sampled.")
        return
    count = recording.scenario.topology.datacenters

    def share(sample: Sample) -> Spread:
        value = 100 * sample.converged / count
        return Spread.of([value])

    lowest = min(sample.converged for sample in recording.samples)
    plot = draw_lines(
        "convergence-plot",
        "Datacenters that have the newest federation states, over time",
        f"At the end {recording.samples[-1].converged} of {count}; at the least {lowest}",
        [_line("datacenters", 1, recording.samples, share)],
        x_max=_end(recording),
        show="{:.0f} %".format,
        spans=spans,
        y_max=100,
    )
    yield _plot(plot, "Share of the datacenters that have the newest state of every other.")
    if recording.convergences:
        yield from _table(
            ("changed at", "state of", "everywhere after"),
            (
                (
                    _moment(one.changed_at),
                    one.dc,
                    "not before the end" if one.seconds is None else f"{one.seconds:.2f} s",
                )
                for one in recording.convergences[:ROWS_MAX]
            ),
            caption=f"Changes of gateways{_cut(len(recording.convergences))}",
            figures={0, 2},
        )


def _notes(recording: Recording) -> Iterator[str]:
    if recording.notes:
        yield _heading("events", "What happened")
        rows = ((_moment(note.at), note.text) for note in recording.notes[:ROWS_MAX])
        yield f"<details><summary>Events{_cut(len(recording.notes))}</summary>"
        yield from _table(("at", "event"), rows, caption="In order of time", figures={0})
        yield "</details>"
    if recording.counters:
        counters = ((name, _grouped(count)) for name, count in sorted(recording.counters.items()))
        yield "<details><summary>Totals of the run</summary>"
        yield from _table(("what", "how many"), counters, caption="Totals", figures={1})
        yield "</details>"


def _built(scenario: Scenario) -> Iterator[str]:
    topology = scenario.topology
    yield _heading("topology", "What was built")
    rows = [
        ("datacenters", f"{topology.datacenters}: dc1 (primary) to {topology.last}"),
        ("servers", f"{topology.servers} in each datacenter"),
        ("clients", f"{topology.clients} in each datacenter"),
        ("gateways", f"{topology.gateways} in each datacenter"),
        ("start", "warm: all joined" if topology.warm else "cold: every server alone"),
        ("links within", _words(topology.lan, LINK_KEYS)),
        ("links between", _words(topology.wan, LINK_KEYS)),
    ]
    for (source, target), link in list(topology.pairs.items())[:ROWS_MAX]:
        rows.append((f"link {source} → {target}", _words(link, LINK_KEYS)))
    rows += [
        ("LAN gossip", _words(scenario.lan, GOSSIP_KEYS)),
        ("WAN gossip", _words(scenario.wan, GOSSIP_KEYS)),
    ]
    yield from _table(("what", "setting"), rows, caption="Topology and settings")


def _replay(scenario: Scenario) -> Iterator[str]:
    yield _heading("replay", "The same again")
    yield "<p>This command repeats the run exactly:</p>"
    yield f"<pre><code>{escape(replay_command(scenario))}</code></pre>"


# Their parts


def _heading(key: str, text: str) -> str:
    return f'<h2 id="{key}">{escape(text)}</h2>'


def _empty(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _plot(plot: str, caption: str, *, legend: Sequence[Line] = (), shaded: bool = False) -> str:
    entries = [f'<li class="c{line.colour}"><i></i>{escape(line.label)}</li>' for line in legend]
    if shaded:
        entries.append('<li><i class="shade"></i>fault, by its number above</li>')
    keys = f'<ul class="legend">{"".join(entries)}</ul>\n' if entries else ""
    return f"<figure>\n{keys}{plot}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def _line(
    label: str, colour: int, samples: Sequence[Sample], of: Callable[[Sample], Spread]
) -> Line:
    spreads = ((sample.at, of(sample)) for sample in samples)
    return Line(
        label, colour, [Point(at, spread.low, spread.middle, spread.high) for at, spread in spreads]
    )


def _averages(
    label: str, colour: int, samples: Sequence[Sample], of: Callable[[Sample], Spread]
) -> Line:
    """A line of rates: of a few samples each the average, since single seconds are noise."""
    points = list[Point]()
    for group in _groups(samples):
        spreads = [of(sample) for sample in group]
        points.append(
            Point(
                group[-1].at,
                statistics.fmean(spread.low for spread in spreads),
                statistics.fmean(spread.mean for spread in spreads),
                statistics.fmean(spread.high for spread in spreads),
            )
        )
    return Line(label, colour, points)


def _groups(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    size = -(-len(samples) // AVERAGES_MAX)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _averaged(samples: Sequence[Sample]) -> str:
    """Over how long the points of `_averages` are averages."""
    return f"averaged over {format_seconds(round(_groups(samples)[0][-1].at, 1))}"


def _values(
    samples: Sequence[Sample],
    columns: Sequence[tuple[str, Callable[[Sample], Spread]]],
    show: Callable[[float], str],
) -> str:
    """A table of a plot's values, for those who cannot see it."""
    step = max(1, len(samples) // 20)
    heads = ["at"]
    for name, _ in columns:
        heads += [f"{name}, least", "median", "most"]
    rows = []
    for sample in samples[step - 1 :: step]:
        row = [_moment(sample.at)]
        for _, of in columns:
            spread = of(sample)
            row += [show(spread.low), show(spread.middle), show(spread.high)]
        rows.append(row)
    table = "\n".join(_table(heads, rows, caption="Values", figures=set(range(len(heads)))))
    return f"<details><summary>Values of the plot</summary>\n{table}\n</details>"


def _table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    figures: Iterable[int] = (),
) -> Iterator[str]:
    right = set(figures)

    def cell(tag: str, index: int, text: str) -> str:
        kind = ' class="figure"' if index in right else ""
        scope = ' scope="col"' if tag == "th" else ""
        content = text if isinstance(text, _Markup) else escape(text)
        return f"<{tag}{scope}{kind}>{content}</{tag}>"

    yield f'<div class="scroll"><table>\n<caption>{escape(caption)}</caption>'
    yield f"<thead><tr>{''.join(cell('th', *head) for head in enumerate(heads))}</tr></thead>"
    yield "<tbody>"
    for row in rows:
        yield f"<tr>{''.join(cell('td', *value) for value in enumerate(row))}</tr>"
    yield "</tbody>\n</table></div>"


class _Markup(str):
    """Text of ours that is HTML already."""

    __slots__ = ()


def _sign(held: bool) -> str:
    return _Markup('<b class="good">✓ held</b>' if held else '<b class="bad">✗ failed</b>')


def _range(
    samples: Sequence[Sample], of: Callable[[Sample], Spread], show: Callable[[float], str]
) -> str:
    lowest = min(of(sample).low for sample in samples)
    highest = max(of(sample).high for sample in samples)
    return f"Between {show(lowest)} and {show(highest)}; at the end {show(of(samples[-1]).middle)}"


def _end(recording: Recording) -> float:
    """End of the axes of time."""
    return max(recording.ended_at, recording.samples[-1].at if recording.samples else 0.0, 1.0)


def _cut(count: int) -> str:
    return f" ({count})" if count <= ROWS_MAX else f" (the first {ROWS_MAX} of {count})"


def _words(record: object, keys: Sequence[Key]) -> str:
    return ", ".join(
        f"{key.name} {key.kind.show(value)}"
        for key in keys
        if (value := getattr(record, key.field)) != 0
    )


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _moment(at: float) -> str:
    return format_seconds(round(at, 2))


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", "\u202f")


def show_bytes(count: float) -> str:
    """Bytes in a unit that fits: ``296 B``, ``1.5 kB``."""
    value, units = count, ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    digits = 0 if units[0] == "B" or value >= 100 else 1
    text = f"{value:.{digits}f}"
    return f"{text.removesuffix('.0')} {units[0]}"


def _rate(count: float) -> str:
    return f"{show_bytes(count)}/s"
