"""``isthmus debug``: what an agent says of itself for a while, in one archive.

Source: protocol/cli-config-dns.md §1.2.
"""

import contextlib
import json
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from isthmus.cli.client import CLIENT_FLAGS, AgentClient, RequestFailed, failing_as
from isthmus.cli.command import Command, CommandFailed, complain, say
from isthmus.cli.flags import Flag, Parsed, switch
from isthmus.cli.streaming import Stream
from isthmus.units import Duration, parse_duration

TARGETS: Final = ("metrics", "logs", "pprof", "host", "agent", "members")
DURATION_MIN: Final = 10.0
INTERVAL_MIN: Final = 5.0
PROFILE_MAX: Final = 600.0
"""Seconds of a profile; an agent makes no longer one."""
GRACE: Final = 2.0
"""Seconds more, so that what begins at the last moment comes whole."""
FORMAT_VERSION: Final = 1

_STATIC: Final = {
    "host": "/v1/agent/host",
    "agent": "/v1/agent/self",
    "members": "/v1/agent/members",
}
_STREAMED: Final[Mapping[str, tuple[str, str, Mapping[str, str]]]] = {
    "logs": ("isthmus.log", "/v1/agent/monitor", {"loglevel": "TRACE"}),
    "metrics": ("metrics.json", "/v1/agent/metrics/stream", {}),
}
_SNAPSHOTS: Final = {"stacks.txt": "/debug/pprof/stacks", "memory.txt": "/debug/pprof/memory"}
_MOMENT: Final = "%Y-%m-%dT%H-%M-%SZ"


def _seconds(text: str) -> float:
    return parse_duration(text).seconds


class Capture:
    """One capture.

    Args:
        client: Asks the agent.
        folder: Where files are put; made by `run`.
        targets: What is captured.
        interval: Seconds between two looks at stacks and memory.
        duration: Seconds altogether.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        client: AgentClient,
        folder: Path,
        targets: tuple[str, ...],
        *,
        interval: float,
        duration: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._folder, self._targets = client, folder, targets
        self._interval, self._duration, self._clock = interval, duration, clock
        self._streams: list[Stream] = []
        self._threads: list[threading.Thread] = []
        self.problems: list[str] = []

    def run(self) -> None:
        """Capture everything; what could not be had is in `problems`.

        Raises:
            OSError: A file cannot be written.
        """
        for target, path in _STATIC.items():
            if target in self._targets:
                with self._noting(target):
                    body = self._client.get_json(path)
                    text = json.dumps(body, indent="\t")
                    (self._folder / f"{target}.json").write_text(text)
        if not {"logs", "metrics", "pprof"} & set(self._targets):
            return
        for target, (name, path, query) in _STREAMED.items():
            if target in self._targets:
                with self._noting(target):
                    self._follow(self._client.stream(path, query), self._folder / name)
        if "pprof" in self._targets:
            self._start(self._profile)
        try:
            self._wait()
        finally:
            for stream in self._streams:
                stream.close()
            for thread in self._threads:
                thread.join()

    def _wait(self) -> None:
        """Look at stacks and memory again and again until the time is over."""
        end = self._clock() + self._duration + GRACE
        count = 0
        while (left := end - self._clock()) > 0:
            if "pprof" in self._targets:
                self._look()
            say(f"==> Capture successful {_now()} ({count})")
            count += 1
            time.sleep(min(self._interval, left))

    def _look(self) -> None:
        folder = self._folder / _now()
        folder.mkdir(exist_ok=True)
        for name, path in _SNAPSHOTS.items():
            with self._noting("pprof"):
                _, body = self._client.request("GET", path)
                (folder / name).write_bytes(body)

    def _profile(self) -> None:
        seconds = min(self._duration, PROFILE_MAX)
        with self._noting("pprof"), (self._folder / "profile.folded").open("wb") as out:
            query = {"seconds": f"{seconds:g}"}
            self._client.download("/debug/pprof/profile", out, query, timeout=seconds + PROFILE_MAX)

    def _follow(self, stream: Stream, path: Path) -> None:
        """Write a stream's lines to a file until it is closed."""

        def write() -> None:
            with path.open("wb") as out:
                for line in stream:
                    out.write(line + b"\n")

        self._streams.append(stream)
        self._start(write)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _noting(self, target: str) -> "contextlib.AbstractContextManager[None]":
        @contextlib.contextmanager
        def noting() -> Any:
            try:
                yield
            except RequestFailed as error:
                self.problems.append(f"{target}: {error}")

        return noting()


def _debug(args: Parsed) -> int:
    interval, duration = args["interval"], args["duration"]
    _check(interval, duration)
    wanted = tuple(args["capture"]) or TARGETS
    if unknown := [target for target in wanted if target not in TARGETS]:
        raise CommandFailed(
            f"Capture validation failed: target not found: {unknown[0]}\n"
            f"There are: {', '.join(TARGETS)}."
        )
    client = AgentClient.of(args)
    with failing_as("Capture validation failed: error querying target agent"):
        told = client.get_object("/v1/agent/self")
    if "pprof" in wanted and not told.get("DebugConfig", {}).get("EnableDebug"):
        wanted = tuple(target for target in wanted if target != "pprof")
        complain("pprof is left out: the agent does not have enable_debug = true")
    version = told.get("Config", {}).get("Version", "")
    folder = Path(args["output"] or f"isthmus-debug-{_now()}")
    archive = folder.with_name(f"{folder.name}.tar.gz")
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise CommandFailed(
            f"Capture validation failed: output directory already exists: {folder}"
        ) from None
    except OSError as error:
        raise CommandFailed(f"cannot create {folder}: {error.strerror}") from error
    say("==> Starting debugger and capturing static information...")
    for name, value in (
        ("Agent Version", version),
        ("Interval", str(Duration.of(interval))),
        ("Duration", str(Duration.of(duration))),
        ("Output", str(archive if args["archive"] else folder)),
        ("Capture", ", ".join(wanted)),
    ):
        say(f"    {name:>14}: '{value}'")
    capture = Capture(client, folder, wanted, interval=interval, duration=duration)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # What there is until then is of use, too.
            capture.run()
        index = {
            "Version": FORMAT_VERSION,
            "AgentVersion": version,
            "Interval": str(Duration.of(interval)),
            "Duration": str(Duration.of(duration)),
            "Targets": list(wanted),
            "Problems": capture.problems,
        }
        (folder / "index.json").write_text(json.dumps(index, indent="\t"))
        if args["archive"]:
            _pack(folder, archive)
    except OSError as error:
        raise CommandFailed(f"cannot write to {folder}: {error.strerror or error}") from error
    for problem in capture.problems:
        complain(f"==> not captured: {problem}")
    say(f"Saved debug archive: {archive if args['archive'] else folder}")
    return 0


def _check(interval: float, duration: float) -> None:
    """Refuse times that make no sense.

    Raises:
        CommandFailed: They do not.
    """
    problem = ""
    if duration < DURATION_MIN:
        problem = f"duration must be longer than {Duration.of(DURATION_MIN)}"
    elif interval < INTERVAL_MIN:
        problem = f"interval must be longer than {Duration.of(INTERVAL_MIN)}"
    elif duration < interval:
        shown = f"({Duration.of(duration)}) must be longer than interval ({Duration.of(interval)})"
        problem = f"duration {shown}"
    if problem:
        raise CommandFailed(f"Capture validation failed: {problem}")


def _pack(folder: Path, archive: Path) -> None:
    """Put a folder into an archive; the folder is removed when the archive is whole."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)


def _now() -> str:
    return datetime.now(UTC).strftime(_MOMENT)  # noqa: TID251 - File names carry the time.


DEBUG: Final = Command(
    "debug",
    "Record what an agent says of itself for a while, in one archive.",
    _debug,
    (
        Flag("capture", f"What to record: {', '.join(TARGETS)}. Default: all.", repeated=True),
        Flag("duration", "How long; at least 10s.", _seconds, 120.0, placeholder="TIME"),
        Flag("interval", "Between two looks at stacks and memory.", _seconds, 30.0),
        Flag("output", "Name of the archive, without its ending.", placeholder="PATH"),
        switch("archive", "Pack the files into PATH.tar.gz.", default=True),
        *CLIENT_FLAGS,
    ),
    examples=("isthmus debug -duration=30s -interval=10s", "isthmus debug -capture=logs"),
)
