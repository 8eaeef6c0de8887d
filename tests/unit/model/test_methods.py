"""The table of methods against the captured messages."""

import pytest

from isthmus.model.methods import METHODS
from isthmus.model.record import Record
from support.rpc_vectors import BODIES, load


@pytest.mark.parametrize("name", sorted(BODIES))
def test_captured_bodies_have_the_types_of_the_table(name: str) -> None:
    method = METHODS.get(load(name).header["ServiceMethod"])
    if method is None:
        return  # A later method: the vector is only decoded.
    declared = method.request if name.endswith("request") else method.reply
    assert declared == BODIES[name]


@pytest.mark.parametrize("name", METHODS)
def test_requests_are_records_and_writes_carry_a_token(name: str) -> None:
    method = METHODS[name]
    assert issubclass(method.request, Record)
    if not method.read:
        assert "token" in method.request.__struct_fields__


def test_only_what_any_server_answers_is_local() -> None:
    assert {name for name, method in METHODS.items() if method.local} == {
        "Status.Ping",
        "Catalog.ListDatacenters",
        "Coordinate.ListDatacenters",
        "Status.RaftStats",
        "Isthmus.Storage",
    }
