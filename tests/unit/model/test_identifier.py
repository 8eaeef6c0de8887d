"""Ids that are UUIDs."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.identifier import is_uuid, uuid_fault


@given(st.uuids())
def test_uuid_has_no_fault(found: uuid.UUID) -> None:
    for text in (str(found), str(found).upper()):
        assert is_uuid(text)
        assert uuid_fault(text) == ""


@given(st.text(max_size=40))
def test_what_is_a_uuid_has_no_fault(text: str) -> None:
    assert not (is_uuid(text) and uuid_fault(text))


@pytest.mark.parametrize(
    "text", ["", "a" * 36, "{a0000000-0000-0000-0000-000000000001}", "g0000000-0000-0000-0000-" * 2]
)
def test_other_texts_are_none(text: str) -> None:
    assert not is_uuid(text)
