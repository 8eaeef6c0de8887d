"""Where configuration comes from: files, directories and texts, read into plain trees.

Source: protocol/cli-config-dns.md §2.2.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isthmus.config.hcl import HclSyntaxError, parse_hcl
from isthmus.errors import Mistake

FILE_SIZE_MAX: Final = 16 * 1024 * 1024
"""Longest configuration file that is read."""
FORMATS: Final = ("hcl", "json")


@dataclass(frozen=True, slots=True)
class ConfigPath:
    """A file, or a directory of files that are read in the order of their names.

    Attributes:
        path: Where it is.
        format: ``hcl`` or ``json``; empty: by the name's ending, in directories others are skipped.
    """

    path: Path
    format: str = ""


@dataclass(frozen=True, slots=True)
class ConfigText:
    """Configuration given as text.

    Attributes:
        text: The text.
        format: ``hcl`` or ``json``.
        name: What mistakes in it are reported under.
    """

    text: str
    format: str = "hcl"
    name: str = "-hcl"


Source = ConfigPath | ConfigText


@dataclass(frozen=True, slots=True)
class Tree:
    """One source, read: nested dictionaries and lists, keys as written."""

    name: str
    values: Mapping[str, object]


def read_sources(sources: Sequence[Source]) -> tuple[list[Tree], list[Mistake]]:
    """Read all sources, in order.

    Returns:
        What could be read, and what could not.
    """
    trees, mistakes = list[Tree](), list[Mistake]()
    for source in sources:
        for text in _texts(source, mistakes):
            try:
                trees.append(Tree(text.name, _parse(text)))
            except HclSyntaxError as error:
                mistakes.append(Mistake(f"{text.name}:{error.line}", "", str(error)))
            except json.JSONDecodeError as error:
                mistakes.append(Mistake(f"{text.name}:{error.lineno}", "", f"JSON: {error.msg}"))
            except (ValueError, RecursionError) as error:
                mistakes.append(Mistake(text.name, "", str(error)))
    return trees, mistakes


def _texts(source: Source, mistakes: list[Mistake]) -> Iterator[ConfigText]:
    if isinstance(source, ConfigText):
        yield source
        return
    try:
        files = sorted(source.path.iterdir()) if source.path.is_dir() else [source.path]
    except OSError as error:
        mistakes.append(_unreadable(source.path, error))
        return
    for path in files:
        language = source.format or path.suffix.removeprefix(".")
        if path != source.path and (path.is_dir() or language not in FORMATS):
            continue
        if language not in FORMATS and path.exists():
            mistakes.append(
                Mistake(
                    str(path),
                    "",
                    "the name must end in .hcl or .json",
                    "rename it, or say -config-format=hcl or -config-format=json",
                )
            )
            continue
        try:
            with path.open("rb") as file:
                data = file.read(FILE_SIZE_MAX + 1)
        except OSError as error:
            mistakes.append(_unreadable(path, error))
            continue
        if len(data) > FILE_SIZE_MAX:
            mistakes.append(Mistake(str(path), "", f"is longer than {FILE_SIZE_MAX} bytes"))
            continue
        try:
            yield ConfigText(data.decode("utf-8-sig"), language, str(path))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            mistakes.append(Mistake(f"{path}:{line}", "", "is not UTF-8"))


def _unreadable(path: Path, error: OSError) -> Mistake:
    return Mistake(str(path), "", f"cannot be read: {error.strerror or error}")


def _parse(text: ConfigText) -> dict[str, object]:
    """Read one text; HCL that starts with ``{`` is JSON, as in Consul."""
    if text.format == "json" or text.text.lstrip()[:1] == "{":
        values = json.loads(text.text) if text.text.strip() else {}
        if not isinstance(values, dict):
            raise ValueError("must hold one object { … }")
        return values
    return parse_hcl(text.text)
