"""Config entries by kind."""

import pytest

from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    MESH_NAME,
    ConfigEntryListAllRequest,
    MeshConfigEntry,
)
from isthmus.wire import msgpack
from support.rpc_vectors import load


def test_kinds_stand_in_the_order_in_which_consul_asks_for_them() -> None:
    vector = load("configentry-listall-request")
    request = msgpack.decode(ConfigEntryListAllRequest, vector.body)
    assert request.kinds == tuple(CONFIG_ENTRY_TYPES)


@pytest.mark.parametrize("kind", CONFIG_ENTRY_TYPES)
def test_entry_knows_its_kind(kind: str) -> None:
    assert CONFIG_ENTRY_TYPES[kind]().kind == kind


def test_the_one_mesh_entry_has_a_name_to_be_found_by() -> None:
    assert MeshConfigEntry().name == MESH_NAME
