"""Expressions of prepared queries: values and errors as Consul 1.10 gave them; hostile texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.store.query_expression import (
    EXPRESSIONS_MAX,
    NESTING_MAX,
    Fault,
    Scope,
    parse,
    shown,
)

SCOPE = Scope({"name.full": "geo-db-eu", "name.prefix": "geo-"}, ("geo-db-eu", "db", "eu"))


def fill(text: str) -> str:
    return shown(parse(text)(SCOPE))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("web", "web"),
        ("", ""),
        ("${name.full}", "geo-db-eu"),
        ("x${ name.prefix }y", "xgeo-y"),
        ("${match(0)}", "geo-db-eu"),
        ("${match(1) }-${match(2)}", "db-eu"),
        ("${match(3)}", ""),
        ("${match(-1)}", ""),
        ("${match(1+1)}", "eu"),
        ("${1+2*3}", "7"),
        ("${1-2-3}", "-4"),
        ("${8/2/2}", "2"),
        ("${(1+2)*3}", "9"),
        ("${1 - -3}", "4"),
        ("${0-7/2}", "-3"),  # Go cuts towards zero.
        ("${-7 % 4}", "-3"),
        ("${010}", "10"),
        ("${09}", "9"),
        ('${"010" + 0}', "8"),  # Text in Go's notation, which takes this for octal.
        ("${true}", "true"),
        ("${1==1}", "true"),
        ("${1!=2}", "true"),
        ("${1>2}", "false"),
        ("${2>=2 && 2<=2}", "true"),
        ("${true||false}", "true"),
        ("${1<2 && 2<3 ? 1 : 2}", "1"),
        ("${!true ? 1 : 2}", "2"),
        ("${!!true}", "true"),
        ('${match(1)=="db"?"y":"n"}', "y"),
        ('${name.full == "x"}', "false"),
        ("${false ? 1 : false ? 2 : 3}", "3"),
        ('${"a"}', "a"),
        ('${""}', ""),
        ('${"a${1}b"}', "a1b"),
        ('${"a ${match(1)} \\" \\\\ \\n"}', 'a db " \\ \n'),
        ('${"$${x}"}', "${x}"),
        ('${"a"}}', "a}"),
        ("$${name.full}", "${name.full}"),
        ("a$$b$c", "a$b$c"),
        ("$", "$"),
        ("a\\nb", "a\\nb"),
        ("${1\n}", "1"),
    ],
)
def test_text_is_filled_in(text: str, wanted: str) -> None:
    assert fill(text) == wanted


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("${", "1:3: expected expression but found end of string"),
        ("${ ", "1:4: expected expression but found end of string"),
        ("${}", '1:3: expected expression but found "}"'),
        ("${name.full", '1:12: expected "}" but found end of string'),
        ("${match(}", '1:9: expected expression but found "}"'),
        ("${match(1}", '1:10: expected ")" but found "}"'),
        ("${1 2}", '1:5: expected "}" but found integer 2'),
        ("${a b}", '1:5: expected "}" but found "b"'),
        ("${a:b}", '1:4: expected "}" but found ":"'),
        ("${0x1}", '1:4: expected "}" but found "x1"'),
        ("${1+}", '1:5: expected expression but found "}"'),
        ("${+1}", '1:3: expected expression but found "+"'),
        ("${\n1+\n}", '3:1: expected expression but found "}"'),
        ("${true ? 1}", '1:11: expected : but found "}"'),
        ('${"a', '1:4: expected "${" but found invalid sequence "a"'),
        ('${"a"', '1:6: expected "}" but found end of string'),
        ('${"a""b"}', '1:6: expected "}" but found opening quote'),
        ('${"\\x"}', "1:4: invalid backslash escape sequence"),
        ("${#}", '1:3: expected expression but found invalid sequence "#"'),
        (
            "${9223372036854775808}",
            '1:3: invalid integer: strconv.Atoi: parsing "9223372036854775808": value out of range',
        ),
        ("${1.5}", "1:3: fractions are not supported, use integers"),
        ("${name.full[0]}", "1:12: there is nothing that could be indexed"),
    ],
)
def test_malformed_text_is_refused(text: str, fault: str) -> None:
    with pytest.raises(Fault) as caught:
        parse(text)
    assert str(caught.value) == f"parse error at {fault}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a ${name.bogus}", "1:5: unknown variable accessed: name.bogus"),
        ("${name.*}", "1:3: unknown variable accessed: name.*"),
        ("${lower(1)}", "1:3: unknown function called: lower"),
        ("${match}", "1:3: unknown variable accessed: match"),
        ("${match()}", "1:3: match: expected 1 arguments, got 0"),
        ("${match(1, 2)}", "1:3: match: expected 1 arguments, got 2"),
        (
            "${match(name.prefix)}",
            '__builtin_StringToInt: strconv.ParseInt: parsing "geo-": invalid syntax',
        ),
        ("${1/0}", "__builtin_IntMath: divide by zero"),
        ("${1%0}", "__builtin_IntMath: divide by zero"),
        ("${9223372036854775807+1}", "integer out of range"),
        ("${true && 1}", "logical operators require boolean operands, not TypeInt"),
        ('${"a" ? 1 : 2}', "logical operators require boolean operands, not TypeString"),
        ("${true + 1}", "operand should be TypeInt, got TypeBool"),
        ("${true == 1}", "true and false can only be compared with each other"),
    ],
)
def test_text_that_names_what_there_is_not_cannot_be_filled_in(text: str, fault: str) -> None:
    with pytest.raises(Fault) as caught:
        fill(text)
    assert str(caught.value) == fault


def test_nesting_and_number_of_expressions_are_bounded() -> None:
    for text in ("${" + "(" * 10_000, '${"' * 10_000, "${match(" * 10_000, "${true ?" * 10_000):
        with pytest.raises(Fault, match=r"levels of nesting|expected"):
            parse(text)
    assert fill("${" + "-" * 10_001 + "1}") == "-1"
    assert fill("${0" + "+1" * 10_000 + "}") == "10000"
    inside = NESTING_MAX // 2
    assert fill("${" + "(" * inside + "1" + ")" * inside + "}") == "1"
    with pytest.raises(Fault, match=f"more than {NESTING_MAX} levels of nesting"):
        parse("${" + "(" * NESTING_MAX + "1" + ")" * NESTING_MAX + "}")
    with pytest.raises(Fault, match=f"more than {EXPRESSIONS_MAX} expressions"):
        parse("${1}" * (EXPRESSIONS_MAX + 1))
    with pytest.raises(Fault, match="out of range"):
        parse("${" + "9" * 100_000 + "}")


@given(st.text(alphabet='${}()"\\1+-*/%, .?:!=<>&|[]match_namefultr', max_size=40))
def test_any_text_is_filled_in_or_refused(text: str) -> None:
    try:
        found = fill(text)
    except Fault as fault:
        found = str(fault)
    assert found or not text or "$" in text
