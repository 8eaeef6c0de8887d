"""What all unit tests share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _log_is_left_as_it_was() -> Iterator[None]:
    """An agent, or what tests its log, changes the levels of the root logger and its handlers.

    Those of pytest itself are among them, and the same for all tests.
    """
    root = logging.getLogger()
    level, handlers = root.level, [(handler, handler.level) for handler in root.handlers]
    yield
    root.setLevel(level)
    for handler, handler_level in handlers:
        handler.setLevel(handler_level)
