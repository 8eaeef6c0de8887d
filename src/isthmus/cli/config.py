"""``isthmus config write``, ``read``, ``list`` and ``delete``: config entries.

Source: protocol/cli-config-dns.md §1.2; protocol/http-api.md §6.6.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final, cast

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, failing_as, path_part
from isthmus.cli.command import Command, CommandFailed, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch, whole_number
from isthmus.errors import MalformedPacket
from isthmus.model.config_entry import MESH, MESH_NAME, ConfigEntry
from isthmus.wire import gojson
from isthmus.wire.written_entry import read_entry

FILE_SIZE_MAX: Final = 2 * 1024 * 1024
"""Longest file that is read, in bytes: what an agent takes."""

_PATH: Final = "/v1/config"
_FOUND: Final = b"true"
_WRONG_INPUT: Final = "Failed to decode config entry input"


def _write(args: Parsed) -> int:
    if len(args.rest) != 1:
        raise UsageError(
            "Must provide exactly one positional argument to specify the config entry to write"
        )
    entry = _entry(_text(args.rest[0]))
    # Entries that write no name have one all the same.
    place = f"{entry.kind}/{entry.name}"
    query = {"cas": args["modify-index"]} if args["cas"] else None
    with failing_as(f"Error writing config entry {place}"):
        answer = AgentClient.of(args).put(_PATH, query, gojson.encode(entry))
    if answer.strip() != _FOUND:
        raise CommandFailed(f"Config entry not updated: {place}")
    say(f"Config entry written: {place}")
    return 0


def _text(source: str) -> str:
    """What a file, or with ``-`` standard input, holds."""
    if not source:
        raise CommandFailed(
            "Failed to load data: must specify a file path or '-' for standard input"
        )
    try:
        if source == "-":
            data = sys.stdin.buffer.read(FILE_SIZE_MAX + 1)
        else:
            with Path(source).open("rb") as file:
                data = file.read(FILE_SIZE_MAX + 1)
        if len(data) > FILE_SIZE_MAX:
            raise CommandFailed(
                f"Failed to load data: {source} is longer than {FILE_SIZE_MAX} bytes"
            )
        return data.decode("utf-8-sig")
    except OSError as error:
        raise CommandFailed(
            f"Failed to load data: Failed to read file: {source}: {error.strerror or error}"
        ) from None
    except UnicodeDecodeError:
        raise CommandFailed(f"Failed to load data: {source} is not UTF-8") from None


def _entry(text: str) -> ConfigEntry:
    """Read an entry; a text that starts with ``{`` is JSON, any other HCL."""
    from isthmus.config.hcl import HclSyntaxError, parse_hcl  # Other commands need no reader.

    try:
        written = json.loads(text) if text.lstrip()[:1] == "{" else parse_hcl(text)
        return read_entry(cast(dict[str, Any], written))
    except HclSyntaxError as error:
        raise CommandFailed(f"{_WRONG_INPUT}: line {error.line}: {error}") from None
    except (MalformedPacket, ValueError, RecursionError) as error:
        raise CommandFailed(f"{_WRONG_INPUT}: {error}") from None


def _read(args: Parsed) -> int:
    kind, name = _kind(args), _name(args)
    with failing_as(f"Error reading config entry {kind}/{name}"):
        entry = AgentClient.of(args).get_object(_entry_path(kind, name))
    say(json.dumps(entry, indent=4, ensure_ascii=False))
    return 0


def _list(args: Parsed) -> int:
    kind = _kind(args)
    with failing_as(f'Error listing config entries for kind "{kind}"'):
        entries = AgentClient.of(args).get_list(f"{_PATH}/{path_part(kind)}")
    for entry in entries:
        say(MESH_NAME if kind == MESH else entry["Name"])
    return 0


def _delete(args: Parsed) -> int:
    kind, name = _kind(args), _name(args)
    with failing_as(f"Error deleting config entry {kind}/{name}"):
        AgentClient.of(args).delete(_entry_path(kind, name))
    say(f"Config entry deleted: {kind}/{name}")
    return 0


def _kind(args: Parsed) -> str:
    kind: str = args["kind"]
    if not kind:
        raise UsageError("Must specify the -kind parameter")
    return kind


def _name(args: Parsed) -> str:
    name: str = args["name"]
    if not name:
        raise UsageError("Must specify the -name parameter")
    return name


def _entry_path(kind: str, name: str) -> str:
    return f"{_PATH}/{path_part(kind)}/{path_part(name)}"


_KIND: Final = Flag("kind", "Kind of the config entry.", placeholder="KIND")
_NAME: Final = Flag("name", "Its name.", placeholder="NAME")

WRITE: Final = Command(
    "config write",
    "Write a config entry of a file in HCL or JSON, or of standard input.",
    _write,
    (
        switch("cas", "Write only if the entry has not changed since -modify-index."),
        Flag(
            "modify-index",
            "ModifyIndex that -cas compares; 0: there is no such entry yet.",
            whole_number,
            0,
            placeholder="INDEX",
        ),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="FILE|-",
    count=None,
    examples=("isthmus config write web.hcl", "isthmus config write - < web.json"),
)
READ: Final = Command(
    "config read",
    "Print a config entry as JSON.",
    _read,
    (_KIND, _NAME, *CLIENT_FLAGS, *QUERY_FLAGS),
    examples=("isthmus config read -kind proxy-defaults -name global",),
)
LIST: Final = Command(
    "config list",
    "List the names of all config entries of a kind.",
    _list,
    (_KIND, *CLIENT_FLAGS, *QUERY_FLAGS),
    examples=("isthmus config list -kind service-defaults",),
)
DELETE: Final = Command(
    "config delete",
    "Delete a config entry.",
    _delete,
    (_KIND, _NAME, *CLIENT_FLAGS, *QUERY_FLAGS),
    examples=("isthmus config delete -kind service-defaults -name web",),
)
