"""The one command that runs a scenario again."""

import shlex

from isthmus.gossip.config import GossipConfig
from isthmus.sim.amounts import format_seconds
from isthmus.sim.keys import EXPECT_KEYS, GOSSIP_KEYS, LINK_KEYS, show_words
from isthmus.sim.network import LinkModel
from isthmus.sim.scenario import Expect, Scenario
from isthmus.sim.topology import Topology


def replay_command(scenario: Scenario) -> str:
    """The command line that repeats this run, seed included."""
    arguments = scenario.arguments
    if arguments is None:
        arguments = tuple(make_arguments(scenario))
    return shlex.join(["isthmus", "sim", *arguments, "-seed", str(scenario.seed)])


def make_arguments(scenario: Scenario) -> list[str]:
    """The flags that say what differs from the defaults, without the seed."""
    topology, plain = scenario.topology, Topology()
    arguments = [
        "-datacenters",
        str(topology.datacenters),
        "-servers",
        str(topology.servers),
    ]
    for name in ("clients", "gateways"):
        if (count := getattr(topology, name)) != getattr(plain, name):
            arguments += [f"-{name}", str(count)]
    if not topology.warm:
        arguments.append("-cold")
    for flag, words in (
        ("-lan", show_words(topology.lan, LinkModel.lan(), LINK_KEYS)),
        ("-wan", show_words(topology.wan, LinkModel.wan(), LINK_KEYS)),
        ("-gossip-lan", show_words(scenario.lan, GossipConfig.lan(), GOSSIP_KEYS)),
        ("-gossip-wan", show_words(scenario.wan, GossipConfig.wan(), GOSSIP_KEYS)),
        ("-expect", show_words(scenario.expect, Expect(), EXPECT_KEYS)),
    ):
        arguments += [flag, words] if words else []
    arguments += _links(topology)
    for fault in scenario.faults:
        arguments += ["-fault", str(fault)]
    if scenario.duration is not None:
        arguments += ["-duration", format_seconds(scenario.duration)]
    if scenario.settle is not None:
        arguments += ["-settle", format_seconds(scenario.settle)]
    return arguments


def _links(topology: Topology) -> list[str]:
    """A flag for each link that differs; one for both ways when they are alike."""
    arguments = list[str]()
    for (source, target), link in topology.pairs.items():
        back = topology.pairs.get((target, source))
        alike = back == link
        if alike and (topology.number_of(source) or 0) > (topology.number_of(target) or 0):
            continue
        words = show_words(link, topology.wan, LINK_KEYS)
        if words:
            arguments += ["-link", f"{source}{'|' if alike else '>'}{target} {words}"]
    return arguments
