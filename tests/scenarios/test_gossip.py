"""Gossip scenarios: commands and their exact trace, one story per file."""

from pathlib import Path

import pytest

from support.gossip_scenario import Scenario

SCENARIOS = sorted((Path(__file__).parent / "gossip").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    told = path.read_text()
    happened = Scenario().run(told)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(happened)
    assert happened == path.read_text()
