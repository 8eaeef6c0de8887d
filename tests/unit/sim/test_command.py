"""The command that repeats a run says all that differs from the defaults."""

import shlex
from dataclasses import replace

from isthmus.cli.flags import parse_flags
from isthmus.cli.sim import FLAGS, scenario_of
from isthmus.sim.command import make_arguments, replay_command
from isthmus.sim.files import gossip_of, link_of, parse_scenario
from isthmus.sim.scenario import Scenario
from support.recordings import make_scenario
from unit.sim.test_files import WHOLE


def again(scenario: Scenario) -> Scenario:
    """What the replay command makes of itself."""
    words = shlex.split(replay_command(scenario))
    assert words[:2] == ["isthmus", "sim"]
    return scenario_of(parse_flags(words[2:], FLAGS, {}))


def test_plain_federation_needs_few_words() -> None:
    assert (
        replay_command(make_scenario("partition dc1|dc2 for 60s"))
        == "isthmus sim -datacenters 3 -servers 3 -fault 'partition dc1|dc2 at 10s for 1m' -seed 7"
    )


def test_command_makes_the_same_scenario() -> None:
    scenario = parse_scenario(WHOLE, source="x.toml")
    repeated = again(scenario)
    # Titles do not change what a run does, so no flag has them.
    assert replace(repeated, name=scenario.name, about=scenario.about, arguments=None) == scenario


def test_command_of_a_command_line_is_that_command_line() -> None:
    scenario = replace(Scenario(), arguments=("-scenario", "a b.toml"), seed=3)
    assert replay_command(scenario) == "isthmus sim -scenario 'a b.toml' -seed 3"


def test_links_alike_both_ways_are_one_word() -> None:
    scenario = Scenario()
    slow = link_of("latency=200ms", scenario.topology.wan)
    pairs = {("dc1", "dc3"): slow, ("dc3", "dc1"): slow, ("dc2", "dc1"): slow}
    scenario = replace(
        scenario,
        topology=replace(scenario.topology, pairs=pairs),
        wan=gossip_of("probe_interval=10s", scenario.wan),
    )
    assert make_arguments(scenario) == [
        *("-datacenters", "3", "-servers", "3"),
        *("-gossip-wan", "probe_interval=10s"),
        *("-link", "dc1|dc3 latency=200ms"),
        *("-link", "dc2>dc1 latency=200ms"),
    ]
