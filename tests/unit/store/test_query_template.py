"""Texts of prepared queries that are filled in: expressions, rule by rule, and hostile ones."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import RequestError
from isthmus.model.prepared_query import (
    PreparedQuery,
    QueryDatacenterOptions,
    QueryTemplateOptions,
    ServiceQuery,
)
from isthmus.store.query_template import EXPRESSIONS_MAX, NESTING_MAX, Template


def make_query(
    service: str = "web", *, name: str = "geo-", regexp: str = "", **changes: Any
) -> PreparedQuery:
    return PreparedQuery(
        id="a0000000-0000-0000-0000-000000000001",
        name=name,
        template=QueryTemplateOptions(type="name_prefix_match", regexp=regexp),
        service=ServiceQuery(service=service, **changes),
    )


def fill(text: str, asked: str = "geo-db-eu-prod", *, regexp: str = r"^geo-(.*?)-([^-]+?)-") -> str:
    return Template(make_query(text, regexp=regexp)).render(asked).service.service


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("web", "web"),
        ("", ""),
        ("${name.full}", "geo-db-eu-prod"),
        ("${name.prefix}", "geo-"),
        ("x${ name.suffix }y", "xdb-eu-prody"),
        ("${match(0)}", "geo-db-eu-"),
        ("${match(1)}-${match(2)}", "db-eu"),
        ("${match(3)}", ""),
        ("${match(-1)}", ""),
        ('${match("1")}', "db"),
        ('${match("0x1")}', "db"),
        ("${match(1 + 1)}", "eu"),
        ("${match(3 - 1 * 1)}", "eu"),  # One precedence: (3 - 1) * 1.
        ("${1 + 2 * 3}", "9"),
        ("${1 + (2 * 3)}", "7"),
        ("${0-7 / 2}", "-3"),  # Go cuts towards zero.
        ("${-7 % 4}", "-3"),
        ("${010}", "8"),
        ('${"a"}', "a"),
        ('${""}', ""),
        ('${"a ${match(1)} \\" \\\\ \\n \\x"}', 'a db " \\ \n \\x'),
        ("$${name.full}", "${name.full}"),
        ("a$$b$c", "a$b$c"),
        ("a}b{", "a}b{"),
        ("${agent.segment}", ""),
    ],
)
def test_text_is_filled_in(text: str, wanted: str) -> None:
    assert fill(text) == wanted


def test_segment_is_the_callers() -> None:
    template = Template(make_query("${agent.segment}"))
    assert template.render("geo-x", segment="alpha").service.service == "alpha"


def test_suffix_of_a_name_in_another_case_is_the_whole_name() -> None:
    """Queries are found without regard to case; the texts are cut with it, as in Consul."""
    assert fill("${name.suffix}", "GEO-x") == "GEO-x"


def test_group_that_took_no_part_is_empty() -> None:
    assert fill("[${match(1)}]", "geo-b", regexp="(a)?b") == "[]"
    assert fill("[${match(1)}]", "geo-", regexp="(a)b") == "[]"


def test_every_text_of_the_service_is_filled_in() -> None:
    query = make_query(
        "${name.suffix}",
        failover=QueryDatacenterOptions(nearest_n=2, datacenters=("dc-${name.suffix}",)),
        ignore_check_ids=("c-${name.suffix}",),
        near="${name.suffix}",
        tags=("a", "!${name.suffix}"),
        node_meta={"k-${name.suffix}": "${name.suffix}"},
        service_meta={"m": "${name.suffix}"},
        only_passing=True,
    )
    rendered = Template(query).render("geo-x")
    assert rendered.service == ServiceQuery(
        service="x",
        failover=QueryDatacenterOptions(nearest_n=2, datacenters=("dc-x",)),
        ignore_check_ids=("c-x",),
        near="x",
        tags=("a", "!x"),
        node_meta={"k-${name.suffix}": "x"},
        service_meta={"m": "x"},
        only_passing=True,
    )
    assert (rendered.id, rendered.name, rendered.template) == (query.id, "geo-", query.template)


@pytest.mark.parametrize(("remove", "tags"), [(True, ("a",)), (False, ("a", ""))])
def test_tags_that_came_to_nothing_are_removed_if_asked(
    remove: bool, tags: tuple[str, ...]
) -> None:
    query = PreparedQuery(
        name="geo-",
        template=QueryTemplateOptions(
            type="name_prefix_match", regexp="x(.*)", remove_empty_tags=remove
        ),
        service=ServiceQuery(service="web", tags=("a", "${match(1)}")),
    )
    assert Template(query).render("geo-x").service.tags == tags


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("${", "parse error: syntax error: unexpected end"),
        ("${}", "parse error: syntax error: unexpected '}' at character 3"),
        ("${name.full", "parse error: syntax error: unexpected end"),
        ("${name.full name.full}", "parse error: syntax error: unexpected 'n' at character 13"),
        ("${match(1}", "parse error: syntax error: unexpected '}' at character 10"),
        ("${(1}", "parse error: syntax error: unexpected '}' at character 5"),
        ("${1 +}", "parse error: syntax error: unexpected '}' at character 6"),
        ('${"a', "parse error: unterminated string"),
        ("${09}", 'parsing "09": invalid syntax'),
        ("${99999999999999999999}", "integer out of range"),
    ],
)
def test_malformed_text_is_refused(text: str, fault: str) -> None:
    with pytest.raises(RequestError) as caught:
        Template(make_query(text))
    assert str(caught.value) == f"Bad format '{text}' in Service.Service: {fault}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a ${name.bogus}", "1:5: unknown variable accessed: name.bogus"),
        ("${name.bogus}", "1:3: unknown variable accessed: name.bogus"),
        ("${lower(1)}", "1:3: unknown function called: lower"),
        ("${match()}", "1:3: match: expected 1 arguments, got 0"),
        ("${match(1, 2)}", "1:3: match: expected 1 arguments, got 2"),
        ("${match(name.full)}", 'parsing "geo-": invalid syntax'),
        ("${1 / 0}", "division by zero"),
        ("${9223372036854775807 + 1}", "integer out of range"),
    ],
)
def test_text_that_names_what_there_is_not_is_refused(text: str, fault: str) -> None:
    with pytest.raises(RequestError) as caught:
        Template(make_query(tags=("ok", text)))
    assert str(caught.value) == f"Bad evaluation for '{text}' in Service.Tags[1]: {fault}"


def test_unknown_type_and_bad_expression_are_refused() -> None:
    query = PreparedQuery(name="x", template=QueryTemplateOptions(type="bogus"))
    with pytest.raises(RequestError, match=r"^Bad Template\.Type 'bogus'$"):
        Template(query)
    with pytest.raises(RequestError, match=r"^Bad Regexp: error parsing regexp: missing closing"):
        Template(make_query(regexp="(a"))


def test_nesting_and_number_of_expressions_are_bounded() -> None:
    with pytest.raises(RequestError, match="levels of nesting"):
        Template(make_query("${" + "(" * 10_000))
    with pytest.raises(RequestError, match="levels of nesting"):
        Template(make_query('${"' * 10_000))
    assert fill("${" + "-" * 10_001 + "1}") == "-1"
    assert fill("${0" + "+1" * 10_000 + "}") == "10000"
    inside = NESTING_MAX // 2
    assert fill("${" + "(" * inside + "1" + ")" * inside + "}") == "1"
    with pytest.raises(RequestError, match=f"more than {EXPRESSIONS_MAX} expressions"):
        Template(make_query("${1}" * (EXPRESSIONS_MAX + 1)))


def test_expression_that_would_take_exponential_time_takes_none() -> None:
    assert fill("${match(1)}", "geo-" + "a" * 5000 + "!", regexp="(a|a)*(a|a)*$") == ""


@given(st.text(alphabet='${}()"\\1+-*/%, .match_namefulx', max_size=40))
def test_any_text_is_filled_in_or_refused(text: str) -> None:
    try:
        template = Template(make_query(text))
    except RequestError as error:
        fault = str(error)
    else:
        fault = " in Service.Service: "
        assert isinstance(template.render("geo-1").service.service, str)
    assert " in Service.Service: " in fault
