"""Scenarios as files: every key arrives, every mistake is listed, the shipped ones are good."""

from pathlib import Path

import pytest

from isthmus.errors import ConfigError
from isthmus.gossip.config import GossipConfig
from isthmus.sim.faults import Crash, Hosts, Links, Loss, Partition
from isthmus.sim.files import (
    FILE_SIZE_MAX,
    expect_of,
    gossip_of,
    link_of,
    load_scenario,
    pair_of,
    parse_scenario,
)
from isthmus.sim.network import LinkModel, Shape
from isthmus.sim.scenario import Expect, Scenario
from isthmus.sim.topology import Role, Topology

EXAMPLES = Path(__file__).parents[3] / "examples" / "sim"

WHOLE = """
name = "all keys"
about = "first line,\\n  second line"
seed = 9
duration = "10m"
settle = "90s"
faults = ["crash server 1 of dc2 at 1m"]

[topology]
datacenters = 4
servers = 5
clients = 2
gateways = 1
start = "cold"

[lan]
latency = "1ms"
shape = "constant"

[wan]
latency = "80ms"
spread = 0.5
extra = "5ms"
loss = "1%"
duplication = "0.5%"
reordering = "2%"
bandwidth = "10MB/s"

[[link]]
between = "dc1|dc3"
latency = "200ms"

[[link]]
between = "dc1>dc3"
loss = "9%"

[gossip_lan]
probe_interval = "2s"

[gossip_wan]
gossip_interval = "1s"
gossip_nodes = 4
probe_interval = "10s"
probe_timeout = "6s"
suspicion_mult = 8
retransmit_mult = 5

[[fault]]
partition = "dc1|*"
at = "2m"
for = "1m"

[[fault]]
loss = "5% dc2|dc3"

[[fault]]
crash = "every gateway of dc3"
at = "3m"
for = "5s"

[expect]
detection = "2m"
converged_within = "30s"
members_within = "1m"
false_positives = 3
"""


def test_every_key_arrives() -> None:
    wan = LinkModel(
        median=0.08,
        spread=0.5,
        extra=0.005,
        loss=0.01,
        duplication=0.005,
        reordering=0.02,
        bandwidth=10**7,
    )
    lossy = LinkModel(
        median=0.2,
        spread=0.5,
        extra=0.005,
        loss=0.09,
        duplication=0.005,
        reordering=0.02,
        bandwidth=10**7,
    )
    assert parse_scenario(WHOLE, source="x.toml") == Scenario(
        name="all keys",
        about="first line, second line",
        seed=9,
        duration=600.0,
        settle=90.0,
        topology=Topology(
            datacenters=4,
            servers=5,
            clients=2,
            gateways=1,
            warm=False,
            lan=LinkModel(median=0.001, shape=Shape.CONSTANT),
            wan=wan,
            pairs={("dc1", "dc3"): lossy, ("dc3", "dc1"): link_of("latency=200ms", wan)},
        ),
        lan=GossipConfig(probe_interval=2.0),
        wan=gossip_of(
            "gossip_interval=1s gossip_nodes=4 probe_interval=10s probe_timeout=6s "
            "suspicion_mult=8 retransmit_mult=5",
            GossipConfig.wan(),
        ),
        faults=(
            Crash(hosts=Hosts(Role.SERVER, 1, ("dc2",)), at=60.0),
            Partition(links=Links(("dc1",)), at=120.0, duration=60.0),
            Loss(links=Links(("dc2",), ("dc3",)), share=0.05),
            Crash(hosts=Hosts(Role.GATEWAY, None, ("dc3",)), at=180.0, duration=5.0),
        ),
        expect=Expect(
            detection=120.0, converged_within=30.0, members_within=60.0, false_positives=3
        ),
    )


def test_empty_file_is_the_default_federation_named_after_the_file() -> None:
    assert parse_scenario("", source="dir/quiet.toml") == Scenario(name="quiet")


def mistakes_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_scenario(text, source="x.toml")
    return [mistake.text for mistake in caught.value.mistakes]


def test_all_mistakes_are_listed_at_once() -> None:
    text = """
    sed = 3
    duration = 60
    [topology]
    datacentres = 3
    servers = "many"
    start = "hot"
    [wan]
    loss = "100%"
    latency = "0s"
    [gossip_wan]
    probe_timeout = "7s"
    [[fault]]
    partition = "dc1|dc9"
    [[fault]]
    partion = "dc1|dc2"
    [[fault]]
    loss = "5% everywhere"
    crash = "server 1 of dc1"
    [expect]
    false_positives = -1
    """
    found = mistakes_of(text)
    wanted = [
        "sed: unknown key",
        "duration: 60 is not in quotes",
        "topology.datacentres: unknown key",
        "topology.servers: 'many' is no whole number",
        "topology.start: 'hot' is neither warm nor cold",
        "wan.loss: 100% leaves nothing; that is a partition",
        "wan.latency: must be more than 0s",
        "gossip_wan: probe_timeout (7 s) is longer than probe_interval (5 s)",
        "expect.false_positives: -1 is no whole number",
        "[[fault]] 2: unknown key partion",
        "[[fault]] 3: one fault for each table; here is loss and crash",
        "fault 1: there is no dc9; there are dc1 to dc3\n  partition dc1|dc9\n                ^^^",
    ]
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "not TOML"),
        ("topology = 3", "topology: must be a table, [topology]"),
        ("fault = 3", "fault: must be tables, [[fault]]"),
        ("faults = 'crash'", "faults: must be a list of texts"),
        ("[topology]\ndatacenters = 9999", "topology.datacenters: 9999 is not within 1 to 2000"),
        ("[[link]]\nlatency = '1ms'", "link 1.between: here something is missing"),
        ("[[link]]\nbetween = 'within dc1'", "link 1.between: 'within dc1' are not links between"),
        ("[wan]\nshape = 'uniform'\nspread = 2", "wan: spread of 2.0 makes no sense"),
        ("duration = '1m'\nfaults = ['crash server 1 of dc1 at 2m']", "would begin at 2m"),
        ("seed = 99999999999999999999", "seed: 99999999999999999999 is not within"),
    ],
)
def test_mistake_says_what_would_be_right(text: str, says: str) -> None:
    assert any(found.startswith(says) for found in mistakes_of(text))


def test_hint_names_the_key_that_is_meant() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_scenario("[topology]\ndatacentres = 3", source="x.toml")
    assert caught.value.mistakes[0].remedy == "did you mean datacenters?"


def test_unreadable_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_scenario(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_scenario(tmp_path / "latin.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (FILE_SIZE_MAX + 1))
    with pytest.raises(ConfigError, match="longer than"):
        load_scenario(tmp_path / "long.toml")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_scenario_is_good_and_explains_itself(path: Path) -> None:
    scenario = load_scenario(path)
    assert scenario.faults
    assert scenario.about
    assert scenario.expect != Expect()
    assert scenario.ends_at > scenario.healed_at + (scenario.expect.members_within or 0)
    assert path.read_text().startswith("# ")
    assert f"isthmus sim -scenario examples/sim/{path.name}" in path.read_text()


def test_four_scenarios_are_shipped() -> None:
    assert len(list(EXAMPLES.glob("*.toml"))) == 4


def test_words_change_what_they_name_and_nothing_else() -> None:
    assert link_of("loss=2% latency=1ms", LinkModel.wan()) == LinkModel(
        median=0.001, spread=0.1, loss=0.02
    )
    assert link_of("", LinkModel.wan()) == LinkModel.wan()
    assert gossip_of("suspicion_mult=9", GossipConfig.wan()).suspicion_mult == 9
    assert expect_of("detection=9s", Expect(false_positives=1)) == Expect(
        detection=9.0, false_positives=1
    )


def test_links_between_two_datacenters_change_in_the_directions_named() -> None:
    topology = Topology(datacenters=3)
    slow = link_of("latency=200ms", topology.wan)
    assert pair_of("dc1|dc3 latency=200ms", topology, {}) == {
        ("dc1", "dc3"): slow,
        ("dc3", "dc1"): slow,
    }
    assert pair_of("dc1>* latency=200ms", topology, {("dc3", "dc2"): topology.wan}) == {
        ("dc1", "dc2"): slow,
        ("dc1", "dc3"): slow,
        ("dc3", "dc2"): topology.wan,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("loss", "'loss' is not key=value"),
        ("loss=1% loss=2%", "'loss' stands there twice"),
        ("los=1%", "los: unknown key; did you mean loss?"),
        ("loss=1", "loss: '1' is no share; write it as 5% or 0.5%; a share, in %"),
    ],
)
def test_wrong_word_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole text is compared
        link_of(text, LinkModel())
    assert str(caught.value) == says


def test_probe_timeout_beyond_the_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probe_timeout \(3 s\) is longer"):
        gossip_of("probe_interval=1s", GossipConfig.wan())
