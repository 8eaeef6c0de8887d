"""The keys of a scenario: of its TOML file, and of the flags that take ``key=value``.

The reference in ``docs/simulator.md`` is made from these tables (`reference`).
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from isthmus.errors import Mistake
from isthmus.gossip.config import GossipConfig
from isthmus.sim.amounts import (
    format_rate,
    format_seconds,
    format_share,
    parse_rate,
    parse_seconds,
    parse_share,
)
from isthmus.sim.network import LinkModel, Shape
from isthmus.sim.scenario import Expect, Scenario
from isthmus.sim.topology import Topology


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value is written.

    Attributes:
        name: What it is, and in which unit.
        read: From TOML's value, or the text behind ``=``; raises ValueError.
        show: Back to text.
    """

    name: str
    read: Callable[[object], Any]
    show: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    Attributes:
        name: As written.
        kind: How its value is written.
        field: Of the record it sets.
        about: What it does, one line.
    """

    name: str
    kind: Kind
    field: str
    about: str


def _text_with(parse: Callable[[str], Any]) -> Callable[[object], Any]:
    def read(value: object) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not in quotes")
        return parse(value)

    return read


def _positive_seconds(value: object) -> float:
    seconds: float = _text_with(parse_seconds)(value)
    if seconds == 0:
        raise ValueError("must be more than 0s")
    return seconds


def _share(value: object) -> float:
    share: float = _text_with(parse_share)(value)
    if share == 1:
        raise ValueError("100% leaves nothing; that is a partition")
    return share


def _count(value: object) -> int:
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _positive_count(value: object) -> int:
    count = _count(value)
    if count == 0:
        raise ValueError("must be at least 1")
    return count


def _number(value: object) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
    except ValueError:
        pass
    raise ValueError(f"{value!r} is no number")


def _plain(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return " ".join(value.split())


def _shape(value: object) -> Shape:
    if not isinstance(value, str) or value not in tuple(Shape):
        raise ValueError(f"{value!r} is none of {', '.join(Shape)}")
    return Shape(value)


def _start(value: object) -> bool:
    if value not in {"warm", "cold"}:
        raise ValueError(f"{value!r} is neither warm nor cold")
    return value == "warm"


_TIME: Final = Kind("duration", _text_with(parse_seconds), format_seconds)
_PERIOD: Final = Kind("duration, more than 0s", _positive_seconds, format_seconds)
_SHARE: Final = Kind("share, in %", _share, format_share)
_RATE: Final = Kind("rate, in B/s, kB/s or MB/s; 0: no limit", _text_with(parse_rate), format_rate)
_COUNT: Final = Kind("count", _count, str)
_POSITIVE: Final = Kind("count, at least 1", _positive_count, str)
_NUMBER: Final = Kind("number", _number, "{:g}".format)
_TEXT: Final = Kind("text", _plain, str)

SCENARIO_KEYS: Final = (
    Key("name", _TEXT, "name", "Title of the report. Default in a file: the file's name."),
    Key("about", _TEXT, "about", "What it shows, in a few sentences."),
    Key("seed", _COUNT, "seed", "Seed of every random choice; `-seed` has precedence."),
    Key(
        "duration",
        _PERIOD,
        "duration",
        "Virtual time the run lasts. Default: until the last fault has had time to heal.",
    ),
    Key(
        "settle",
        _PERIOD,
        "settle",
        "All must be well again so long after the last fault. Default: by the WAN pool's size.",
    ),
)
TOPOLOGY_KEYS: Final = (
    Key("datacenters", _POSITIVE, "datacenters", "`dc1`, the primary, to `dcN`."),
    Key("servers", _POSITIVE, "servers", "Servers of each datacenter."),
    Key("clients", _COUNT, "clients", "Client agents of each datacenter, in its LAN pool."),
    Key("gateways", _POSITIVE, "gateways", "Mesh gateways of each datacenter."),
    Key(
        "start",
        Kind("`warm` or `cold`", _start, lambda warm: "warm" if warm else "cold"),
        "warm",
        "Warm: all pools are joined, all federation states known. Cold: all servers start alone.",
    ),
)
LINK_KEYS: Final = (
    Key("latency", _PERIOD, "median", "Median, one way."),
    Key("shape", Kind("`constant`, `uniform` or `lognormal`", _shape, str), "shape", "Of latency."),
    Key(
        "spread",
        _NUMBER,
        "spread",
        "Uniform: half the width as a share of the median. Lognormal: sigma of the logarithm.",
    ),
    Key("extra", _TIME, "extra", "Added to every latency."),
    Key("loss", _SHARE, "loss", "Packets lost; streams send them again, later."),
    Key("duplication", _SHARE, "duplication", "Packets that arrive twice."),
    Key("reordering", _SHARE, "reordering", "Packets that others overtake."),
    Key("bandwidth", _RATE, "bandwidth", "What exceeds it queues, then is dropped."),
)
GOSSIP_KEYS: Final = (
    Key("gossip_interval", _PERIOD, "gossip_interval", "Between two rounds of gossip."),
    Key("gossip_nodes", _POSITIVE, "gossip_nodes", "Members told in one round."),
    Key("probe_interval", _PERIOD, "probe_interval", "Between two probes."),
    Key("probe_timeout", _PERIOD, "probe_timeout", "Wait for an answer before helpers are asked."),
    Key("suspicion_mult", _POSITIVE, "suspicion_mult", "Patience with suspects."),
    Key("retransmit_mult", _POSITIVE, "retransmit_mult", "How often rumours are repeated."),
)
"""What Consul lets operators set, under the same names; both pools have them."""
EXPECT_KEYS: Final = (
    Key("detection", _PERIOD, "detection", "From a host's end until the last observer says so."),
    Key(
        "converged_within",
        _PERIOD,
        "converged_within",
        "From a change of gateways, or the last fault's end if later, until all datacenters know.",
    ),
    Key(
        "members_within",
        _PERIOD,
        "members_within",
        "From the last fault's end until all servers know all members.",
    ),
    Key(
        "false_positives",
        _COUNT,
        "false_positives",
        "Most declarations of death about members that lived and could be reached.",
    ),
)


def read_keys(
    given: Mapping[str, object],
    keys: Sequence[Key],
    *,
    source: str,
    section: str = "",
    also: Sequence[str] = (),
) -> tuple[dict[str, Any], list[Mistake]]:
    """Read values by their keys.

    Args:
        given: By key.
        keys: Those that are known.
        source: File or flag, for mistakes.
        section: Its table in the file; empty for the top.
        also: Words that are known there besides, for hints.

    Returns:
        Values by field, and every mistake.
    """
    known = {key.name: key for key in keys}
    values, mistakes = dict[str, Any](), list[Mistake]()
    for name, value in given.items():
        place = f"{section}.{name}" if section else name
        key = known.get(name)
        if key is None:
            mistakes.append(
                Mistake(source, place, f"{place}: unknown key", meant(name, (*known, *also)))
            )
            continue
        try:
            values[key.field] = key.kind.read(value)
        except ValueError as error:
            mistakes.append(Mistake(source, place, f"{place}: {error}", f"a {key.kind.name}"))
    return values, mistakes


def read_words(text: str) -> dict[str, str]:
    """Take ``key=value`` words apart.

    Raises:
        ValueError: A word has no ``=``, or a key stands there twice.
    """
    given = dict[str, str]()
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not key=value")
        if name in given:
            raise ValueError(f"{name!r} stands there twice")
        given[name] = value
    return given


def show_words(record: object, default: object, keys: Sequence[Key]) -> str:
    """What differs from `default`, as ``key=value`` words."""
    return " ".join(
        f"{key.name}={key.kind.show(getattr(record, key.field))}"
        for key in keys
        if getattr(record, key.field) != getattr(default, key.field)
    )


def meant(name: str, known: Iterable[str]) -> str:
    """A hint: the known word that is meant, or all that are known."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"


def reference() -> Iterator[str]:
    """The tables of all keys, as lines of Markdown."""
    sections: tuple[tuple[str, Sequence[Key], object], ...] = (
        ("At the top", SCENARIO_KEYS, Scenario()),
        ("`[topology]`", TOPOLOGY_KEYS, Topology()),
        ("`[lan]`", LINK_KEYS, LinkModel.lan()),
        ('`[wan]`; `[[link]]` with `between = "dc1|dc2"`', LINK_KEYS, LinkModel.wan()),
        ("`[gossip_lan]`", GOSSIP_KEYS, GossipConfig.lan()),
        ("`[gossip_wan]`", GOSSIP_KEYS, GossipConfig.wan()),
        ("`[expect]`", EXPECT_KEYS, Expect()),
    )
    for title, keys, defaults in sections:
        yield f"**{title}**\n"
        yield "| key | value | default | what |"
        yield "|---|---|---|---|"
        for key in keys:
            value = getattr(defaults, key.field)
            shown = f"`{key.kind.show(value)}`" if value not in {None, ""} else ""
            yield f"| `{key.name}` | {key.kind.name} | {shown} | {key.about} |"
        yield ""


if __name__ == "__main__":
    print("\n".join(reference()))
