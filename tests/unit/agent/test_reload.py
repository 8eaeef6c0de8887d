"""A new configuration: every part takes it, or none does."""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from isthmus.agent.reload import Reloading
from isthmus.config.model import AgentConfig, LimitConfig, LogConfig
from isthmus.errors import ConfigError, Mistake, RequestError

HELD = AgentConfig(node_name="n1")
FRESH = replace(HELD, log=LogConfig(level="DEBUG"), limits=LimitConfig(rpc_rate=5.0))


class Part:
    """Writes down what it is given; refuses a level of the log."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.levels: list[str] = []

    def __call__(self, config: AgentConfig) -> None:
        if config.log.level == self.refused:
            raise ValueError("not at that level")
        self.levels.append(config.log.level)


def reloading(read: Callable[[], AgentConfig], *parts: Part) -> Reloading:
    made = Reloading()
    made.read = read
    for part in parts:
        made.add(part)
    return made


def test_everybody_takes_the_new_configuration() -> None:
    first, second = Part(), Part()
    held = reloading(lambda: FRESH, first, second).run(HELD)
    assert (held.log, held.limits.rpc_rate) == (FRESH.log, 5.0)
    assert first.levels == second.levels == ["DEBUG"]


def test_part_that_refuses_leaves_everybody_with_the_old_one() -> None:
    first, second, third = Part(), Part("DEBUG"), Part()
    with pytest.raises(RequestError, match="the old configuration stays: not at that level"):
        reloading(lambda: FRESH, first, second, third).run(HELD)
    assert (first.levels, second.levels, third.levels) == (["DEBUG", "INFO"], [], [])


def test_configuration_that_is_wrong_reaches_nobody() -> None:
    def read() -> AgentConfig:
        raise ConfigError([Mistake("a.hcl", "log_level", "no such level")])

    part = Part()
    with pytest.raises(RequestError, match=r"a\.hcl: log_level: no such level"):
        reloading(read, part).run(HELD)
    assert part.levels == []


def test_what_needs_a_restart_is_said_and_left(caplog: pytest.LogCaptureFixture) -> None:
    fresh = replace(FRESH, limits=LimitConfig(rpc_rate=5.0, kv_max_value_size=7))
    with caplog.at_level(logging.WARNING):
        held = reloading(lambda: fresh).run(HELD)
    assert held.limits == FRESH.limits
    assert "needs a restart to take effect: limits.kv_max_value_size" in caplog.text


def test_agent_without_files_says_so() -> None:
    with pytest.raises(RequestError, match="without files"):
        Reloading().run(HELD)
