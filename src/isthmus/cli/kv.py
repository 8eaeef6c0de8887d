"""``isthmus kv get``, ``put`` and ``delete``.

Source: protocol/cli-config-dns.md §1.2.
"""

import base64
import binascii
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
from isthmus.cli.flags import Flag, Parsed, UsageError, switch, whole_number

_DETAIL_WIDTH: Final = 17


def _key(args: Parsed, *, count_max: int = 1, required: bool = True) -> str:
    if len(args.rest) > count_max:
        raise UsageError(f"Too many arguments (expected {count_max}, got {len(args.rest)})")
    if not args.rest and required:
        raise UsageError("Error! Missing KEY argument")
    return args.rest[0] if args.rest else ""


def _get(args: Parsed) -> int:
    many = args["recurse"] or args["keys"]
    key = _key(args, required=not many).lstrip("/")
    if not key and not many:
        raise UsageError("Error! Missing KEY argument")
    client = AgentClient.of(args)
    with failing_as("Error querying Consul agent"):
        if args["keys"]:
            query = {"keys": "", "separator": args["separator"]}
            for name in client.get_list(key_path(key), query):
                say(name)
            return 0
        pairs = client.get_list(key_path(key), {"recurse": ""} if args["recurse"] else None)
    if not args["recurse"]:
        if not pairs:
            raise CommandFailed(f"Error! No key exists at: {key}")
        value = _value(pairs[0], encoded=args["base64"])
        _write(_detail(pairs[0], value) if args["detailed"] else value)
        return 0
    for number, pair in enumerate(pairs):
        value = _value(pair, encoded=args["base64"])
        if args["detailed"]:
            if number:
                say("")
            _write(_detail(pair, value))
        else:
            _write(pair["Key"].encode() + b":" + value)
    return 0


def _value(pair: dict[str, Any], *, encoded: bool) -> bytes:
    text: str = pair.get("Value") or ""
    return text.encode() if encoded else base64.b64decode(text)


def _write(data: bytes) -> None:
    """Print bytes as they are: a value need not be text."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def _detail(pair: dict[str, Any], value: bytes) -> bytes:
    rows = {
        "CreateIndex": pair.get("CreateIndex", 0),
        "Flags": pair.get("Flags", 0),
        "Key": pair["Key"],
        "LockIndex": pair.get("LockIndex", 0),
        "ModifyIndex": pair.get("ModifyIndex", 0),
        "Session": pair.get("Session") or "-",
        "Value": "",
    }
    lines = [f"{name:{_DETAIL_WIDTH}}{shown}" for name, shown in rows.items()]
    return "\n".join(lines).encode() + value


def _put(args: Parsed) -> int:
    key = _key(args, count_max=2)
    if key.startswith("/"):
        raise CommandFailed(f"Error! Invalid key. Key must not begin with a '/': {key}")
    query: dict[str, Any] = {}
    if args["flags"]:
        query["flags"] = args["flags"]
    if (args["acquire"] or args["release"]) and not args["session"]:
        raise UsageError("Error! Missing -session (required with -acquire and -release)")
    action = next((name for name in ("cas", "acquire", "release") if args[name]), "")
    if action:
        query[action] = args["modify-index"] if action == "cas" else args["session"]
    value = _data(args.rest[1] if len(args.rest) > 1 else "", encoded=args["base64"])
    try:
        answer = AgentClient.of(args).put(key_path(key), query, value)
    except RequestFailed as error:
        raise CommandFailed(f"Error! Failed writing data: {error}") from error
    if answer.strip() != b"true":
        raise CommandFailed(f"Error! {_not_done(action, key, args['modify-index'])}")
    done = {"acquire": "Lock acquired on", "release": "Lock released on"}
    say(f"Success! {done.get(action, 'Data written to')}: {key}")
    return 0


def _not_done(action: str, key: str, index: int) -> str:
    """What is said of a write that did not take place."""
    if action in {"acquire", "release"}:
        return f"Did not {action} lock"
    if index:
        return f"Did not write to {key}: CAS failed"
    return f"Did not write to {key}: CAS performed with index=0 and key already exists."


def _data(text: str, *, encoded: bool) -> bytes:
    """Read a value argument: ``@file``, ``-`` for stdin, or the value itself."""
    try:
        if text == "-":
            data = sys.stdin.buffer.read()
        elif text.startswith("@"):
            data = Path(text[1:]).read_bytes()
        else:
            data = text.encode(errors="surrogateescape")
        return base64.b64decode(data, validate=True) if encoded else data
    except OSError as error:
        raise CommandFailed(f"Error! Failed to read file: {text[1:]}: {error.strerror}") from error
    except binascii.Error as error:
        raise CommandFailed(f"Error! Cannot base 64 decode data: {error}") from error


def _delete(args: Parsed) -> int:
    key = _key(args, required=not args["recurse"])
    if key == "/":
        key = ""
    key = key.lstrip("/")
    query: dict[str, Any] = {}
    if args["recurse"]:
        if args["cas"]:
            raise UsageError("Cannot specify both -cas and -recurse!")
        query["recurse"] = ""
    elif not key:
        raise UsageError("Error! Missing KEY argument")
    if args["cas"]:
        if not args["modify-index"]:
            raise UsageError("Must specify -modify-index with -cas!")
        query["cas"] = args["modify-index"]
    elif "modify-index" in args.given:
        raise UsageError("Cannot specify -modify-index without -cas!")
    try:
        answer = AgentClient.of(args).delete(key_path(key), query)
    except RequestFailed as error:
        raise CommandFailed(f"Error! Did not delete key {key}: {error}") from error
    if args["cas"] and answer.strip() != b"true":
        raise CommandFailed(f"Error! Did not delete key {key}: CAS failed")
    say(f"Success! Deleted {'keys with prefix' if args['recurse'] else 'key'}: {key}")
    return 0


_CAS: Final = switch("cas", "Only if the key is as it was at -modify-index.")
_INDEX: Final = Flag("modify-index", "See -cas.", whole_number, 0, placeholder="N")

GET: Final = Command(
    "kv get",
    "Read a value, or all values or keys under a prefix.",
    _get,
    (
        switch("recurse", "All keys that start like KEY."),
        switch("keys", "Names only."),
        Flag("separator", "Where -keys cuts names off.", default="/", placeholder="TEXT"),
        switch("detailed", "All that is known about a key."),
        switch("base64", "Values in base64."),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="[KEY]",
    count=None,
    examples=("isthmus kv get -datacenter dc2 greeting",),
)
PUT: Final = Command(
    "kv put",
    "Write a value; @FILE and - (standard input) are read.",
    _put,
    (
        _CAS,
        _INDEX,
        Flag("flags", "A number kept with the value.", whole_number, 0, placeholder="N"),
        switch("acquire", "Lock the key for -session."),
        switch("release", "Unlock it."),
        Flag("session", "Session that locks.", placeholder="ID"),
        switch("base64", "DATA is base64."),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="KEY [DATA]",
    count=None,
)
DELETE: Final = Command(
    "kv delete",
    "Delete a key, or all keys under a prefix.",
    _delete,
    (switch("recurse", "All keys that start like KEY."), _CAS, _INDEX, *CLIENT_FLAGS, *QUERY_FLAGS),
    arguments="[KEY]",
    count=None,
)
