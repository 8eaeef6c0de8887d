"""HCL 1 as Consul's users write it."""
# ruff: noqa: E501 -- a table is read by its rows.

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.config.hcl import NESTING_MAX, HclSyntaxError, parse_hcl


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("a = 1", {"a": 1}),
        ('a = "x"\nb = true\nc = false\n', {"a": "x", "b": True, "c": False}),
        ("ports {\n http = -1\n grpc = 0x10\n}", {"ports": {"http": -1, "grpc": 16}}),
        ("a = 1.5\nb = 1e3", {"a": 1.5, "b": 1000.0}),
        ("connect { enabled = true x = 1 }", {"connect": {"enabled": True, "x": 1}}),
        ("connect { enabled = true, x = 1, }", {"connect": {"enabled": True, "x": 1}}),
        ("connect = { enabled = true }", {"connect": {"enabled": True}}),
        ('"server" = true', {"server": True}),
        ('node_meta { "rack-1" = "x", rack-2 = "y" }', {"node_meta": {"rack-1": "x", "rack-2": "y"}}),
        ("# a\n// b\n/* c\n */ a = 1 # d", {"a": 1}),
        ('a = ["x", "y",]', {"a": ["x", "y"]}),
        ('a = [\n  "x", # first\n  "y"\n]', {"a": ["x", "y"]}),
        ("a = []\nb {}", {"a": [], "b": {}}),
        ("a = [{ b = 1 }, { b = 2 }]", {"a": [{"b": 1}, {"b": 2}]}),
        (r'a = "q\"q \\ \t \n é \x41"', {"a": 'q"q \\ \t \n é A'}),
        (
            r'bind_addr = "{{ GetInterfaceIP \"eth0\" }}"',
            {"bind_addr": '{{ GetInterfaceIP "eth0" }}'},
        ),
        ('a = "${b}"', {"a": "${b}"}),
        ("a = <<EOF\none\n \"two\"\nEOF\nb = 1", {"a": 'one\n "two"\n', "b": 1}),
        ("a = <<-EOF\n    one\n      two\n    EOF\n", {"a": "one\n  two\n"}),
        ('service { name = "a" }\nservice { name = "b" }', {"service": [{"name": "a"}, {"name": "b"}]}),
        ('service "web" { port = 80 }', {"service": {"web": {"port": 80}}}),
        ("a = 1\na = 2", {"a": 2}),
        ('a = ["x"]\na = ["y"]', {"a": ["y"]}),
        ("a = 1\r\nb = 2\r\n", {"a": 1, "b": 2}),
        ("\ufeffa = 1", {"a": 1}),
    ],
)  # fmt: skip
def test_what_users_write_is_read(text: str, values: dict[str, Any]) -> None:
    assert parse_hcl(text) == values


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a = 1\nb = yes", 2, 'unknown value yes, a text stands in quotes: "yes"'),
        ("a = 1\n\nb = ", 3, "expected a value, found the end of the text"),
        ("connect {\n enabled = true\n", 3, 'expected "}" before the end'),
        ('a = "x\nb = 1', 1, "does not end on its line"),
        ("a = [1 2]", 1, 'expected "," or "]"'),
        ("= 1", 1, "expected a key, found '='"),
        ("a = <<EOF\nx\n", 1, "has no closing EOF"),
        (r'a = "\q"', 1, r"unknown escape \q"),
        (r'a = "\ud800"', 1, "unknown escape"),
        ("a = " + "[" * (NESTING_MAX + 1), 1, "nested deeper"),
        ("}", 1, "expected a key"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(HclSyntaxError) as caught:
        parse_hcl(text)
    assert caught.value.line == line
    assert words in str(caught.value)


names = st.from_regex(r"[a-z_][a-z0-9_\-]{0,8}", fullmatch=True)
scalars = (
    st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=12).filter(str.isprintable)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


def as_hcl(value: Any, blocks: bool) -> str:
    if isinstance(value, dict):
        return "{\n" + items_as_hcl(value, blocks) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_hcl(item, blocks) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def items_as_hcl(items: dict[str, Any], blocks: bool) -> str:
    lines = []
    for key, value in items.items():
        mark = " " if blocks and isinstance(value, dict) else " = "
        lines.append(f"{key}{mark}{as_hcl(value, blocks)}\n")
    return "".join(lines)


@given(tree=st.dictionaries(names, values, max_size=4), blocks=st.booleans())
def test_hcl_means_what_the_same_json_means(tree: dict[str, Any], blocks: bool) -> None:
    assert parse_hcl(items_as_hcl(tree, blocks)) == json.loads(json.dumps(tree))


@given(text=st.text(alphabet=st.sampled_from('ab{}[]="\\\n, #/*<E1-.'), max_size=40))
def test_any_text_is_values_or_a_syntax_error(text: str) -> None:
    line = 1
    try:
        parse_hcl(text)
    except HclSyntaxError as error:
        line = error.line
    assert 1 <= line <= text.count("\n") + 1
