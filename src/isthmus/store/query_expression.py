"""Expressions in the texts of prepared queries: ``${match(1)}``, ``${match(2) == "" ? "a" : "b"}``.

A text is read once and filled in for each name that is asked for. An expression is made of
variables, the function ``match``, texts in quotes (which may hold expressions themselves),
integers, ``true`` and ``false``, parentheses, ``c ? a : b`` and the operators below; ``$$`` is a
dollar sign. Texts stand for the integers that they show where integers are needed. Errors are
worded as Consul does.

========================  ==========================
``||``                    loosest
``&&``
``== !=``
``> >= < <=``
``+ -``
``* / %``                 tightest; all from left to right
========================  ==========================

Source: Consul 1.10, run. It also knows fractions, which no text of a service needs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

EXPRESSIONS_MAX: Final = 1024
"""Expressions in one text."""
NESTING_MAX: Final = 32
"""Expressions, parentheses and calls inside one another."""
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1
_LEVELS: Final = (
    ("||",),
    ("&&",),
    ("==", "!="),
    (">=", "<=", ">", "<"),
    ("+", "-"),
    ("*", "/", "%"),
)
_SYMBOLS: Final = (
    *(symbol for level in _LEVELS for symbol in level if len(symbol) > 1),
    *"()[]{},?:!><+-*/%.",
)
_SPACE: Final = " \t\r\n"
_EXTRA_LETTERS: Final = "_-.*"
_ESCAPES: Final = {"\\": "\\", '"': '"', "n": "\n"}
_END: Final = ""

Value: TypeAlias = str | int | bool


class Fault(Exception):
    """A text is malformed, or cannot be filled in; says why."""


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


def parse(text: str) -> Expression:
    """Make a function that fills in a text.

    Raises:
        Fault: It is malformed.
    """
    return _Parser(text).text(quoted=False)


def shown(value: Value) -> str:
    """A value as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@dataclass(slots=True)
class _Parser:
    """Reads a text from left to right."""

    source: str
    at: int = 0
    count: int = 0
    depth: int = 0

    def text(self, *, quoted: bool) -> Expression:
        """Literal text with expressions, up to the end or the closing quote."""
        start, parts, letters = self.at, list[str | Expression](), list[str]()
        while letter := self._take():
            if quoted and letter == '"':
                break
            if quoted and letter == "\\":
                letters.append(self._escaped())
            elif letter == "$" and self._peek() == "{":
                self._take()
                parts += ["".join(letters), self._interpolation()]
                letters.clear()
                start = self.at
            else:
                if letter == "$" and self._peek() == "$":
                    self._take()
                letters.append(letter)
        else:
            if quoted:
                rest = _quote(self.source[start:])
                raise self._fault(start, f'expected "${{" but found invalid sequence {rest}')
        parts.append("".join(letters))
        return _joined([part for part in parts if part != ""])

    def _escaped(self) -> str:
        meant = _ESCAPES.get(self._peek())
        if meant is None:
            raise self._fault(self.at - 1, "invalid backslash escape sequence")
        self._take()
        return meant

    def _interpolation(self) -> Expression:
        self.count += 1
        if self.count > EXPRESSIONS_MAX:
            raise self._fault(self.at, f"more than {EXPRESSIONS_MAX} expressions")
        found = self._expression()
        self._expect("}")
        return found

    def _expression(self) -> Expression:
        self._enter()
        found = self._binary(0)
        if self._symbol() == "?":
            self.at += 1
            yes = self._expression()
            self._expect(":", "expected : but found ")
            found = _conditional(found, yes, self._expression())
        self.depth -= 1
        return found

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise self._fault(self.at, f"more than {NESTING_MAX} levels of nesting")

    def _binary(self, level: int) -> Expression:
        """Operands of one level of operators, and what is tighter between them."""
        if level == len(_LEVELS):
            return self._term()
        first = self._binary(level + 1)
        steps: list[tuple[str, Expression]] = []
        while (symbol := self._symbol()) in _LEVELS[level]:
            self.at += len(symbol)
            steps.append((symbol, self._binary(level + 1)))
        return _chain(first, steps) if steps else first

    def _term(self) -> Expression:
        symbol, signs = self._symbol(), list[str]()
        while symbol in {"-", "!"}:
            self.at += 1
            signs.append(symbol)
            symbol = self._symbol()
        found = self._operand(symbol)
        return _signed(found, signs[::-1]) if signs else found

    def _operand(self, symbol: str) -> Expression:
        letter = self._peek()
        if symbol == "(":
            self.at += 1
            found = self._expression()
            self._expect(")")
            return found
        if letter == '"':
            self._take()
            self._enter()
            found = self.text(quoted=True)
            self.depth -= 1
            return found
        if _is_digit(letter):
            return self._number()
        if letter == "_" or letter.isalpha():
            return self._identifier()
        raise self._unexpected("expected expression but found ")

    def _number(self) -> Expression:
        start = self.at
        text = self._digits()
        if self._peek() == ".":
            raise self._fault(start, "fractions are not supported, use integers")
        if len(text.lstrip("0")) > 19 or int(text) > _INT_MAX:
            number = f"strconv.Atoi: parsing {_quote(text)}: value out of range"
            raise self._fault(start, f"invalid integer: {number}")
        value = int(text)
        return lambda scope: value

    def _digits(self) -> str:
        start = self.at
        while _is_digit(self._peek()):
            self.at += 1
        return self.source[start : self.at]

    def _word(self) -> str:
        start = self.at
        while (letter := self._peek()) and (letter.isalnum() or letter in _EXTRA_LETTERS):
            if letter == "*" and self.source[self.at - 1] != ".":
                break
            self.at += 1
        return self.source[start : self.at]

    def _identifier(self) -> Expression:
        where, name = self._place(self.at), self._word()
        if name in {"true", "false"}:
            return lambda scope: name == "true"
        symbol = self._symbol()
        if symbol == "[":
            raise self._fault(self.at, "there is nothing that could be indexed")
        if symbol != "(":
            return _variable(name, where)
        self.at += 1
        arguments = list[Expression]()
        while self._symbol() != ")":
            arguments.append(self._expression())
            if self._symbol() != ",":
                break
            self.at += 1
        self._expect(")")
        return _call(name, arguments, where)

    def _peek(self) -> str:
        return self.source[self.at : self.at + 1]

    def _take(self) -> str:
        letter = self._peek()
        self.at += len(letter)
        return letter

    def _symbol(self) -> str:
        """The operator or bracket that comes next, behind spaces; empty if there is none."""
        while self._peek() and self._peek() in _SPACE:
            self.at += 1
        return next((one for one in _SYMBOLS if self.source.startswith(one, self.at)), _END)

    def _expect(self, symbol: str, text: str = "") -> None:
        if self._symbol() != symbol:
            raise self._unexpected(text or f'expected "{symbol}" but found ')
        self.at += len(symbol)

    def _unexpected(self, text: str) -> Fault:
        symbol, letter, start = self._symbol(), self._peek(), self.at
        if symbol:
            found = f'"{symbol}"'
        elif not letter:
            found = "end of string"
        elif letter == '"':
            found = "opening quote"
        elif _is_digit(letter):
            found = f"integer {self._digits()}"
        else:
            word = self._word()
            found = f'"{word}"' if word else f"invalid sequence {_quote(letter)}"
        return self._fault(start, text + found)

    def _fault(self, at: int, text: str) -> Fault:
        return Fault(f"parse error at {self._place(at)}: {text}")

    def _place(self, at: int) -> str:
        """Line and column of a character."""
        return f"{self.source.count(chr(10), 0, at) + 1}:{at - self.source.rfind(chr(10), 0, at)}"


def _is_digit(letter: str) -> bool:
    return letter.isascii() and letter.isdigit()


def _quote(text: str) -> str:
    return '"' + text[:64].replace("\\", "\\\\").replace('"', '\\"') + '"'


# What is done when a text is filled in ------------------------------------------------------------


def _joined(parts: list[str | Expression]) -> Expression:
    """Text of all parts, one behind the other."""
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]

    def evaluate(scope: Scope) -> Value:
        return "".join([part if isinstance(part, str) else shown(part(scope)) for part in parts])

    return evaluate


def _variable(name: str, where: str) -> Expression:
    def evaluate(scope: Scope) -> Value:
        value = scope.variables.get(name)
        if value is None:
            raise Fault(f"{where}: unknown variable accessed: {name}")
        return value

    return evaluate


def _call(name: str, arguments: list[Expression], where: str) -> Expression:
    def evaluate(scope: Scope) -> Value:
        if name != "match":
            raise Fault(f"{where}: unknown function called: {name}")
        if len(arguments) != 1:
            raise Fault(f"{where}: match: expected 1 arguments, got {len(arguments)}")
        number = _integer(arguments[0](scope))
        return scope.matches[number] if 0 <= number < len(scope.matches) else ""

    return evaluate


def _conditional(condition: Expression, yes: Expression, no: Expression) -> Expression:
    return lambda scope: (yes if _truth(condition(scope)) else no)(scope)


def _signed(operand: Expression, signs: list[str]) -> Expression:
    """An operand behind signs, the innermost first."""

    def evaluate(scope: Scope) -> Value:
        value = operand(scope)
        for sign in signs:
            value = _bounded(-_integer(value)) if sign == "-" else not _truth(value)
        return value

    return evaluate


def _chain(first: Expression, steps: list[tuple[str, Expression]]) -> Expression:
    """A value, and what is done to it one after the other."""

    def evaluate(scope: Scope) -> Value:
        value = first(scope)
        for operator, operand in steps:
            value = _OPERATORS[operator](value, operand(scope))
        return value

    return evaluate


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, bool) != isinstance(other, bool):
        raise Fault("true and false can only be compared with each other")
    if type(one) is not type(other):
        return _integer(one) == _integer(other)
    return one == other


def _divided(one: int, other: int) -> int:
    """As Go divides: towards zero."""
    if not other:
        raise Fault("__builtin_IntMath: divide by zero")
    return abs(one) // abs(other) * (1 if (one < 0) == (other < 0) else -1)


def _of_integers(compute: Callable[[int, int], Value]) -> Callable[[Value, Value], Value]:
    def evaluate(one: Value, other: Value) -> Value:
        value = compute(_integer(one), _integer(other))
        return value if isinstance(value, bool | str) else _bounded(value)

    return evaluate


_OPERATORS: Final[Mapping[str, Callable[[Value, Value], Value]]] = {
    "||": lambda one, other: _truth(one) | _truth(other),
    "&&": lambda one, other: _truth(one) & _truth(other),
    "==": _equal,
    "!=": lambda one, other: not _equal(one, other),
    ">": _of_integers(lambda one, other: one > other),
    ">=": _of_integers(lambda one, other: one >= other),
    "<": _of_integers(lambda one, other: one < other),
    "<=": _of_integers(lambda one, other: one <= other),
    "+": _of_integers(lambda one, other: one + other),
    "-": _of_integers(lambda one, other: one - other),
    "*": _of_integers(lambda one, other: one * other),
    "/": _of_integers(_divided),
    "%": _of_integers(lambda one, other: one - _divided(one, other) * other),
}


def _truth(value: Value) -> bool:
    if not isinstance(value, bool):
        kind = "TypeString" if isinstance(value, str) else "TypeInt"
        raise Fault(f"logical operators require boolean operands, not {kind}")
    return value


def _integer(value: Value) -> int:
    """A value as the integer that it is or that it shows, in Go's notation."""
    if isinstance(value, bool):
        raise Fault("operand should be TypeInt, got TypeBool")
    if isinstance(value, int):
        return value
    digits = value[1:] if value[:1] in {"-", "+"} else value
    octal = len(digits) > 1 and digits[0] == "0" and digits.isascii() and digits.isdigit()
    try:
        number = int(digits if len(digits) <= 64 else "", 8 if octal else 0)
    except ValueError:
        parsing = f"strconv.ParseInt: parsing {_quote(value)}: invalid syntax"
        raise Fault(f"__builtin_StringToInt: {parsing}") from None
    return _bounded(-number if value.startswith("-") else number)


def _bounded(number: int) -> int:
    if not _INT_MIN <= number <= _INT_MAX:
        raise Fault("integer out of range")
    return number
