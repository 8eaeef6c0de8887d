"""Config entries: against a plain dict, and rule by rule."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from isthmus.errors import InvalidRequest
from isthmus.model.config_entry import (
    CONFIG_ENTRY_TYPES,
    DELETE,
    MESH_NAME,
    PROXY_DEFAULTS_NAME,
    UPSERT,
    UPSERT_CAS,
    ConfigEntry,
    ConfigEntryRequest,
    MeshConfigEntry,
    ProxyConfigEntry,
    ServiceConfigEntry,
    ServiceIntentionsConfigEntry,
    ServiceResolverConfigEntry,
    SourceIntention,
)
from isthmus.model.timestamp import Timestamp
from isthmus.store.config_entry import ConfigEntries, ConfigEntryRow
from isthmus.store.engine import Change, Corrupt
from isthmus.store.keys import row_key, table_index_key
from isthmus.store.rows import decode_row, encode_row
from isthmus.store.store import Store
from support.stores import Driven, Sleeper

WEB = ServiceConfigEntry(name="web", protocol="http")
DB = ServiceConfigEntry(name="db", protocol="tcp")
PROXY = ProxyConfigEntry(name=PROXY_DEFAULTS_NAME, config={"a": {"b": [1, None, True, 0.5]}})
WEB_RESOLVER = ServiceResolverConfigEntry(name="web", default_subset="v1")


def write(entry: ConfigEntry | None, op: str = UPSERT) -> ConfigEntryRequest:
    return ConfigEntryRequest(op=op, entry=entry)


def make_store(*entries: ConfigEntry) -> Driven:
    driven = Driven()
    for entry in entries:
        driven.execute(write(entry))
    return driven


def names(entries: tuple[ConfigEntry, ...]) -> list[str]:
    return [f"{entry.kind}/{entry.name}" for entry in entries]


def entry_of(kind: str, name: str, text: str) -> ConfigEntry:
    return CONFIG_ENTRY_TYPES[kind](name=name, meta={"text": text})


KINDS = st.sampled_from(["service-defaults", "service-resolver", "service-intentions"])
NAMES = st.sampled_from(["a", "A", "ab", "b", "é", "É", "*"])


class ConfigEntryMachine(RuleBasedStateMachine):
    """The table against a dict by kind and folded name."""

    def __init__(self) -> None:
        super().__init__()
        self.driven = Driven()
        self.model: dict[tuple[str, str], ConfigEntry] = {}
        self.index = self.driven.store.index

    @rule(kind=KINDS, name=NAMES, text=st.sampled_from("xy"))
    def upsert(self, kind: str, name: str, text: str) -> None:
        entry = entry_of(kind, name, text)
        assert self.driven.execute(write(entry)) is True
        self._put(entry)

    @rule(kind=KINDS, name=NAMES, text=st.sampled_from("xy"), newest=st.booleans())
    def compare(self, kind: str, name: str, text: str, newest: bool) -> None:
        old = self.model.get((kind, name.lower()))
        expected = old.modify_index if old is not None and newest else 0
        entry = CONFIG_ENTRY_TYPES[kind](
            name=name, meta={"text": text}, modify_index=expected, create_index=77
        )
        wins = old is None or newest
        assert self.driven.execute(write(entry, UPSERT_CAS)) is wins
        if wins:
            self._put(entry)

    @rule(kind=KINDS, name=NAMES)
    def delete(self, kind: str, name: str) -> None:
        found = self.model.pop((kind, name.lower()), None) is not None
        request = write(CONFIG_ENTRY_TYPES[kind](name=name), DELETE)
        assert self.driven.execute(request) is found
        self.index += found

    def _put(self, entry: ConfigEntry) -> None:
        key = (entry.kind, entry.name.lower())
        old = self.model.get(key)
        if old is not None and (old.name, old.meta) == (entry.name, entry.meta):
            return
        self.index += 1
        self.model[key] = CONFIG_ENTRY_TYPES[entry.kind](
            name=entry.name,
            meta=entry.meta,
            create_index=self.index if old is None else old.create_index,
            modify_index=self.index,
        )

    @invariant()
    def same(self) -> None:
        assert self.driven.store.index == self.index
        ordered = sorted(
            self.model.items(), key=lambda item: (item[0][0].encode(), item[0][1].encode())
        )
        for store in (self.driven.store, self.driven.reloaded()):
            entries = store.config_entries
            assert entries.list().value == tuple(entry for _, entry in ordered)
            for kind in ("service-defaults", "service-resolver"):
                found = tuple(entry for (of, _), entry in ordered if of == kind)
                assert entries.list(kind).value == found
                assert entries.list_of([kind]).value == found
            for kind in CONFIG_ENTRY_TYPES:
                for name in ("a", "É", "*"):
                    expected = self.model.get((kind, name.lower()))
                    assert entries.get(kind, name).value == expected


ConfigEntryMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=15)
TestConfigEntries = ConfigEntryMachine.TestCase


# Reads and their indexes --------------------------------------------------------------------------


def entries_of(driven: Driven) -> ConfigEntries:
    return driven.store.config_entries


def test_entries_come_by_kind_and_name() -> None:
    driven = make_store(WEB, PROXY, WEB_RESOLVER, DB, MeshConfigEntry())
    found = entries_of(driven).list()
    assert names(found.value) == [
        "mesh/mesh",
        "proxy-defaults/global",
        "service-defaults/db",
        "service-defaults/web",
        "service-resolver/web",
    ]
    assert found.index == found.changed == driven.store.index
    assert len(entries_of(driven)) == 5


def test_one_kind_is_not_another_that_begins_alike() -> None:
    driven = make_store(MeshConfigEntry())
    assert entries_of(driven).list("mes").value == ()
    assert names(entries_of(driven).list("mesh").value) == [f"mesh/{MESH_NAME}"]


def test_free_values_come_back_as_they_were() -> None:
    driven = make_store(PROXY)
    found = driven.reloaded().config_entries.get("proxy-defaults", "global").value
    assert isinstance(found, ProxyConfigEntry)
    assert found.config == PROXY.config


def test_list_is_the_same_tuple_until_its_kind_changes() -> None:
    driven = make_store(WEB, WEB_RESOLVER)
    webs, everything = entries_of(driven).list("service-defaults"), entries_of(driven).list()
    driven.execute(write(ServiceResolverConfigEntry(name="db")))
    again = entries_of(driven).list("service-defaults")
    assert again.value is webs.value
    assert (again.index, again.changed) == (driven.store.index, webs.changed)
    assert len(entries_of(driven).list().value) == len(everything.value) + 1


def test_reader_of_a_kind_wakes_for_its_kind_only() -> None:
    driven = make_store(WEB)
    answer = entries_of(driven).list("service-defaults")
    sleeper = Sleeper(driven.store, answer.topics)
    driven.execute(write(WEB_RESOLVER))
    assert not sleeper.woken
    driven.execute(write(DB))
    assert sleeper.stop()
    assert entries_of(driven).list("service-defaults").changed > answer.changed


def test_reader_of_one_entry_wakes_for_it_only() -> None:
    driven = make_store(WEB)
    answer = entries_of(driven).get("service-defaults", "WEB")
    sleeper = Sleeper(driven.store, answer.topics)
    driven.execute(write(DB))
    assert not sleeper.woken
    assert entries_of(driven).get("service-defaults", "web").changed == answer.changed
    driven.execute(write(ServiceConfigEntry(name="web"), DELETE))
    assert sleeper.stop()
    gone = entries_of(driven).get("service-defaults", "web")
    assert gone.value is None
    assert gone.changed == gone.index == driven.store.index


def test_reader_of_everything_wakes_for_any_entry() -> None:
    driven = make_store(WEB)
    sleeper = Sleeper(driven.store, entries_of(driven).list_of(["mesh"]).topics)
    driven.execute(write(WEB_RESOLVER))
    assert sleeper.stop()


def test_list_of_kinds_has_the_index_of_the_table() -> None:
    driven = make_store(WEB, WEB_RESOLVER)
    answer = entries_of(driven).list_of(["service-defaults"])
    assert names(answer.value) == ["service-defaults/web"]
    assert answer.index == answer.changed == driven.store.index


def test_delete_that_another_server_committed_is_seen_and_no_reader_runs_in_circles() -> None:
    """Its index is that of the whole commit, which may lie behind the table's."""
    follower = make_store(WEB, DB)
    store: Store = follower.store
    seen = entries_of(follower).list("service-defaults")
    change = Change(
        index=store.index + 5,
        generation=0,
        puts={table_index_key(0, "config_entries"): (store.index + 2).to_bytes(8, "big")},
        deletes={row_key(0, "config_entries", b"service-defaults\0web")},
        ranges=[],
        revision=1,
    )
    sleeper = Sleeper(store, seen.topics)
    store.follow(change)
    assert sleeper.stop()
    found = entries_of(follower).list("service-defaults")
    assert names(found.value) == ["service-defaults/db"]
    assert seen.index < found.changed <= found.index


# Writes -------------------------------------------------------------------------------------------


def test_entry_written_as_it_is_changes_nothing() -> None:
    driven = make_store(WEB)
    before = driven.store.index
    assert driven.execute(write(ServiceConfigEntry(name="web", protocol="http"))) is True
    assert driven.store.index == before


def test_lost_compare_changes_nothing() -> None:
    driven = make_store(WEB)
    before = driven.store.index
    late = ServiceConfigEntry(name="web", protocol="grpc", modify_index=before + 1)
    assert driven.execute(write(late, UPSERT_CAS)) is False
    assert driven.execute(write(ServiceConfigEntry(name="web"), UPSERT_CAS)) is False
    assert driven.store.index == before


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (write(None), "missing config entry"),
        (write(ServiceConfigEntry()), "missing config entry"),
        (write(ConfigEntry(kind="bogus", name="web")), "missing config entry"),
        (write(WEB, "twist"), "Invalid config entry operation: twist"),
    ],
)
def test_write_that_makes_no_sense_is_refused(request_: ConfigEntryRequest, text: str) -> None:
    driven = make_store(WEB)
    before = driven.store.index
    with pytest.raises(InvalidRequest, match=text):
        driven.execute(request_)
    assert driven.store.index == before


CREATED = Timestamp(1_600_000_000, 0)
LATER = Timestamp(1_700_000_000, 0)
OLD_ID = "a0000000-0000-0000-0000-000000000001"
NEW_ID = "a0000000-0000-0000-0000-000000000002"


def intentions(*sources: SourceIntention) -> ServiceIntentionsConfigEntry:
    return ServiceIntentionsConfigEntry(name="db", sources=sources)


def test_intention_with_an_id_keeps_the_moment_of_its_creation() -> None:
    old = SourceIntention(name="web", action="allow", legacy_id=OLD_ID, legacy_create_time=CREATED)
    driven = make_store(intentions(old))
    new = SourceIntention(name="web", action="deny", legacy_id=OLD_ID, legacy_create_time=LATER)
    driven.execute(write(intentions(new, SourceIntention(name="api"))))
    found = entries_of(driven).get("service-intentions", "db").value
    assert isinstance(found, ServiceIntentionsConfigEntry)
    assert found.sources is not None
    assert [source.legacy_create_time for source in found.sources] == [CREATED, None]
    assert found.sources[0].action == "deny"


@pytest.mark.parametrize(
    ("before", "text"), [("", "cannot set this field"), (OLD_ID, "cannot be changed")]
)
def test_id_of_an_intention_stays(before: str, text: str) -> None:
    driven = make_store(intentions(SourceIntention(name="web", legacy_id=before)))
    with pytest.raises(InvalidRequest, match=rf"^Sources\[1\].LegacyID: {text}$"):
        driven.execute(
            write(
                intentions(
                    SourceIntention(name="api"), SourceIntention(name="web", legacy_id=NEW_ID)
                )
            )
        )


# Rows ---------------------------------------------------------------------------------------------


def test_row_has_a_field_for_each_kind() -> None:
    for kind, entry_type in CONFIG_ENTRY_TYPES.items():
        entry = entry_type(name="global" if kind == "proxy-defaults" else "web", modify_index=7)
        row = ConfigEntryRow.of(entry)
        assert row.entry is entry
        assert row.modify_index == 7
        assert decode_row(ConfigEntryRow, encode_row(row)) == row


def test_row_of_a_kind_that_only_a_newer_release_knows_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="not one config entry of a kind that this release knows"):
        decode_row(ConfigEntryRow, b"\x02\x81\xa8Sameness\x80")
