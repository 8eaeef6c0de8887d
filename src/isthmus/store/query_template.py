"""Prepared queries that answer to all names with a prefix: their texts, filled in.

Every text of such a query's service may hold expressions in ``${…}``: the variables ``name.full``,
``name.prefix``, ``name.suffix`` and ``agent.segment``, the function ``match(N)`` over the groups of
the query's regular expression, texts in quotes (which may hold expressions themselves), integers,
and ``+ - * / %``, all of one precedence, from left to right. ``$$`` is a dollar sign.
Source: protocol/http-api.md §6.5; Consul's expressions also know fractions, which no text of a
service needs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

import msgspec

from isthmus.errors import RequestError
from isthmus.model.pattern import compile_groups
from isthmus.model.prepared_query import (
    NAME_PREFIX_MATCH,
    PreparedQuery,
    QueryDatacenterOptions,
    ServiceQuery,
)

EXPRESSIONS_MAX: Final = 1024
"""Expressions in one text."""
NESTING_MAX: Final = 32
"""Expressions, parentheses and calls inside one another."""
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1
_EXTRA_LETTERS: Final = "_-.*"
_OPERATORS: Final = "+-*/%"
_ESCAPES: Final = {"\\": "\\", '"': '"', "n": "\n"}

T = TypeVar("T")
Value: TypeAlias = str | int


@dataclass(frozen=True, slots=True)
class Scope:
    """What expressions may name.

    Attributes:
        variables: By name.
        matches: Groups of the regular expression, the whole match first.
    """

    variables: Mapping[str, str]
    matches: tuple[str, ...] = ()


Expression: TypeAlias = Callable[[Scope], Value]
Visit: TypeAlias = Callable[[str, str], str]
"""Takes a text's path, such as ``.Tags[0]``, and the text; returns what shall stand there."""


class _Fault(Exception):
    """A text is no template, or cannot be filled in; says why."""


class Template:
    """A query that was found to be a valid template.

    Args:
        query: As stored.

    Raises:
        RequestError: Of an unknown type, or a text or the regular expression is malformed, or
            names what there is not. The texts are Consul's.
    """

    def __init__(self, query: PreparedQuery) -> None:
        options = query.template
        if options.type != NAME_PREFIX_MATCH:
            raise RequestError(f"Bad Template.Type '{options.type}'")
        self._query = query
        self._texts: dict[str, Expression] = {}
        walk(query.service, self._parse)
        self._groups: Callable[[str], tuple[str, ...]] | None = None
        if options.regexp:
            try:
                self._groups = compile_groups(options.regexp)
            except ValueError as error:
                raise RequestError(f"Bad Regexp: {error}") from None
        self.render(query.name)

    def render(self, name: str, *, segment: str = "") -> PreparedQuery:
        """The query that a name stands for.

        Args:
            name: As its caller wrote it.
            segment: Network segment of the agent that it was asked at.

        Raises:
            RequestError: A text cannot be filled in.
        """
        query = self._query
        scope = Scope(
            {
                "name.full": name,
                "name.prefix": query.name,
                "name.suffix": name.removeprefix(query.name),
                "agent.segment": segment,
            },
            self._groups(name) if self._groups is not None else (),
        )

        def fill(path: str, text: str) -> str:
            try:
                return str(self._texts[path](scope))
            except _Fault as fault:
                raise RequestError(
                    f"Bad evaluation for '{text}' in Service{path}: {fault}"
                ) from None

        service = walk(query.service, fill)
        if query.template.remove_empty_tags:
            tags = tuple([tag for tag in service.tags or () if tag])
            service = msgspec.structs.replace(service, tags=tags)
        return msgspec.structs.replace(query, service=service)

    def _parse(self, path: str, text: str) -> str:
        try:
            self._texts[path] = parse(text)
        except _Fault as fault:
            raise RequestError(f"Bad format '{text}' in Service{path}: {fault}") from None
        return text


def walk(service: ServiceQuery, visit: Visit) -> ServiceQuery:
    """A service with every text replaced by what `visit` makes of it."""

    def texts(path: str, found: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if found is None:
            return None
        return tuple([visit(f"{path}[{at}]", text) for at, text in enumerate(found)])

    def pairs(path: str, found: dict[str, str] | None) -> dict[str, str] | None:
        if found is None:
            return None
        return {key: visit(f"{path}[{key}]", text) for key, text in found.items()}

    failover = service.failover
    return msgspec.structs.replace(
        service,
        service=visit(".Service", service.service),
        failover=QueryDatacenterOptions(
            nearest_n=failover.nearest_n,
            datacenters=texts(".Failover.Datacenters", failover.datacenters),
        ),
        ignore_check_ids=texts(".IgnoreCheckIDs", service.ignore_check_ids),
        near=visit(".Near", service.near),
        tags=texts(".Tags", service.tags),
        node_meta=pairs(".NodeMeta", service.node_meta),
        service_meta=pairs(".ServiceMeta", service.service_meta),
    )


# Expressions --------------------------------------------------------------------------------------


def parse(text: str) -> Expression:
    """Make a function that fills in a text.

    Raises:
        _Fault: It is malformed.
    """
    return _Parser(text).text(quoted=False)


@dataclass(slots=True)
class _Parser:
    """Reads a text from left to right."""

    source: str
    at: int = 0
    count: int = 0
    depth: int = field(default=0)

    def text(self, *, quoted: bool) -> Expression:
        """Literal text with expressions, up to the end or the closing quote."""
        parts: list[str | Expression] = []
        letters: list[str] = []
        while True:
            letter = self._take()
            if not letter:
                if quoted:
                    raise _Fault("parse error: unterminated string")
                break
            if quoted and letter == '"':
                break
            if quoted and letter == "\\" and self._peek() in _ESCAPES:
                letters.append(_ESCAPES[self._take()])
                continue
            if letter == "$" and self._peek() == "{":
                self._take()
                parts += ["".join(letters), self._interpolation()]
                letters = []
                continue
            if letter == "$" and self._peek() == "$":
                self._take()
            letters.append(letter)
        parts.append("".join(letters))
        return _joined([part for part in parts if part != ""])

    def _interpolation(self) -> Expression:
        self.count += 1
        if self.count > EXPRESSIONS_MAX:
            raise _Fault(f"parse error: more than {EXPRESSIONS_MAX} expressions")
        found = self._expression()
        self._expect("}")
        return found

    def _expression(self) -> Expression:
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise _Fault(f"parse error: more than {NESTING_MAX} levels of nesting")
        first = self._operand()
        steps: list[tuple[str, Expression]] = []
        while (operator := self._next()) and operator in _OPERATORS:
            self._take()
            steps.append((operator, self._operand()))
        self.depth -= 1
        return _arithmetic(first, steps) if steps else first

    def _operand(self) -> Expression:
        letter, minus_count = self._next(), 0
        while letter == "-":
            self._take()
            letter, minus_count = self._next(), minus_count + 1
        if minus_count:
            operand = self._operand()
            return _arithmetic(lambda scope: 0, [("+-"[minus_count % 2], operand)])
        if letter == "(":
            self._take()
            found = self._expression()
            self._expect(")")
            return found
        if letter == '"':
            self._take()
            return self._quoted()
        if letter.isascii() and letter.isdigit():
            return self._number()
        return self._identifier()

    def _quoted(self) -> Expression:
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise _Fault(f"parse error: more than {NESTING_MAX} levels of nesting")
        found = self.text(quoted=True)
        self.depth -= 1
        return found

    def _number(self) -> Expression:
        start = self.at
        while (letter := self._peek()).isascii() and letter.isdigit():
            self._take()
        value = _integer(self.source[start : self.at])
        return lambda scope: value

    def _identifier(self) -> Expression:
        start = self.at
        while (letter := self._peek()) and (letter.isalnum() or letter in _EXTRA_LETTERS):
            if letter == "*" and self.source[self.at - 1] != ".":
                break
            self._take()
        name, where = self.source[start : self.at], f"1:{start + 1}"
        if not name:
            raise self._unexpected()
        if self._next() != "(":
            return _variable(name, where)
        self._take()
        arguments = []
        if self._next() != ")":
            arguments.append(self._expression())
            while self._next() == ",":
                self._take()
                arguments.append(self._expression())
        self._expect(")")
        return _call(name, arguments, where)

    def _peek(self) -> str:
        return self.source[self.at : self.at + 1]

    def _take(self) -> str:
        letter = self._peek()
        self.at += len(letter)
        return letter

    def _next(self) -> str:
        """The next character that is no space, not taken yet; empty at the end."""
        while self._peek().isspace():
            self.at += 1
        return self._peek()

    def _expect(self, letter: str) -> None:
        if self._next() != letter:
            raise self._unexpected()
        self._take()

    def _unexpected(self) -> _Fault:
        found = self._peek()
        what = f"unexpected '{found}' at character {self.at + 1}" if found else "unexpected end"
        return _Fault(f"parse error: syntax error: {what}")


def _joined(parts: list[str | Expression]) -> Expression:
    """Text of all parts, one behind the other."""
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]

    def evaluate(scope: Scope) -> Value:
        return "".join([part if isinstance(part, str) else str(part(scope)) for part in parts])

    return evaluate


def _variable(name: str, where: str) -> Expression:
    def evaluate(scope: Scope) -> Value:
        value = scope.variables.get(name)
        if value is None:
            raise _Fault(f"{where}: unknown variable accessed: {name}")
        return value

    return evaluate


def _call(name: str, arguments: list[Expression], where: str) -> Expression:
    def evaluate(scope: Scope) -> Value:
        if name != "match":
            raise _Fault(f"{where}: unknown function called: {name}")
        if len(arguments) != 1:
            raise _Fault(f"{where}: match: expected 1 arguments, got {len(arguments)}")
        number = _integer(arguments[0](scope))
        return scope.matches[number] if 0 <= number < len(scope.matches) else ""

    return evaluate


def _arithmetic(first: Expression, steps: list[tuple[str, Expression]]) -> Expression:
    """A number, and what is done to it one after the other."""

    def evaluate(scope: Scope) -> Value:
        number = _integer(first(scope))
        for operator, operand in steps:
            number = _bounded(_computed(operator, number, _integer(operand(scope))))
        return number

    return evaluate


def _computed(operator: str, one: int, other: int) -> int:
    if operator == "+":
        return one + other
    if operator == "-":
        return one - other
    if operator == "*":
        return one * other
    if not other:
        raise _Fault("division by zero")
    quotient = abs(one) // abs(other) * (1 if (one < 0) == (other < 0) else -1)
    return quotient if operator == "/" else one - quotient * other


def _integer(value: Value) -> int:
    """A value as the integer that it is or that it shows, in Go's notation."""
    if isinstance(value, int):
        return value
    text = value.removeprefix("-").removeprefix("+") if len(value) <= 64 else ""
    octal = len(text) > 1 and text[0] == "0" and text.isascii() and text.isdigit()
    try:
        number = int(text, 8 if octal else 0)
    except ValueError:
        raise _Fault(f'parsing "{value[:64]}": invalid syntax') from None
    return _bounded(-number if value.startswith("-") else number)


def _bounded(number: int) -> int:
    if not _INT_MIN <= number <= _INT_MAX:
        raise _Fault("integer out of range")
    return number
