"""``isthmus lock``: run a command while a lock is held.

Source: protocol/cli-config-dns.md §1.2.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from enum import Enum
from queue import SimpleQueue
from typing import Final

from isthmus.cli.client import CLIENT_FLAGS, QUERY_FLAGS, AgentClient, failing_as
from isthmus.cli.command import Command, CommandFailed, complain, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch, whole_number
from isthmus.cli.lock_calls import AgentLockCalls
from isthmus.cli.locking import Holding, Lock, LockFailed, LockInUse, Semaphore
from isthmus.units import parse_duration

KILL_GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL; a lost lock is closed for 15 s to others by default."""
MONITOR_RETRIES: Final = 3
CHILD_FAILED: Final = 2
"""Exit code that ``-child-exit-code`` gives for a command that failed."""
_SHELL: Final = "/bin/sh"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_HELD: Final = "CONSUL_LOCK_HELD"


class _Word(Enum):
    """What happened."""

    STOP = "we are told to end"
    TAKEN = "taking the lock came to an end"
    LOST = "the lock is not ours any more"
    CHILD_ENDED = "the command ended"


class _Events:
    """What the command waits for.

    Attributes:
        stop: Set with the first word to end.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._words: SimpleQueue[_Word] = SimpleQueue()  # A signal may come while one is put.
        self._seen: set[_Word] = set()

    def note(self, word: _Word) -> None:
        """Something happened."""
        self._words.put(word)

    def wait_for(self, *wanted: _Word) -> _Word:
        """The first of several words, as soon as one of them has come."""
        while not (come := [word for word in wanted if word in self._seen]):
            self._seen.add(self._words.get())
        return come[0]

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the signals that tell us to end, meanwhile."""

        def told(*_: object) -> None:
            self.stop.set()
            self.note(_Word.STOP)

        before = {number: signal.signal(number, told) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Child:
    """The command that runs while the lock is held."""

    def __init__(self, words: Sequence[str], args: Parsed, events: _Events) -> None:
        command = list(words)
        if args["shell"]:
            command = [os.environ.get("SHELL") or _SHELL, "-c", " ".join(words)]
        self._process = subprocess.Popen(
            command,
            stdin=None if args["pass-stdin"] else subprocess.DEVNULL,
            env={**os.environ, _HELD: "true"},
        )
        self._ended = threading.Event()
        threading.Thread(target=self._await, args=(events,), daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int:
        """Its exit code."""
        return self._process.wait()

    def _await(self, events: _Events) -> None:
        self._process.wait()
        self._ended.set()
        events.note(_Word.CHILD_ENDED)

    def kill(self) -> bool:
        """End it; False when it had to be killed."""
        self._process.terminate()
        if self._ended.wait(KILL_GRACE):
            return True
        self._process.kill()
        self._process.wait()
        return False


def _lock(args: Parsed) -> int:
    holding, words, tell = _prepare(args)
    events = _Events()
    with events.on_signals():
        tell("Waiting for the lock")
        try:
            if not _acquire(holding, events):
                raise CommandFailed("Shutdown triggered or timeout during lock acquisition")
        except LockFailed as error:
            raise CommandFailed(f"Lock acquisition failed: {error}") from error
        tell("Lock acquired")
        failed = False
        if events.stop.is_set():
            complain("Shutdown triggered during lock acquisition")
        else:
            failed = not _run(words, args, events, tell)
        _let_go(holding, tell)
    return CHILD_FAILED if failed and args["child-exit-code"] else 0


class _Teller:
    """Says what is done, if it is wanted."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose

    def __call__(self, text: str) -> None:
        if self._verbose:
            say(text)
            sys.stdout.flush()


def _prepare(args: Parsed) -> tuple[Holding, list[str], _Teller]:
    """Check the command line; make the lock or the semaphore."""
    if args["n"] <= 0:
        raise UsageError("Lock holder limit must be positive")
    if len(args.rest) < 2:
        raise UsageError("Key prefix and child command must be specified")
    prefix, words = args.rest[0].removeprefix("/"), args.rest[1:]
    timeout = max(args["timeout"], args["try"])
    if min(args["timeout"], args["try"]) < 0:
        raise UsageError("Timeout must be positive")
    if args["monitor-retry"] < 0:
        raise UsageError("Number for 'monitor-retry' must be >= 0")
    client = AgentClient.of(args)
    with failing_as("Error querying Consul agent"):
        client.get_object("/v1/agent/self")
    name = args["name"] or f"isthmus lock for '{' '.join(words)}' at '{prefix}'"
    calls, tell = AgentLockCalls(client), _Teller(verbose=args["verbose"])
    options = {"name": name, "timeout": timeout, "retries": args["monitor-retry"]}
    if args["n"] == 1:
        lock = Lock(calls, prefix, **options)
        tell(f"Lock at {lock.key}")
        return lock, words, tell
    tell(f"Semaphore of {args['n']} at {prefix}")
    return Semaphore(calls, prefix, args["n"], **options), words, tell


def _acquire(holding: Holding, events: _Events) -> bool:
    """Take the lock in another thread, so that a signal need not wait for an agent's answer."""
    outcome: list[bool | LockFailed] = []

    def take() -> None:
        try:
            outcome.append(holding.acquire(events.stop, lost=lambda: events.note(_Word.LOST)))
        except LockFailed as error:
            outcome.append(error)
        events.note(_Word.TAKEN)

    threading.Thread(target=take, daemon=True).start()
    if events.wait_for(_Word.TAKEN, _Word.STOP) is not _Word.TAKEN:
        holding.abandon()
        return False
    (result,) = outcome
    if isinstance(result, LockFailed):
        raise result
    return result


def _run(words: Sequence[str], args: Parsed, events: _Events, tell: _Teller) -> bool:
    """Run the command until it ends, or has to; whether it ended well by itself."""
    try:
        child = _Child(words, args, events)
    except OSError as error:
        complain(f"Error starting handler: {words[0]}: {error.strerror or error}")
        return False
    tell(f"Started the command, pid {child.pid}")
    word = events.wait_for(_Word.CHILD_ENDED, _Word.LOST, _Word.STOP)
    if word is _Word.CHILD_ENDED:
        if child.code:
            complain(f"Error running handler: exit status {child.code}")
        tell("The command ended")
        return child.code == 0
    tell("The lock is lost" if word is _Word.LOST else "Told to stop")
    if not child.kill():
        tell(f"The command had not ended {KILL_GRACE:g} s after SIGTERM; it was killed")
    return True


def _let_go(holding: Holding, tell: _Teller) -> None:
    try:
        holding.release()
    except LockFailed as error:
        raise CommandFailed(f"Lock release failed: {error}") from error
    try:
        holding.clean_up()
    except LockInUse:
        tell("Left the lock's key: others use it")
    except LockFailed as error:
        raise CommandFailed(f"Lock cleanup failed: {error}") from error
    else:
        tell("Removed the lock's key")


def _seconds(text: str) -> float:
    return parse_duration(text).seconds


LOCK: Final = Command(
    "lock",
    "Run a command while a lock is held; it gets SIGTERM when the lock is lost.",
    _lock,
    (
        switch("child-exit-code", f"Exit with {CHILD_FAILED} if the command fails."),
        Flag(
            "n", "How many may hold it; more than 1: a semaphore.", whole_number, 1, placeholder="N"
        ),
        Flag(
            "monitor-retry",
            "Server errors in a row that are borne while it is held, a second apart.",
            whole_number,
            MONITOR_RETRIES,
            placeholder="N",
        ),
        Flag("name", "Name of the session.", placeholder="NAME"),
        switch("pass-stdin", "The command reads our standard input."),
        switch("shell", "A shell runs the command; SHELL says which.", default=True),
        Flag(
            "timeout", "Longest wait for the lock; 0: for ever.", _seconds, 0.0, placeholder="TIME"
        ),
        Flag("try", "The older name of -timeout.", _seconds, 0.0, placeholder="TIME"),
        switch("verbose", "Say what is done."),
        *CLIENT_FLAGS,
        *QUERY_FLAGS,
    ),
    arguments="PREFIX COMMAND…",
    count=None,
    examples=("isthmus lock -n=2 jobs/backup ./backup.sh",),
)
