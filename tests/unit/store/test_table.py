"""Tables, secondary indexes, and overlays against a plain dict."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.kv import DirEntry
from isthmus.store.keys import component
from isthmus.store.table import Overlay, Schema, Table

SCHEMA = Schema(
    "kv",
    DirEntry,
    key=lambda row: component(row.key),
    indexes={"flags": lambda row: (b"%d" % row.flags,) if row.flags else ()},
)
KEYS = st.sampled_from(["", "a", "a/b", "a/b/c", "a\x00", "b", "é", "\udcff"])
WRITES = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "fail"]), KEYS, st.integers(0, 3)), max_size=25
)


def make_row(key: str, flags: int = 0, index: int = 1) -> DirEntry:
    return DirEntry(key=key, flags=flags, create_index=index, modify_index=index)


def expected_prefix(model: dict[str, DirEntry], prefix: str) -> list[DirEntry]:
    found = {component(key): row for key, row in model.items()}
    return [row for key, row in sorted(found.items()) if key.startswith(component(prefix))]


@given(writes=WRITES, prefix=KEYS)
def test_table_is_a_sorted_dict_with_indexes(
    writes: list[tuple[str, str, int]], prefix: str
) -> None:
    table, model = Table(SCHEMA), dict[str, DirEntry]()
    for what, key, flags in writes:
        if what == "put":
            row = make_row(key, flags)
            assert table.put(row) == model.get(key)
            model[key] = row
        else:
            assert table.delete(component(key)) == model.pop(key, None)
    assert list(table) == expected_prefix(model, "")
    assert list(table.prefix(component(prefix))) == expected_prefix(model, prefix)
    for flags in range(1, 4):
        wanted = [row for row in expected_prefix(model, "") if row.flags == flags]
        assert table.by("flags", b"%d" % flags) == wanted
        assert table.has("flags", b"%d" % flags) == bool(wanted)
    assert len(table) == len(model)


@given(committed=WRITES, writes=WRITES, prefix=KEYS)
def test_overlay_reads_as_the_table_will(
    committed: list[tuple[str, str, int]], writes: list[tuple[str, str, int]], prefix: str
) -> None:
    table, model = Table(SCHEMA), dict[str, DirEntry]()
    for _, key, flags in committed:
        model[key] = make_row(key, flags)
        table.put(model[key])
    before = list(table)
    overlay = Overlay({"kv": table})
    view = overlay.tables["kv"]
    for index, (what, key, flags) in enumerate(writes, 2):
        mark = overlay.mark()
        if what == "delete":
            assert view.delete(component(key), index) == model.pop(key, None)
            continue
        row = make_row(key, flags, index)
        view.put(row, index)
        if what == "put":
            model[key] = row
        else:
            view.delete(component(key), index)
            overlay.rollback(mark)
        assert view.get(component(key)) == model.get(key)
    assert view.prefix(component(prefix)) == expected_prefix(model, prefix)
    for flags in range(1, 4):
        wanted = [row for row in expected_prefix(model, "") if row.flags == flags]
        assert view.by("flags", b"%d" % flags) == wanted
    assert list(table) == before
    for pk, change in view.changes.items():
        _ = table.delete(pk) if change.row is None else table.put(change.row)
    assert list(table) == expected_prefix(model, "")
