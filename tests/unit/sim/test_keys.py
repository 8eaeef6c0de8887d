"""The keys of a scenario: each is documented, sets a field, and survives the way through text."""

from pathlib import Path

import pytest

from isthmus.gossip.config import GossipConfig
from isthmus.sim.keys import (
    EXPECT_KEYS,
    GOSSIP_KEYS,
    LINK_KEYS,
    SCENARIO_KEYS,
    TOPOLOGY_KEYS,
    Key,
    meant,
    read_keys,
    read_words,
    reference,
    show_words,
)
from isthmus.sim.language import VERBS
from isthmus.sim.network import LinkModel
from isthmus.sim.scenario import Expect, Scenario
from isthmus.sim.topology import Topology

PAGE = Path(__file__).parents[3] / "docs" / "simulator.md"
RECORDS = (
    (SCENARIO_KEYS, Scenario()),
    (TOPOLOGY_KEYS, Topology()),
    (LINK_KEYS, LinkModel.wan()),
    (GOSSIP_KEYS, GossipConfig.wan()),
    (EXPECT_KEYS, Expect(detection=9.0, converged_within=8.0, members_within=7.0)),
)


def test_the_page_has_the_reference_of_today() -> None:
    """Otherwise: python -m isthmus.sim.keys, and put it between the page's marks."""
    text = PAGE.read_text()
    start = text.index("<!-- keys: made by `python -m isthmus.sim.keys` -->\n")
    body = text[start : text.index("<!-- end of keys -->")].partition("\n")[2]
    assert body.strip() == "\n".join(reference()).strip()


def test_the_page_names_every_fault() -> None:
    text = PAGE.read_text()
    assert all(f"`{verb} " in text for verb in VERBS)


@pytest.mark.parametrize(
    ("key", "record"),
    [(key, record) for keys, record in RECORDS for key in keys],
    ids=lambda value: value.name if isinstance(value, Key) else "",
)
def test_value_survives_the_way_through_text(key: Key, record: object) -> None:
    value = getattr(record, key.field)
    if value is not None:
        assert key.kind.read(key.kind.show(value)) == value


def test_only_what_differs_is_shown() -> None:
    link = LinkModel(median=0.08, spread=0.1, loss=0.015, bandwidth=10**6)
    words = show_words(link, LinkModel.wan(), LINK_KEYS)
    assert words == "latency=80ms loss=1.5% bandwidth=1MB/s"
    values, mistakes = read_keys(read_words(words), LINK_KEYS, source="")
    assert mistakes == []
    assert values == {"median": 0.08, "loss": 0.015, "bandwidth": 10**6}


def test_unknown_key_comes_with_a_hint() -> None:
    _, mistakes = read_keys({"los": "1%"}, LINK_KEYS, source="x.toml", section="wan")
    assert [str(mistake) for mistake in mistakes] == [
        "x.toml: wan.los: wan.los: unknown key; did you mean loss?"
    ]
    assert meant("zzz", ["loss", "extra"]) == "known are loss, extra"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("datacenters", value) for value in (0, -1, 2.5, "x", True, "1" * 30)),
        *(("spread", value) for value in ("wide", True, None)),
    ],
)
def test_value_of_the_wrong_kind_is_refused(name: str, value: object) -> None:
    _, mistakes = read_keys({name: value}, (*TOPOLOGY_KEYS, *LINK_KEYS), source="")
    assert len(mistakes) == 1
