"""Compiled expressions as callers meet them."""

import pytest

from isthmus.bexpr import BadExpression, check_syntax, compile_filter
from isthmus.model.catalog import HealthCheck, Node


def test_short_expressions_are_kept_for_each_record() -> None:
    text = "Node == a"
    assert compile_filter(text, Node) is compile_filter(text, Node)
    assert compile_filter(text, Node)(Node(node="a"))
    assert compile_filter(text, HealthCheck)(HealthCheck(node="a"))


def test_long_expressions_are_not_kept() -> None:
    text = "Node == `" + "a" * 2000 + "`"
    holds = compile_filter(text, Node)
    assert holds is not compile_filter(text, Node)
    assert holds(Node(node="a" * 2000))


def test_syntax_is_checked_without_records() -> None:
    check_syntax("Nope == 1")
    with pytest.raises(BadExpression, match="evaluator: 1:5 "):
        check_syntax("Nope")
