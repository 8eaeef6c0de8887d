"""What all unit tests share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _log_level_is_left_as_it_was() -> Iterator[None]:
    """An agent, or what tests its log, changes the level of all loggers."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
