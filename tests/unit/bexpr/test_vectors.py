"""What real go-bexpr says of the same expressions, with Consul's own records."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from isthmus.bexpr import BadExpression, compile_filter
from isthmus.bexpr.selectors import Listing, Mapping, Scalar, Shape, Structure, shape_of
from isthmus.model.agent import AgentService
from isthmus.model.catalog import CheckServiceNode, HealthCheck, Node, NodeService, ServiceNode
from isthmus.model.record import Record
from isthmus.wire import gojson

VECTORS: Final = Path(__file__).parents[2] / "vectors" / "bexpr"
EXPRESSIONS: Final = json.loads((VECTORS / "expressions.json").read_text())
SELECTORS: Final = json.loads((VECTORS / "selectors.json").read_text())["selectors"]
RECORDS: Final[dict[str, type[Record]]] = {
    kind.__name__: kind
    for kind in (Node, NodeService, ServiceNode, HealthCheck, CheckServiceNode, AgentService)
}


def rows_of(name: str) -> list[Record]:
    return [
        gojson.decode(RECORDS[name], json.dumps(row).encode(), ignore_unknown=True)
        for row in EXPRESSIONS["rows"][name]
    ]


@pytest.mark.parametrize("name", RECORDS)
def test_expressions_hold_for_the_same_rows_and_fail_with_the_same_texts(name: str) -> None:
    rows = rows_of(name)
    cases = [case for case in EXPRESSIONS["cases"] if case["record"] == name]
    assert len(cases) > 20
    for case in cases:
        said: dict[str, Any] = {"record": name, "expression": case["expression"]}
        try:
            holds = compile_filter(case["expression"], RECORDS[name])
        except BadExpression as error:
            # In JSON each byte that is not UTF-8 was replaced.
            raw = error.reason.encode("utf-8", "surrogateescape")
            said["error"] = raw.decode("utf-8", "replace")
        else:
            said["holds"] = [holds(row) for row in rows]
        assert said == case


def test_refusals_are_answered_with_what_consul_puts_before_them() -> None:
    with pytest.raises(BadExpression) as caught:
        compile_filter("Nope == x", Node)
    text = 'Failed to create boolean expression evaluator: Selector "Nope" is not valid'
    assert (str(caught.value), caught.value.status) == (text, 500)


def selectors(
    path: tuple[str, ...], shape: Shape | None
) -> Iterator[tuple[tuple[str, ...], Shape]]:
    """All selectors of a shape, depth first; ``*`` stands for the keys of a map."""
    while isinstance(shape, Listing):
        shape = shape.element
    inside: dict[str, Shape | None] = {}
    if isinstance(shape, Mapping):
        inside = {"*": shape.value}
    elif isinstance(shape, Structure):
        inside = {name: one for name, (_, one) in shape.fields.items()}
    for name, one in inside.items():
        if one is not None:
            yield (*path, name), one
            yield from selectors((*path, name), one)


def value_of(shape: Shape) -> str:
    """Go's type of what a field is compared with; empty where nothing is."""
    comparable = shape.operators and not (
        isinstance(shape, Listing) and not isinstance(shape.element, Scalar)
    )
    names = {str: "string", int: "int", bool: "bool"}
    return names[type(shape.parse("1"))] if comparable else ""


@pytest.mark.parametrize("name", RECORDS)
def test_records_have_the_selectors_of_their_go_types(name: str) -> None:
    derived = [
        {
            "record": name,
            "selector": ".".join(path),
            "value": value_of(shape),
            "operators": sorted(operator.value for operator in shape.operators),
        }
        for path, shape in selectors((), shape_of(RECORDS[name]))
    ]
    expected = [row for row in SELECTORS if row["record"] == name]
    assert sorted(derived, key=lambda row: str(row["selector"])) == sorted(
        expected, key=lambda row: str(row["selector"])
    )
