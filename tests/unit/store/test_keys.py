"""Keys of the stored form."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.store import keys

NAMES = st.text(alphabet=st.sampled_from("ab\x00\x01é/"), max_size=5)


@given(ours=st.tuples(NAMES, NAMES), theirs=st.tuples(NAMES, NAMES))
def test_owned_keys_are_told_apart_and_lie_in_their_owners_range(
    ours: tuple[str, str], theirs: tuple[str, str]
) -> None:
    mine = keys.owned(*map(keys.component, ours))
    other = keys.owned(*map(keys.component, theirs))
    assert (mine == other) == (ours == theirs)
    range_of_mine = keys.owned(keys.component(ours[0]), b"")
    assert mine.startswith(range_of_mine)
    if ours[0] != theirs[0]:
        assert not other.startswith(range_of_mine)


@given(prefix=st.binary(max_size=4), key=st.binary(max_size=6))
def test_prefix_ends_before_the_first_key_without_it(prefix: bytes, key: bytes) -> None:
    end = keys.prefix_end(prefix)
    inside = key >= prefix and (end is None or key < end)
    assert inside == key.startswith(prefix)


def test_names_of_nodes_are_folded_and_keys_are_not() -> None:
    assert keys.folded("Alpha") == b"alpha"
    assert keys.component("Alpha") == b"Alpha"
    assert keys.component("\udcff") == b"\xff"


def test_row_keys_name_generation_table_and_key() -> None:
    key = keys.row_key(0x1F, "kv", b"a/b")
    assert key == b"d/001f/kv/a/b"
    assert keys.split_row_key(key) == ("kv", b"a/b")
    assert key.startswith(keys.rows_prefix(0x1F))
    assert keys.table_index_key(0, "kv") == b"i/0000/kv"
    assert keys.decode_index(keys.encode_index(2**63)) == 2**63


@given(name=st.text(max_size=80))
def test_ids_are_folded_as_names_are(name: str) -> None:
    assert keys.folded_id(name) == keys.folded(name)


@given(table=st.sampled_from(["kv", "federation_states"]), pk=st.binary(max_size=9))
def test_part_of_a_key_before_the_primary_key_is_its_tables(table: str, pk: bytes) -> None:
    assert keys.table_part(keys.row_key(0xFFFF, table, pk)) == keys.row_key(0xFFFF, table)
