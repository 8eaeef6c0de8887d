"""Texts of prepared queries that are filled in for a name."""

from typing import Any

import pytest

from isthmus.errors import RequestError
from isthmus.model.prepared_query import (
    PreparedQuery,
    QueryDatacenterOptions,
    QueryTemplateOptions,
    ServiceQuery,
)
from isthmus.store.query_template import Template


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
        ("${", "Bad format '${' in Service.Tags[1]: parse error at 1:3: expected expression"),
        ("${x}", "Bad evaluation for '${x}' in Service.Tags[1]: 1:3: unknown variable accessed: x"),
    ],
)
def test_text_that_cannot_be_filled_in_is_refused(text: str, fault: str) -> None:
    with pytest.raises(RequestError) as caught:
        Template(make_query(tags=("ok", text)))
    assert str(caught.value).startswith(fault)


def test_unknown_type_and_bad_expression_are_refused() -> None:
    query = PreparedQuery(name="x", template=QueryTemplateOptions(type="bogus"))
    with pytest.raises(RequestError, match=r"^Bad Template\.Type 'bogus'$"):
        Template(query)
    with pytest.raises(RequestError, match=r"^Bad Regexp: error parsing regexp: missing closing"):
        Template(make_query(regexp="(a"))


def test_expression_that_would_take_exponential_time_takes_none() -> None:
    assert fill("${match(1)}", "geo-" + "a" * 5000 + "!", regexp="(a|a)*(a|a)*$") == ""
