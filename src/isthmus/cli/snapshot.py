"""``isthmus snapshot``: save, restore, inspect and import; saving by schedule.

Source: protocol/cli-config-dns.md §1.2.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, RequestFailed
from isthmus.cli.command import Command, CommandFailed, complain, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch, whole_number
from isthmus.model.kv import DirEntry
from isthmus.store.engine import Corrupt
from isthmus.store.kv import KV
from isthmus.store.rows import decode_row
from isthmus.store.snapshot import SnapshotMeta, SnapshotReader, is_ours
from isthmus.units import parse_duration
from isthmus.wire import consul_snapshot
from isthmus.wire.archive import UnreadableSnapshot
from isthmus.wire.consul_snapshot import ConsulSnapshotReader

PATH: Final = "/v1/snapshot"
IMPORT_PATH: Final = "/v1/isthmus/snapshot/import"
LOCK_KEY: Final = "isthmus-snapshot/lock"
ROUNDS_MAX: Final = 2
"""Intervals without a sign of the agent that saves, after which another one does."""
FAILURES_MAX: Final = 3  # Consul's default.
RETRY_INTERVAL: Final = 10.0
"""Seconds after which a save that failed is tried again, if no interval is shorter."""
_KV_DEPTH: Final = 2  # Consul's default.
_GAP: Final = 6
_COLUMN_MIN: Final = 8
_UNITS: Final = ("B", "KB", "MB", "GB", "TB")


# What is in a file --------------------------------------------------------------------------------


@dataclass(slots=True)
class Sum:
    """How much there is of something."""

    count: int = 0
    size: int = 0

    def add(self, size: int) -> None:
        """Count one more."""
        self.count += 1
        self.size += size


@dataclass(slots=True)
class Contents:
    """What a snapshot holds.

    Attributes:
        facts: What it says of itself, in order of showing.
        index: Index that it was taken at.
        types: Rows by type.
        keys: Keys by their first parts, if that was asked for.
    """

    facts: dict[str, object]
    index: int
    types: dict[str, Sum] = field(default_factory=dict)
    keys: dict[str, Sum] = field(default_factory=dict)
    meta: SnapshotMeta | None = None


TYPE_NAMES: Final = {
    "nodes": "Node",
    "services": "Service",
    "checks": "Check",
    "coordinates": "CoordinateBatchUpdate",
    "kv": "KVS",
    "federation": "FederationState",
    "autopilot": "Autopilot",
    "queries": "PreparedQuery",
    "sessions": "Session",
    "config_entries": "ConfigEntry",
}
"""What the rows of a table are called, as in Consul's snapshots and in the report of an import."""


def read_contents(file: BinaryIO, *, kv_depth: int = 0, kv_filter: str = "") -> Contents:
    """Read a whole snapshot, ours or Consul's, and verify it.

    Args:
        file: The snapshot.
        kv_depth: How many parts of keys to tell apart; 0: none.
        kv_filter: Only keys that start so.

    Raises:
        UnreadableSnapshot: It is none, or damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    ours = is_ours(file)
    file.seek(0)
    found, rows = _of_isthmus(file, size) if ours else _of_consul(file, size)
    for name, row_size, key in rows:
        found.types.setdefault(name, Sum()).add(row_size)
        if kv_depth and key is not None and key.startswith(kv_filter):
            prefix = "/".join(key.split("/")[:kv_depth])
            found.keys.setdefault(prefix, Sum()).add(row_size)
    return found


_Rows = Iterator[tuple[str, int, str | None]]


def _of_isthmus(file: BinaryIO, size: int) -> tuple[Contents, _Rows]:
    reader = SnapshotReader(file)
    meta = reader.meta
    facts = {
        "ID": f"{meta.dc}-{meta.index}",
        "Size": size,
        "Index": meta.index,
        "Datacenter": meta.dc,
        "Cluster": meta.cluster_uuid,
        "Created": meta.created,
        "Version": f"isthmus {meta.format}",
    }
    rows = (
        (
            TYPE_NAMES.get(table, table),
            len(row),
            decode_row(DirEntry, row).key if table == KV.name else None,
        )
        for table, row in reader.rows()
    )
    return Contents(facts, meta.index, meta=meta), rows


def _of_consul(file: BinaryIO, size: int) -> tuple[Contents, _Rows]:
    reader = ConsulSnapshotReader(file)
    meta = reader.meta
    facts = {name: meta.get(name, "") for name in ("ID", "Size", "Index", "Term", "Version")}
    rows = (
        (
            consul_snapshot.TYPE_NAMES.get(row.type, f"type {row.type}"),
            row.size,
            str(row.value.get("Key", ""))
            if row.type == consul_snapshot.KVS and isinstance(row.value, dict)
            else None,
        )
        for row in reader.rows()
    )
    index = meta.get("Index")
    return Contents(facts, index if isinstance(index, int) else 0), rows


def format_size(size: int) -> str:
    """Bytes in the largest unit that leaves a number of at least 1, as Consul shows them."""
    unit = 0
    value = float(size)
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return "0" if not size else f"{value:.1f}".removesuffix(".0") + _UNITS[unit]


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows laid out as Consul's are: at least 8 wide, with 6 between."""
    count = max(len(row) for row in rows)
    widths = [
        max(_COLUMN_MIN, *(len(row[at]) + _GAP for row in rows if at < len(row)))
        for at in range(count)
    ]
    return "\n".join(
        (
            " " + "".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    )


def _table(heading: str, sums: dict[str, Sum]) -> str:
    line = ("----", "----", "----")
    ordered = sorted(sums.items(), key=lambda item: (-item[1].size, item[0]))
    rows = [(name, str(found.count), format_size(found.size)) for name, found in ordered]
    total = format_size(sum(found.size for found in sums.values()))
    return _columns([(heading, "Count", "Size"), line, *rows, line, ("Total", "", total)])


# Commands -----------------------------------------------------------------------------------------


def _file(args: Parsed) -> Path:
    if not args.rest:
        raise UsageError("Missing FILE argument")
    if len(args.rest) > 1:
        raise UsageError(f"Too many arguments (expected 1, got {len(args.rest)})")
    return Path(args.rest[0])


@contextmanager
def _opened(path: Path, failure: str) -> Iterator[BinaryIO]:
    """Open a snapshot; what is wrong with it ends the command.

    Raises:
        CommandFailed: The file or what is in it cannot be read, or the agent did not do it.
    """
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CommandFailed(f"Error opening snapshot file: {path}: {error.strerror}") from error
    except (RequestFailed, UnreadableSnapshot, Corrupt) as error:
        raise CommandFailed(f"{failure}: {error}") from error


def save_file(client: AgentClient, path: Path) -> Contents:
    """Have a snapshot sent, verify it, and only then give the file its name.

    Raises:
        RequestFailed: It was not sent.
        UnreadableSnapshot: What was sent is damaged.
        OSError: The file cannot be written.
    """
    unverified = path.with_name(f".{path.name}.{os.getpid()}.unverified")
    try:
        descriptor = os.open(unverified, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w+b") as file:
            client.download(PATH, file)
            contents = read_contents(file)
            os.fsync(file.fileno())
        unverified.replace(path)
    finally:
        unverified.unlink(missing_ok=True)
    return contents


def _save(args: Parsed) -> int:
    path = _file(args)
    try:
        contents = save_file(AgentClient.of(args), path)
    except UnreadableSnapshot as error:
        raise CommandFailed(f"Error verifying snapshot file: {error}") from error
    except RequestFailed as error:
        raise CommandFailed(f"Error saving snapshot: {error}") from error
    except OSError as error:
        raise CommandFailed(f"Error saving snapshot: {path}: {error.strerror or error}") from error
    say(f"Saved and verified snapshot to index {contents.index}")
    return 0


def _restore(args: Parsed) -> int:
    path = _file(args)
    client = AgentClient.of(args)
    with _opened(path, "Error restoring snapshot") as file:
        client.upload(PATH, file, path.stat().st_size)
    say("Restored snapshot")
    return 0


def _inspect(args: Parsed) -> int:
    path = _file(args)
    if args["format"] not in {"pretty", "json"}:
        raise UsageError(f"Unknown format: {args['format']}")
    depth = args["kvdepth"] if args["kvdetails"] else 0
    if args["kvdetails"] and depth < 1:
        raise UsageError("-kvdepth must be at least 1")
    with _opened(path, "Error reading snapshot") as file:
        found = read_contents(file, kv_depth=depth, kv_filter=args["kvfilter"])
    if args["format"] == "json":
        shown: dict[str, Any] = {"Meta": found.facts, "Stats": _json(found.types)}
        if depth:
            shown["StatsKV"] = _json(found.keys)
        shown["TotalSize"] = sum(one.size for one in found.types.values())
        say(json.dumps(shown, indent=3))
        return 0
    parts = [_columns([(name, str(value)) for name, value in found.facts.items()])]
    parts.append(_table("Type", found.types))
    if depth:
        parts.append(_table("Key Name", found.keys))
    say("\n\n".join(parts))
    return 0


def _json(sums: dict[str, Sum]) -> list[dict[str, object]]:
    return [
        {"Name": name, "Count": one.count, "Sum": one.size} for name, one in sorted(sums.items())
    ]


def _import(args: Parsed) -> int:
    path = _file(args)
    client = AgentClient.of(args)
    with _opened(path, "Error importing snapshot") as file:
        query = {"keep": ""} if args["keep"] else {}
        answer = json.loads(client.upload(IMPORT_PATH, file, path.stat().st_size, query))
    kinds = answer.get("Kinds") or []
    rows = [("Type", "Found", "Imported", "Kept", "Refused")]
    rows += [
        (kind["Kind"], *(str(kind[name]) for name in ("Found", "Imported", "Kept", "Refused")))
        for kind in kinds
    ]
    say(_columns(rows))
    for kind in kinds:
        left = kind["Found"] - kind["Imported"]
        if left > 0:
            names = ", ".join(kind.get("Names") or ())
            more = f": {names}" if names else ""
            say(f"\nNot imported: {left} of {kind['Kind']}, {kind['Reason']}{more}")
    refused = sum(kind["Refused"] for kind in kinds)
    return 1 if refused else 0


# Saving by schedule -------------------------------------------------------------------------------


class Turn:
    """Decides which of several agents saves, by a key that all of them see.

    Whoever saves writes the key at each interval. An agent that sees the key unchanged for
    `ROUNDS_MAX` intervals takes over; a compare-and-set lets only one do so. No clocks are
    compared.

    Args:
        client: The way to the datacenter.
        key: The key.
        holder: Who we are.
    """

    def __init__(self, client: AgentClient, key: str, holder: str) -> None:
        self._client, self._path, self._holder = client, f"/v1/kv/{key}", holder
        self._seen = 0
        self._rounds = 0
        self._has_given_up = False

    def take(self) -> bool:
        """Whether it is our turn to save; to be asked once at each interval.

        Raises:
            RequestFailed: The agent does not answer.
        """
        entries = self._client.get_list(self._path)
        index = entries[0]["ModifyIndex"] if entries else 0
        value = self._client.request("GET", self._path, {"raw": ""})[1] if entries else b""
        is_ours = self._is_ours(value)
        self._has_given_up = self._has_given_up and is_ours  # Else another agent has taken over.
        if index and (self._has_given_up or not is_ours):
            self._rounds = self._rounds + 1 if index == self._seen else 0
            self._seen = index
            if self._rounds < ROUNDS_MAX + self._has_given_up:
                return False
        return self._write(index)

    def give_up(self) -> None:
        """Leave saving to another agent; it is our turn again only when none takes over."""
        self._has_given_up = True

    def end(self) -> None:
        """Have another agent save at its next interval already, since we stop.

        Raises:
            RequestFailed: The agent does not answer.
        """
        entries = self._client.get_list(self._path)
        if entries and self._is_ours(self._client.request("GET", self._path, {"raw": ""})[1]):
            self._client.request("DELETE", self._path, {"cas": str(entries[0]["ModifyIndex"])})

    def _is_ours(self, value: bytes) -> bool:
        return value.split(b" ")[0] == self._holder.encode()

    def _write(self, index: int) -> bool:
        # The value must differ from the last one: a write of the same changes no index.
        body = f"{self._holder} {index}".encode()
        answer = self._client.put(self._path, {"cas": index}, body)
        self._seen, self._rounds, self._has_given_up = 0, 0, False
        return answer.strip() == b"true"


def thin_out(directory: Path, retain: int) -> list[Path]:
    """Remove the oldest of our files until `retain` are left; returns what was removed."""
    files = sorted(directory.glob("isthmus-*.snap"), key=lambda path: path.name)
    surplus = files[: max(0, len(files) - retain)] if retain else []
    for path in surplus:
        path.unlink(missing_ok=True)
    return surplus


def save_dated(client: AgentClient, directory: Path) -> Path:
    """Save into a file whose name tells when and at which index.

    Raises:
        RequestFailed, UnreadableSnapshot, OSError: As `save_file`.
    """
    fresh = directory / "isthmus.new"
    contents = save_file(client, fresh)
    if contents.meta is None:
        fresh.unlink()
        raise UnreadableSnapshot("the agent is not one of isthmus")
    date = "".join(letter for letter in contents.meta.created[:19] if letter.isalnum())
    path = directory / f"isthmus-{contents.meta.dc}-{date}Z-{contents.index:020d}.snap"
    return fresh.replace(path)


class Schedule:
    """Saves at each interval, if it is our turn; what failed is tried again soon.

    Args:
        client: The way to the datacenter.
        turn: Decides which of several agents saves; None: we do.
        directory: Where files are kept.
        retain: How many of them; 0: all.
        interval: Seconds between two.
        failures_max: Failures in a row after which another agent shall try.
    """

    def __init__(
        self,
        client: AgentClient,
        turn: Turn | None,
        directory: Path,
        *,
        retain: int,
        interval: float = 0.0,
        failures_max: int = FAILURES_MAX,
    ) -> None:
        self._client, self._turn, self._directory = client, turn, directory
        self._retain, self._interval, self._failures_max = retain, interval, failures_max
        self._has_turn = False
        self.failure_count = 0
        """Failures since the last success, or since we gave up."""

    def round(self) -> float:
        """Save, if it is our turn; an error is said. Returns seconds until the next round."""
        try:
            if self._turn is not None and not self._has_turn and not self._turn.take():
                say("Another agent saves snapshots; waiting")
                return self._interval
            self._has_turn = True  # Until the next interval, for as long as it takes.
            path = save_dated(self._client, self._directory)
            say(f"Saved and verified snapshot {path}")
            for old in thin_out(self._directory, self._retain):
                say(f"Removed {old}")
        except (RequestFailed, UnreadableSnapshot) as error:
            return self._failed(str(error))
        except OSError as error:
            return self._failed(f"{self._directory}: {error.strerror or error}")
        self.failure_count, self._has_turn = 0, False
        return self._interval

    def _failed(self, text: str) -> float:
        complain(f"Error saving snapshot: {text}")
        self.failure_count += 1
        if self._turn is None or self.failure_count < self._failures_max:
            return min(self._interval, RETRY_INTERVAL)
        complain(f"Error saving snapshot: {self.failure_count} failures, another agent may save")
        self._turn.give_up()
        self.failure_count, self._has_turn = 0, False
        return self._interval


def _agent(args: Parsed) -> int:
    directory = Path(args["local-path"])
    if args["retain"] < 0:
        raise UsageError("-retain must not be negative")
    if args["max-failures"] < 1:
        raise UsageError("-max-failures must be at least 1")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"Error: cannot use {directory}: {error.strerror}") from error
    client = AgentClient.of(args)
    if not args["interval"]:
        once = Schedule(client, None, directory, retain=args["retain"])
        once.round()
        return 1 if once.failure_count else 0
    turn = Turn(client, args["lock-key"], f"{socket.gethostname()}/{os.getpid()}")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    schedule = Schedule(
        client,
        turn,
        directory,
        retain=args["retain"],
        interval=args["interval"],
        failures_max=args["max-failures"],
    )
    while not stopping.wait(schedule.round()):
        pass
    try:
        turn.end()
    except RequestFailed as error:
        complain(f"Another agent will save only after {ROUNDS_MAX} intervals: {error}")
    return 0


def _interval(text: str) -> float:
    seconds = parse_duration(text).seconds
    if seconds < 0:
        raise ValueError("must not be negative")
    return seconds


SAVE: Final = Command(
    "snapshot save",
    "Save all data of a datacenter in a file, and verify it.",
    _save,
    (*CLIENT_FLAGS, *QUERY_FLAGS),
    arguments="FILE",
    count=None,
    examples=("isthmus snapshot save backup.snap",),
)
RESTORE: Final = Command(
    "snapshot restore",
    "Replace all data of a datacenter by that of a snapshot, at once and whole.",
    _restore,
    (*CLIENT_FLAGS, *QUERY_FLAGS),
    arguments="FILE",
    count=None,
    examples=("isthmus snapshot restore backup.snap",),
)
INSPECT: Final = Command(
    "snapshot inspect",
    "Show what a snapshot holds, one of isthmus or of Consul; needs no agent.",
    _inspect,
    (
        switch("kvdetails", "Also by first parts of the keys."),
        Flag("kvdepth", "How many parts.", whole_number, _KV_DEPTH, placeholder="N"),
        Flag("kvfilter", "Only keys that start so.", placeholder="PREFIX"),
        Flag("format", "pretty or json.", default="pretty", placeholder="FORMAT"),
    ),
    arguments="FILE",
    count=None,
)
IMPORT: Final = Command(
    "snapshot import",
    "Write what is in a snapshot of Consul 1.9 or 1.10: nodes, services, keys, sessions, queries.",
    _import,
    (
        switch("keep", "Leave what is there already as it is, instead of replacing it."),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="FILE",
    count=None,
    examples=("isthmus snapshot import -keep consul.snap",),
)
AGENT: Final = Command(
    "snapshot agent",
    "Save snapshots by schedule; of several such agents one does it.",
    _agent,
    (
        Flag("interval", "Between two; 0 saves one and ends.", _interval, 3600.0, placeholder="1h"),
        Flag("retain", "How many to keep; 0 keeps all.", whole_number, 30, placeholder="N"),
        Flag("local-path", "Where to keep them.", default=".", placeholder="DIR"),
        Flag(
            "max-failures",
            "Failures in a row after which another agent shall save.",
            whole_number,
            FAILURES_MAX,
            placeholder="N",
        ),
        Flag("lock-key", "Key by which agents agree who saves.", default=LOCK_KEY),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    examples=("isthmus snapshot agent -interval 1h -retain 48 -local-path /var/backups/isthmus",),
)
