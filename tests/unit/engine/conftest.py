"""Engines that the conformance tests run against."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isthmus.engine.memory import MemoryEngine, MemoryStorage
from isthmus.store.engine import Engine
from support.etcd import etcd_missing, make_etcd, running_etcd
from support.servers import CLUSTER, make_sqlite

_roots = (f"/test/{number}/" for number in itertools.count())


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real etcd."""
    if reason := etcd_missing():
        pytest.skip(reason)
    with running_etcd(tmp_path_factory.mktemp("etcd")) as endpoint:
        yield endpoint


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Engine]:
    """A closed engine; called again, one over the same data."""
    if request.param == "memory":
        storage = MemoryStorage(cluster=CLUSTER)
        return lambda: MemoryEngine(storage=storage)
    if request.param == "sqlite":
        return lambda: make_sqlite(tmp_path)
    endpoint, root = request.getfixturevalue("etcd"), next(_roots)
    return lambda: make_etcd(endpoint, root)


@pytest.fixture(params=["memory", "etcd"])
def join(request: pytest.FixtureRequest) -> Callable[[], Engine]:
    """Engines of several servers over the same data, none open yet."""
    if request.param == "memory":
        storage = MemoryStorage(cluster=CLUSTER)
        return lambda: MemoryEngine(storage=storage)
    endpoint, root = request.getfixturevalue("etcd"), next(_roots)
    return lambda: make_etcd(endpoint, root)
