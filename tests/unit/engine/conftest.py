"""Engines that the conformance tests run against."""

from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.engine.memory import MemoryEngine
from isthmus.store.engine import Engine
from support.servers import CLUSTER, make_sqlite


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Engine]:
    """A closed engine; called again, one over the same data."""
    if request.param == "memory":
        memory = MemoryEngine(cluster=CLUSTER)
        return lambda: memory
    return lambda: make_sqlite(tmp_path)
