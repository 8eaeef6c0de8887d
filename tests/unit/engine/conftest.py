"""Engines that the conformance tests run against."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from isthmus.engine.memory import MemoryEngine
from isthmus.engine.sqlite import SqliteEngine
from isthmus.store.engine import Engine

CLUSTER = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Engine]:
    """A closed engine; called again, one over the same data."""
    if request.param == "memory":
        memory = MemoryEngine(cluster=CLUSTER)
        return lambda: memory
    return lambda: make_sqlite(tmp_path)


def make_sqlite(
    directory: Path, *, datacenter: str = "dc1", cluster: str = CLUSTER
) -> SqliteEngine:
    return SqliteEngine(
        directory,
        datacenter=datacenter,
        cluster=cluster,
        wall=lambda: datetime(2026, 1, 2, tzinfo=UTC),
    )
