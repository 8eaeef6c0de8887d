"""Trees become settings: every key known, every value of its kind, merged.

Each setting remembers the place it came from, for the mistakes that are found later.

Source: protocol/cli-config-dns.md §2.2.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.config.keys import ALIASES, IGNORED_PREFIXES, KEYS, SECTIONS, Key
from isthmus.config.kinds import PORT, DurationError, merge_values
from isthmus.config.model import OFF
from isthmus.config.sources import Tree
from isthmus.errors import Mistake

_PORT_MAX = 65535
_CLOSENESS_MIN = 0.7  # Below this a suggestion confuses more than it helps.


@dataclass(frozen=True, slots=True)
class Setting:
    """What one key came to, and where it was set last."""

    value: object
    source: str


class Settings:
    """All settings so far. Mistakes are collected, not raised.

    Attributes:
        values: Settings by key name.
        mistakes: What was wrong.
        warnings: What was accepted and will not be acted on.
    """

    def __init__(self) -> None:
        self.values: dict[str, Setting] = {}
        self.mistakes: list[Mistake] = []
        self.warnings: list[str] = []

    def add_tree(self, tree: Tree) -> None:
        """Take what a file says."""
        self._add_section(tree.name, "", tree.values)

    def add_value(self, name: str, value: object, *, source: str) -> None:
        """Take one value that is of its key's kind already (a flag's, a preset's)."""
        self._set(KEYS[name], value, source)

    def _add_section(self, source: str, prefix: str, values: Mapping[str, object]) -> None:
        for written, value in values.items():
            name = prefix + written.lower()
            name = ALIASES.get(name, name)
            if value is None:
                continue
            if (key := KEYS.get(name)) is not None:
                self._read(key, value, source)
            elif name in SECTIONS:
                self._add_blocks(source, name, value)
            elif name.startswith(IGNORED_PREFIXES):
                self.warnings.append(f"{name}: ignored, it has no meaning for isthmus ({source})")
            else:
                text = f"invalid config key {name}"
                self.mistakes.append(Mistake(source, name, text, _suggestion(name)))

    def _add_blocks(self, source: str, name: str, value: object) -> None:
        blocks = value if isinstance(value, list) else [value]
        for block in blocks:
            if isinstance(block, dict):
                self._add_section(source, f"{name}.", block)
            else:
                text = f"{name} must be an object {{ … }}"
                self.mistakes.append(Mistake(source, name, text))

    def _read(self, key: Key, value: object, source: str) -> None:
        try:
            read = key.kind.read(value)
        except DurationError as error:
            remedy = 'write a number and a unit, like "30s", "5m" or "1h30m"'
            self.mistakes.append(Mistake(source, key.name, f"{key.name}: {error}", remedy))
        except ValueError as error:
            self.mistakes.append(Mistake(source, key.name, f"{key.name} {error}"))
        else:
            self._set(key, read, source)

    def _set(self, key: Key, value: object, source: str) -> None:
        if key.positive and isinstance(value, int | float) and value <= 0:
            text = f"{key.name} must be greater than zero"
            self.mistakes.append(Mistake(source, key.name, text))
            return
        if key.kind is PORT and isinstance(value, int) and not OFF <= value <= _PORT_MAX:
            text = f"{key.name} must be a port from 1 to {_PORT_MAX}, or -1 for none, not {value}"
            self.mistakes.append(Mistake(source, key.name, text))
            return
        before = self.values.get(key.name)
        if before is not None:
            value = merge_values(key.kind, before.value, value)
        self.values[key.name] = Setting(value, source)
        if not key.since and not (key.kind is PORT and value == OFF):
            why = (
                "accepted and ignored, it has no meaning for isthmus"
                if key.tier > 2
                else "accepted, but this release does not act on it yet"
            )
            self._warn(f"{key.name}: {why} ({source})")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _suggestion(name: str) -> str:
    """Name the key that was probably meant."""
    known = [*KEYS, *ALIASES]
    tail = "." + name.rpartition(".")[2]
    moved = [key for key in known if f".{key}".endswith(tail) and key != name]
    close = moved[:1] or difflib.get_close_matches(name, known, n=1, cutoff=_CLOSENESS_MIN)
    return f'did you mean "{close[0]}"?' if close else "see docs/configuration.md for all keys"
