"""Prepared queries: against a plain dict, and rule by rule."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from isthmus.errors import NotFound, RequestError
from isthmus.model.prepared_query import (
    NAME_PREFIX_MATCH,
    QUERY_CREATE,
    QUERY_DELETE,
    QUERY_UPDATE,
    PreparedQuery,
    PreparedQueryRequest,
    QueryTemplateOptions,
    ServiceQuery,
)
from isthmus.store.prepared_query import delete_of_session
from support.stores import Driven, Sleeper

TEMPLATE = QueryTemplateOptions(type=NAME_PREFIX_MATCH)


def query_id(number: int) -> str:
    return f"a0000000-0000-0000-0000-00000000000{number}"


def make_query(
    number: int = 1, name: str = "", *, service: str = "web", template: bool = False
) -> PreparedQuery:
    return PreparedQuery(
        id=query_id(number),
        name=name,
        service=ServiceQuery(service=service),
        template=TEMPLATE if template else QueryTemplateOptions(),
    )


def put(query: PreparedQuery, op: str = QUERY_CREATE) -> PreparedQueryRequest:
    return PreparedQueryRequest(op=op, query=query)


def delete(number: int) -> PreparedQueryRequest:
    return put(PreparedQuery(id=query_id(number)), QUERY_DELETE)


def make_store(*queries: PreparedQuery) -> Driven:
    driven = Driven()
    for query in queries:
        driven.execute(put(query))
    return driven


def found(driven: Driven, name: str) -> str:
    """Service of the query that a name stands for; empty when there is none."""
    try:
        return driven.store.queries.resolve(name).service.service
    except NotFound:
        return ""


NAMES = st.sampled_from(["", "a", "A", "ab", "abc", "b", "é"])
ASKED = ["a", "A", "ab", "aB", "abcd", "b", "é", "É!", "zz"]


class QueryMachine(RuleBasedStateMachine):
    """The table against a dict by id."""

    def __init__(self) -> None:
        super().__init__()
        self.driven = Driven()
        self.model: dict[int, PreparedQuery] = {}

    @rule(number=st.integers(1, 5), name=NAMES, template=st.booleans(), web=st.booleans())
    def put(self, number: int, name: str, template: bool, web: bool) -> None:
        query = make_query(number, name, template=template, service="web" if web else "db")
        taken = any(
            other.name.lower() == name.lower() and other.id != query.id
            for other in self.model.values()
            if name or (template and other.template.type)
        )
        before = self.driven.store.index
        same = self.model.get(number) == query
        watched = Sleeper(self.driven.store, self.driven.store.queries.list().topics)
        if taken:
            with pytest.raises(RequestError, match="already exists" if not name else "aliases"):
                self.driven.execute(put(query))
        else:
            assert self.driven.execute(put(query)) == query.id
            self.model[number] = query
        changed = not (taken or same)
        assert watched.stop() == changed
        assert self.driven.store.index == before + changed

    @rule(number=st.integers(1, 5))
    def delete(self, number: int) -> None:
        self.driven.execute(delete(number))
        self.model.pop(number, None)

    @invariant()
    def reads_agree(self) -> None:
        listed = self.driven.store.queries.list().value
        assert [row.id for row in listed] == [query_id(number) for number in sorted(self.model)]
        for name in ASKED:
            assert found(self.driven, name) == self.wanted(name.lower())

    def wanted(self, name: str) -> str:
        by_name = {query.name.lower(): query for query in self.model.values() if query.name}
        if name in by_name:
            return by_name[name].service.service
        prefixes = [
            query
            for query in self.model.values()
            if query.template.type and name.startswith(query.name.lower())
        ]
        longest = max(prefixes, key=lambda query: len(query.name), default=None)
        return longest.service.service if longest else ""

    def teardown(self) -> None:
        again = self.driven.reloaded().queries
        assert again.list() == self.driven.store.queries.list()
        for name in ASKED:
            try:
                service = again.resolve(name).service.service
            except NotFound:
                service = ""
            assert service == self.wanted(name.lower())


TestQueryMachine = QueryMachine.TestCase
TestQueryMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_query_is_found_by_id_and_by_name_in_any_case() -> None:
    driven = make_store(make_query(1, "Web"))
    for asked in (query_id(1), query_id(1).upper(), "Web", "wEB"):
        assert found(driven, asked) == "web"
    row = driven.store.queries.get(query_id(1)).value[0]
    assert (row.create_index, row.modify_index) == (2, 2)
    driven.execute(put(make_query(1, "other"), QUERY_UPDATE))
    row = driven.store.queries.get(query_id(1)).value[0]
    assert (row.name, row.create_index, row.modify_index) == ("other", 2, 3)
    assert found(driven, "web") == ""


def test_template_is_filled_in_for_the_name_that_was_asked() -> None:
    driven = make_store(make_query(1, "geo-", service="${name.suffix}", template=True))
    assert found(driven, "geo-db") == "db"
    assert found(driven, "geo-web") == "web"
    assert found(driven, "geo-") == ""  # The service has no name, but the query was found.
    assert driven.store.queries.resolve("geo-").name == "geo-"
    driven.execute(
        put(make_query(1, "geo-", service="x${name.suffix}", template=True), QUERY_UPDATE)
    )
    assert found(driven, "geo-db") == "xdb"


def test_template_is_not_found_by_its_id() -> None:
    driven = make_store(make_query(1, "geo-", template=True))
    with pytest.raises(RequestError, match=r"^prepared query templates can only be resolved up by"):
        driven.store.queries.resolve(query_id(1))


def test_nothing_stands_for_no_query_even_if_a_template_takes_all_names() -> None:
    driven = make_store(make_query(1, "", template=True))
    assert found(driven, "anything") == "web"
    with pytest.raises(RequestError, match=r"^Missing Query ID$"):
        driven.store.queries.resolve("")


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        ("", "UUID must be 36 characters"),
        ("abc", "UUID must be 36 characters"),
        ("-" * 36, 'UUID should have maximum of 4 "-"; got 36'),
        ("a0000000-0000-0000-0000000000000001x", "Input (without hyphens) must be even length"),
        (
            "a0000000-0000-0000-0000-00000000000g",
            "Invalid UUID: encoding/hex: invalid byte: U+0067 'g'",
        ),
    ],
)
def test_what_is_no_id_is_refused(asked: str, fault: str) -> None:
    with pytest.raises(RequestError) as caught:
        make_store().store.queries.get(asked)
    assert str(caught.value) == f"failed prepared query lookup: index error: {fault}"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (make_query(2, "WEB"), "name 'WEB' aliases an existing query name"),
        (make_query(2, query_id(1)), f"name '{query_id(1)}' aliases an existing query ID"),
        (make_query(2, "", template=True), "a query template with an empty name already exists"),
        (PreparedQuery(name="x"), "Missing Query ID"),
        (
            PreparedQuery(id="q", name="x"),
            "failed prepared query lookup: index error: UUID must be 36 characters",
        ),
        (
            PreparedQuery(id=query_id(2), name="x", session="abc"),
            "invalid session: index error: UUID must be 36 characters",
        ),
        (
            PreparedQuery(id=query_id(2), name="x", session=query_id(9)),
            f'invalid session "{query_id(9)}"',
        ),
        (
            PreparedQuery(id=query_id(2), name="x", template=QueryTemplateOptions(type="no")),
            "failed compiling template: Bad Template.Type 'no'",
        ),
    ],
)
def test_query_that_cannot_be_is_refused_and_changes_nothing(
    query: PreparedQuery, text: str
) -> None:
    driven = make_store(make_query(1, "web"), make_query(3, "", template=True))
    index = driven.store.index
    with pytest.raises(RequestError) as caught:
        driven.execute(put(query))
    assert (str(caught.value), caught.value.status) == (text, 500)
    assert driven.store.index == index
    assert len(driven.store.queries.list().value) == 2


def test_unknown_operation_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^Invalid PreparedQuery operation 'bogus'$"):
        make_store().execute(put(make_query(), "bogus"))


def test_reader_of_a_query_wakes_for_that_query_only() -> None:
    driven = make_store(make_query(1, "one"), make_query(2, "two"))
    queries = driven.store.queries
    one, two = (Sleeper(driven.store, queries.get(query_id(number)).topics) for number in (1, 2))
    driven.execute(put(make_query(1, "uno"), QUERY_UPDATE))
    assert (one.stop(), two.stop()) == (True, False)
    answer = queries.get(query_id(2))
    assert (answer.index, answer.changed) == (driven.store.index, 3)


def test_removed_query_wakes_its_reader_who_finds_none() -> None:
    driven = make_store(make_query(1, "one"))
    sleeper = Sleeper(driven.store, driven.store.queries.get(query_id(1)).topics)
    driven.execute(delete(1))
    assert sleeper.stop()
    with pytest.raises(NotFound, match=r"^Query not found$"):
        driven.store.queries.get(query_id(1))


def test_queries_of_a_session_go_with_it() -> None:
    driven = make_store(make_query(1, "one"))
    overlay = driven.store.overlay()
    view = overlay.tables["queries"]
    for number in (2, 3):
        bound = PreparedQuery(id=query_id(number), session=query_id(9))
        view.put(bound, 3)
    delete_of_session(overlay, query_id(9).upper(), 4)
    assert [row.id for row in view.prefix(b"")] == [query_id(1)]
