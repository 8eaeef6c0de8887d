"""Changing fields of records within records."""

from dataclasses import replace

import pytest

from isthmus.config.model import AgentConfig, LimitConfig, LogConfig
from isthmus.config.records import placed


def test_fields_are_changed_by_their_paths_and_the_rest_stays() -> None:
    old = AgentConfig(node_name="a", limits=LimitConfig(rpc_rate=5.0))
    found = placed(old, {"node_name": "b", "limits.rpc_max_burst": 7, "log.level": "WARN"})
    assert found == replace(
        old,
        node_name="b",
        limits=LimitConfig(rpc_rate=5.0, rpc_max_burst=7),
        log=LogConfig(level="WARN"),
    )
    assert old.node_name == "a"


def test_nothing_to_change_is_an_equal_record() -> None:
    assert placed(AgentConfig(), {}) == AgentConfig()


def test_unknown_field_is_our_mistake() -> None:
    with pytest.raises(TypeError):
        placed(AgentConfig(), {"nonsense": 1})
