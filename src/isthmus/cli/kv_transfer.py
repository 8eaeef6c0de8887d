"""``isthmus kv export`` and ``import``: keys and values as JSON, in Consul's format.

Source: protocol/cli-config-dns.md §1.2.
"""

import base64
import binascii
import json
import posixpath
import sys
from pathlib import Path
from typing import Any, Final

from isthmus.cli.client import (
    CLIENT_FLAGS,
    QUERY_FLAGS,
    AgentClient,
    RequestFailed,
    failing_as,
    key_path,
)
from isthmus.cli.command import Command, CommandFailed, say
from isthmus.cli.flags import Flag, Parsed, UsageError


def _export(args: Parsed) -> int:
    if len(args.rest) > 1:
        raise UsageError(f"Too many arguments (expected 1, got {len(args.rest)})")
    prefix = (args.rest[0] if args.rest else "").removeprefix("/")
    with failing_as("Error querying Consul agent"):
        pairs = AgentClient.of(args).get_list(key_path(prefix), {"recurse": ""})
        shown = [_exported(pair) for pair in pairs]
    say(json.dumps(shown, indent="\t", ensure_ascii=False))
    return 0


def _exported(pair: Any) -> dict[str, Any]:
    try:
        return {"key": pair["Key"], "flags": pair["Flags"], "value": pair["Value"] or ""}
    except (KeyError, TypeError) as error:
        raise RequestFailed(f"the answer is no list of keys: {error!r}") from error


def _import(args: Parsed) -> int:
    entries = [_entry(entry) for entry in _parsed(_data(args))]
    client = AgentClient.of(args)
    for key, flags, value in entries:
        key = posixpath.normpath(f"{args['prefix']}/{key}").lstrip("/") if args["prefix"] else key
        try:
            client.put(key_path(key), {"flags": flags} if flags else None, value)
        except RequestFailed as error:
            raise CommandFailed(f"Error! Failed writing data for key {key}: {error}") from error
        say(f"Imported: {key}")
    return 0


def _data(args: Parsed) -> str:
    """The argument: ``@file``, ``-`` for standard input, or the JSON itself."""
    if not args.rest:
        raise UsageError("Error! Missing DATA argument")
    if len(args.rest) > 1:
        raise UsageError(f"Error! Too many arguments (expected 1, got {len(args.rest)})")
    (text,) = args.rest
    if not text:
        raise UsageError("Error! Empty DATA argument")
    try:
        if text == "-":
            return sys.stdin.read()
        return Path(text[1:]).read_text() if text.startswith("@") else text
    except OSError as error:
        text = f"Error! Failed to read file: {text[1:]}: {error.strerror}"
        raise CommandFailed(text) from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"Error! Failed to read file: {error}") from error


def _parsed(text: str) -> list[Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandFailed(f"Cannot unmarshal data: {error}") from error
    if not isinstance(entries, list):
        raise CommandFailed("Cannot unmarshal data: it is no list of keys as kv export prints it")
    return entries


def _entry(entry: Any) -> tuple[str, int, bytes]:
    """Key, flags and value of an entry; all are checked before the first is written."""
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
        raise CommandFailed("Cannot unmarshal data: an entry has no key")
    key, flags = entry["key"], entry.get("flags", 0)
    if type(flags) is not int or flags < 0:
        raise CommandFailed(f"Cannot unmarshal data: the flags of {key} are no number")
    try:
        return key, flags, base64.b64decode(entry.get("value") or "", validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise CommandFailed(f"Error base 64 decoding value for key {key}: {error}") from error


EXPORT: Final = Command(
    "kv export",
    "Print all keys under a prefix with their values as JSON, for kv import.",
    _export,
    (*CLIENT_FLAGS, *QUERY_FLAGS),
    arguments="[PREFIX]",
    count=None,
    examples=("isthmus kv export config >config.json",),
)
IMPORT: Final = Command(
    "kv import",
    "Write keys and values from JSON that kv export printed; @FILE and - are read.",
    _import,
    (
        Flag("prefix", "What to put before each key.", placeholder="PREFIX"),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="DATA",
    count=None,
    examples=("isthmus kv import -prefix=dc2 @config.json",),
)
