"""Text → syntax, with the error texts of the parser that Consul was built with.

The grammar, loosest first; white space may stand where a blank does, and must around words::

    expression = term "or" expression | term
    term       = factor "and" term | factor
    factor     = "not" factor | "(" expression ")" | match
    match      = selector ("==" | "!=" | "contains" | "not contains" | "matches"
                           | "not matches") value
               | selector ("is empty" | "is not empty")
               | value ("in" | "not in") selector
    selector   = name ("." name | "[" string "]")*
    value      = selector | number | string

No word is reserved: ``not == 1`` compares a field called ``not``. Alternatives are tried in this
order and the first that fits counts, as in any parsing expression grammar. Consul's parser reads
the text anew for each alternative, which takes time exponential in the depth of parentheses; this
one remembers what it found, so its time grows with the length.

Error texts follow from two rules. Where no alternative fits, the text names what could have stood
at the farthest place that any alternative reached. And some alternatives exist only to say what is
wrong (``Invalid index``): what they said stays, even if another alternative fits.
"""

import re
from collections.abc import Callable
from typing import Final

from isthmus.bexpr.literals import quote, unquote
from isthmus.bexpr.syntax import And, BadExpression, Expression, Match, Not, Operator, Or

EXPRESSION_SIZE_MAX: Final = 16 * 1024
"""Characters of an expression."""
NESTING_MAX: Final = 64
"""Parentheses inside each other; ``not`` before each other."""

_SPACE: Final = re.compile(r"[ \t\r\n]+")
_NAME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")
_WHOLE: Final = re.compile(r"0|[1-9][0-9]*")
_DIGITS: Final = re.compile(r"[0-9]+")
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")

# What errors say could have stood somewhere.
_WANT_SPACE: Final = "[ \\t\\r\\n]"
_WANT_NAME: Final = "[a-zA-Z]"
_WANT_NAME_MORE: Final = "[a-zA-Z0-9_]"
_WANT_DIGIT: Final = "[0-9]"
_WANT_FIRST_DIGIT: Final = "[1-9]"
_WANT_END: Final = "EOF"

# What errors call the rules that they arose in.
_INPUT: Final = "Input"
_GROUPING: Final = '"grouping"'
_MATCH: Final = '"match"'
_SELECTOR_PART: Final = "SelectorOrIndex"
_INDEX: Final = '"index"'
_NUMBER: Final = '"number"'
_STRING: Final = '"string"'
_WHITESPACE: Final = '"whitespace"'
_RULE_OF_CHARACTERS: Final = {"`": "RawStringChar", '"': "DoubleStringChar"}

_COMPARISONS: Final = (
    ("MatchEqual", "==", Operator.EQUAL),
    ("MatchNotEqual", "!=", Operator.NOT_EQUAL),
)
_WORDS: Final = (
    ("MatchContains", ("contains",), Operator.IN),
    ("MatchNotContains", ("not", "contains"), Operator.NOT_IN),
    ("MatchMatches", ("matches",), Operator.MATCHES),
    ("MatchNotMatches", ("not", "matches"), Operator.NOT_MATCHES),
)
_STATES: Final = (
    ("MatchIsEmpty", ("is", "empty"), Operator.IS_EMPTY),
    ("MatchIsNotEmpty", ("is", "not", "empty"), Operator.IS_NOT_EMPTY),
)
_MEMBERSHIPS: Final = (
    ("MatchIn", ("in",), Operator.IN),
    ("MatchNotIn", ("not", "in"), Operator.NOT_IN),
)


def parse(text: str) -> Expression:
    """Parse an expression.

    Raises:
        BadExpression: It is malformed, too long or nests too deep.

    Source: protocol/http-api.md §4; the texts are those of go-bexpr 0.1.2.
    """
    if len(text) > EXPRESSION_SIZE_MAX:
        raise BadExpression(
            f"the expression is longer than {EXPRESSION_SIZE_MAX} characters; shorten it"
        )
    return _Parser(text).parse()


class _Parser:
    """One reading of one text.

    Methods named after a part of the grammar read it at the current place and return it, or return
    None and stay where they were.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._farthest = 0
        self._wanted = set[str]()  # What could have stood at the farthest place.
        self._errors = dict[str, None]()  # In order, each once.
        self._found = dict[int, tuple[Expression | None, int]]()  # By where it was looked for.

    def parse(self) -> Expression:
        """Read the whole text."""
        if _NOT_UTF8.match(self._text):
            self._blame("", "invalid encoding")
        found = self._input(grouped=True) or self._input(grouped=False)
        if not self._errors and found is None:
            ends = _WANT_END in self._wanted
            wanted = sorted(self._wanted - {_WANT_END}) + [_WANT_END] * ends
            listed = " or ".join(filter(None, (", ".join(wanted[:-1]), *wanted[-1:])))
            self._at = self._farthest
            self._blame("", f"no match found, expected: {listed}")
        if self._errors:
            raise BadExpression("\n".join(self._errors))
        assert found is not None
        return found

    # What errors are made of ---------------------------------------------------------------------

    def _want(self, what: str, at: int) -> None:
        """Note what could have stood at a place."""
        if at > self._farthest:
            self._farthest = at
            self._wanted.clear()
        if at == self._farthest:
            self._wanted.add(what)

    def _blame(self, rule: str, why: str, at: int | None = None) -> None:
        """Note an error; by default it is where we are."""
        at = self._at if at is None else at
        line = self._text.count("\n", 0, at + 1) + 1
        column = at - self._text.rfind("\n", 0, at + 1)
        size = len(self._text[:at].encode("utf-8", "surrogateescape"))
        within = f": rule {rule}" if rule else ""
        self._errors[f"{line}:{column} ({size}){within}: {why}"] = None

    def _advance(self, to: int, rule: str) -> None:
        """Go on to a place; what stands there is looked at, so it must be UTF-8."""
        self._at = to
        if _NOT_UTF8.match(self._text, to):
            self._blame(rule, "invalid encoding")

    # Characters ----------------------------------------------------------------------------------

    def _literal(self, word: str, rule: str) -> bool:
        start = self._at
        if self._text.startswith(word, start):
            self._advance(start + len(word), rule)
            return True
        self._want(quote(word), start)
        if len(word) > 1:  # As much of it as is there was read.
            size = next(
                n for n in range(len(word)) if self._text[start + n : start + n + 1] != word[n]
            )
            if size:
                self._advance(start + size, rule)
                self._at = start
        return False

    def _space(self) -> bool:
        found = _SPACE.match(self._text, self._at)
        if found is None:
            self._want(_WANT_SPACE, self._at)
            return False
        self._advance(found.end(), _WHITESPACE)
        self._want(_WANT_SPACE, found.end())
        return True

    def _end(self) -> bool:
        if self._at == len(self._text):
            return True
        self._want(_WANT_END, self._at)
        start = self._at
        self._advance(start + 1, "EOF")
        self._at = start
        return False

    def _words(self, words: tuple[str, ...], rule: str) -> bool:
        """Read words with white space before each."""
        start = self._at
        if all(self._space() and self._literal(word, rule) for word in words):
            return True
        self._at = start
        return False

    # Expressions ---------------------------------------------------------------------------------

    def _input(self, *, grouped: bool) -> Expression | None:
        self._at = 0
        self._depth = 1 if grouped else 0
        self._space()
        if grouped:
            if not self._literal("(", _INPUT):
                return None
            self._space()
        found = self._or()
        if found is None:
            return None
        self._space()
        if grouped:
            if not self._literal(")", _INPUT):
                return None
            self._space()
        return found if self._end() else None

    def _or(self) -> Expression | None:
        start = self._at
        if start not in self._found:
            if self._depth > NESTING_MAX:
                raise BadExpression(
                    f"the expression has more than {NESTING_MAX} parentheses inside each other"
                )
            self._depth += 1
            terms = self._terms(self._and, "or", "OrExpression")
            self._depth -= 1
            found = Or(terms) if len(terms) > 1 else next(iter(terms), None)
            self._found[start] = found, self._at
        found, self._at = self._found[start]
        return found

    def _and(self) -> Expression | None:
        terms = self._terms(self._not, "and", "AndExpression")
        return And(terms) if len(terms) > 1 else next(iter(terms), None)

    def _terms(
        self, read: Callable[[], Expression | None], word: str, rule: str
    ) -> tuple[Expression, ...]:
        """Read terms with a word between them, as many as there are."""
        terms = list[Expression]()
        end = self._at
        while (term := read()) is not None:
            terms.append(term)
            end = self._at
            if not (self._words((word,), rule) and self._space()):
                break
        self._at = end
        return tuple(terms)

    def _not(self) -> Expression | None:
        starts = [self._at]
        while self._literal("not", "NotExpression") and self._space():
            starts.append(self._at)
            if len(starts) > NESTING_MAX:
                raise BadExpression(f'the expression has {NESTING_MAX} times "not" in a row')
        # The last "not" may be the name of a field, or the one before it.
        while starts:
            self._at = starts.pop()
            found = self._grouping()
            if found is not None:
                return Not(found) if len(starts) % 2 else found
        return None

    def _grouping(self) -> Expression | None:
        start = self._at
        if not self._literal("(", _GROUPING):
            return self._match()
        self._space()
        found = self._or()
        if found is not None:
            self._space()
            if self._literal(")", _GROUPING):
                return found
        end, self._at = self._at, start
        self._match()  # Finds nothing, but names what could have stood here.
        if found is not None:
            self._blame(_GROUPING, "Unmatched parentheses", end)
        return None

    # Matches -------------------------------------------------------------------------------------

    def _match(self) -> Expression | None:
        start = self._at
        selector = self._selector()
        after = self._at
        if selector is not None:
            operator = self._comparison() or self._one_of(_WORDS, spaced=True)
            if operator is not None:
                value = self._value()
                if value is not None:
                    return Match(selector, operator, value)
                self._at = after
            operator = self._one_of(_STATES, spaced=False)
            if operator is not None:
                return Match(selector, operator, None)
        self._at = start
        value = self._value()
        if value is not None:
            operator = self._one_of(_MEMBERSHIPS, spaced=True)
            if operator is not None:
                selector = self._selector()
                if selector is not None:
                    return Match(selector, operator, value)
                self._blame(_MATCH, "Invalid selector")
        self._at = start
        return None

    def _comparison(self) -> Operator | None:
        start = self._at
        for rule, sign, operator in _COMPARISONS:
            self._space()
            if self._literal(sign, rule):
                self._space()
                return operator
            self._at = start
        return None

    def _one_of(
        self, choices: tuple[tuple[str, tuple[str, ...], Operator], ...], *, spaced: bool
    ) -> Operator | None:
        """Read one of several operators that are words; `spaced` ones need white space behind."""
        start = self._at
        for rule, words, operator in choices:
            if self._words(words, rule) and (not spaced or self._space()):
                return operator
            self._at = start
        return None

    def _selector(self) -> tuple[str, ...] | None:
        first = self._name()
        if first is None:
            return None
        names = [first]
        while (name := self._part()) is not None:
            names.append(name)
        return tuple(names)

    def _part(self) -> str | None:
        start = self._at
        if self._literal(".", _SELECTOR_PART):
            name = self._name()
            if name is not None:
                return name
            self._at = start
        return self._index()

    def _name(self) -> str | None:
        found = _NAME.match(self._text, self._at)
        if found is None:
            self._want(_WANT_NAME, self._at)
            return None
        self._advance(found.end(), "Identifier")
        self._want(_WANT_NAME_MORE, found.end())
        return found[0]

    def _index(self) -> str | None:
        start = self._at
        if not self._literal("[", _INDEX):
            return None
        self._space()
        inside = self._at
        name = self._string()
        if name is None:
            self._at = inside
            self._blame(_INDEX, "Invalid index")
        else:
            self._space()
            if self._literal("]", _INDEX):
                return name
            self._blame(_INDEX, "Unclosed index expression")
        self._at = start
        return None

    # Values --------------------------------------------------------------------------------------

    def _value(self) -> str | None:
        selector = self._selector()
        if selector is not None:
            return ".".join(selector)
        number = self._number()
        return number if number is not None else self._string()

    def _number(self) -> str | None:
        start = self._at
        self._literal("-", _NUMBER)
        if self._digits():
            end = self._at
            # Looks ahead; white space, the end or a parenthesis must follow.
            fits = self._space() or self._end() or self._literal(")", "AfterNumbers")
            self._at = end
            if fits:
                return self._text[start:end]
            self._blame(_NUMBER, "Invalid number literal")
        self._at = start
        return None

    def _digits(self) -> bool:
        rule = "IntegerOrFloat"
        whole = _WHOLE.match(self._text, self._at)
        if whole is None:
            self._want('"0"', self._at)
            self._want(_WANT_FIRST_DIGIT, self._at)
            return False
        self._advance(whole.end(), rule)
        if whole[0] != "0":
            self._want(_WANT_DIGIT, self._at)
        if self._literal(".", rule):
            fraction = _DIGITS.match(self._text, self._at)
            if fraction is not None:
                self._advance(fraction.end(), rule)
            self._want(_WANT_DIGIT, self._at)
            self._at = whole.end() if fraction is None else fraction.end()
        return True

    def _string(self) -> str | None:
        start = self._at
        mark = next((one for one in '`"' if self._literal(one, _STRING)), "")
        if not mark:
            return None
        end = self._text.find(mark, start + 1)
        reached = len(self._text) if end < 0 else end
        for bad in _NOT_UTF8.finditer(self._text, start + 2, reached + 2):
            self._blame(_RULE_OF_CHARACTERS[mark], "invalid encoding", bad.start())
        if end < 0:
            self._blame(_STRING, "Unterminated string literal", reached)
            self._at = start
            return None
        self._advance(end + 1, _STRING)
        try:
            return unquote(self._text[start : end + 1])
        except ValueError as error:
            self._blame(_STRING, str(error), start)
            return ""
