from dataclasses import replace

import pytest

from isthmus.gossip.config import GossipConfig


def test_presets_are_consuls() -> None:
    """protocol/gossip.md §12, columns Consul LAN and Consul WAN."""
    lan, wan = GossipConfig.lan(), GossipConfig.wan()
    assert (lan.probe_interval, lan.probe_timeout, lan.indirect_checks) == (1.0, 0.5, 3)
    assert (wan.probe_interval, wan.probe_timeout, wan.indirect_checks) == (5.0, 3.0, 3)
    assert (lan.suspicion_mult, wan.suspicion_mult) == (4, 6)
    assert (lan.gossip_interval, wan.gossip_interval) == (0.2, 0.5)
    assert (lan.gossip_nodes, wan.gossip_nodes) == (3, 3)
    assert (lan.push_pull_interval, wan.push_pull_interval) == (30.0, 60.0)
    assert (lan.stream_timeout, wan.stream_timeout) == (10.0, 30.0)
    assert lan.dead_node_reclaim_time == wan.dead_node_reclaim_time == 30.0
    assert lan.reconnect_timeout == 72 * 3600
    assert lan.tombstone_timeout == 24 * 3600


def test_development_mode_is_fast() -> None:
    dev = GossipConfig.wan().dev()
    assert (dev.gossip_interval, dev.probe_interval, dev.probe_timeout) == (0.1, 0.1, 0.1)
    assert dev.suspicion_mult == 3
    assert dev.push_pull_interval == 60.0


def test_impossible_relations_are_refused() -> None:
    with pytest.raises(AssertionError):
        replace(GossipConfig.lan(), probe_timeout=2.0)
