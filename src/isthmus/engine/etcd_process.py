"""A member of etcd as a child of the agent: found, started, watched, restarted, stopped.

The child dies with us, however we die: ``setpriv`` has the kernel send it SIGKILL when the thread
that forked it, our main thread, ends. Its log lines become ours.
Source: design of storage, §10.
"""

import asyncio
import contextlib
import json
import logging
import os
import platform
import re
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isthmus.engine.etcd_access import EtcdAccess, MemberFiles
from isthmus.names import host_port
from isthmus.store.engine import EngineUnavailable

logger = logging.getLogger("isthmus.etcd")

PEER_PORT: Final = 8304
CLIENT_PORT: Final = 8305
OPERATIONS_MAX: Final = 10_000
REQUEST_SIZE_MAX: Final = 16 * 1024 * 1024
QUOTA: Final = 8 * 1024**3
STOP_TIMEOUT: Final = 5.0
RESTART_MIN: Final = 0.5
RESTART_MAX: Final = 30.0
_HEALTHY_TIME: Final = 10.0
"""A member that ran for so long starts its waits anew."""
_LINE_SIZE_MAX: Final = 64 * 1024
_VERSION_TIMEOUT: Final = 10.0
_PROCESSORS: Final = "GOMAXPROCS"
_ENVIRONMENT: Final = {"PATH": os.environ.get("PATH", "")}
"""Variables named ETCD_… would count as flags."""
_SOCKET: Final = "client:1"
"""File beside the member's data; etcd wants its name to look like a host and a port."""
_SOCKET_PATH_MAX: Final = 100
"""Bytes of a socket's path that any system takes."""
if platform.machine() in {"aarch64", "arm64"}:
    _ENVIRONMENT["ETCD_UNSUPPORTED_ARCH"] = "arm64"  # Releases before 3.5 want it said.
_SOCKET_WARNINGS: Final = ("scheme is http", "insecurely", "insecure client requests")
"""What etcd says of a socket that needs no TLS, since only we can reach it."""
_REMOVED: Final = "permanently removed"
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.DEBUG,  # Our own lines tell the story; theirs are for looking closer.
    "warn": logging.INFO,
    "error": logging.WARNING,
    "panic": logging.ERROR,
    "fatal": logging.ERROR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdProcessConfig:
    """One member.

    Attributes:
        binary: Name or path of the program.
        directory: Where its data is.
        files: Its certificates.
        name: Its name: the server's id.
        peer_host: Address that the other members dial.
        peer_port: Port of it.
        client_port: Port on the loopback, for operators; for us where `socket` is too long.
        heartbeat: Seconds between two heartbeats of its leader.
        election: Seconds without one after which another is elected.
        quota: Bytes that its database may have.
    """

    binary: str = "etcd"
    directory: Path
    files: MemberFiles
    name: str
    peer_host: str
    peer_port: int = PEER_PORT
    client_port: int = CLIENT_PORT
    heartbeat: float = 0.1
    election: float = 1.0
    quota: int = QUOTA

    def __post_init__(self) -> None:
        """Check the relations between the values."""
        assert self.name
        assert 0 < 5 * self.heartbeat <= self.election  # etcd's own rule.

    @property
    def peer_url(self) -> str:
        """Where the other members dial us."""
        return f"https://{host_port(self.peer_host, self.peer_port)}"

    @property
    def socket(self) -> Path | None:
        """Where we reach our member without TLS: only we may enter that directory.

        None where the path is longer than a socket's may be.
        """
        path = self.directory.absolute() / _SOCKET
        return path if len(os.fsencode(path)) <= _SOCKET_PATH_MAX else None

    @property
    def access(self) -> EtcdAccess:
        """How we reach our member."""
        if self.socket is not None:
            return EtcdAccess(endpoints=(f"unix:{self.socket}",))
        return self.network_access

    @property
    def network_access(self) -> EtcdAccess:
        """How anyone on this machine reaches it who may read our certificates."""
        return EtcdAccess(
            endpoints=(f"127.0.0.1:{self.client_port}",),
            ca_file=self.files.ca,
            cert_file=self.files.certificate,
            key_file=self.files.key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Formation:
    """The cluster that a member is started into; of no meaning once it has data.

    Attributes:
        members: Peer addresses (URLs) of all its members by name, this one included.
        token: Tells clusters apart that were formed from the same names.
        new: Whether it is formed now, or exists.
    """

    members: Mapping[str, str]
    token: str
    new: bool


class EtcdProcess:
    """Runs one member for as long as it is wanted.

    Args:
        config: The member.
    """

    def __init__(self, config: EtcdProcessConfig) -> None:
        self.config = config
        self._removed: Callable[[], None] | None = None
        self._supervising: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._stopping = False
        self._was_removed = False
        self._last_words = ""
        self.version = ""
        self._number: tuple[int, ...] = ()

    @property
    def has_data(self) -> bool:
        """Whether this member has taken part in a cluster: it has a log, not just a folder."""
        return (self.config.directory / "member" / "wal").exists()

    @property
    def is_started(self) -> bool:
        """Whether it is kept running: started, and not stopped since."""
        return self._supervising is not None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None else None

    async def check(self) -> str:
        """Find the program; return its version.

        Raises:
            EngineUnavailable: There is none, or one whose release loses data.
        """
        path = shutil.which(self.config.binary)
        if path is None:
            raise EngineUnavailable(_why_absent(self.config.binary), operation="open")
        process = await asyncio.create_subprocess_exec(path, "--version", stdout=PIPE, stderr=PIPE)
        try:
            async with asyncio.timeout(_VERSION_TIMEOUT):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            raise EngineUnavailable(f"{path} --version does not end", operation="open") from None
        found = re.search(rb"(?m)^etcd Version: (\d+)\.(\d+)\.(\d+)", output)
        if found is None:
            raise EngineUnavailable(
                f"{path} is no etcd: name its program in storage.etcd.binary", operation="open"
            )
        version = tuple(int(part) for part in found.groups())
        self._number, self.version = version, ".".join(map(str, version))
        problem = version_problem(version)
        if problem:
            raise EngineUnavailable(f"{path} is etcd {self.version}: {problem}", operation="open")
        return self.version

    async def start(self, formation: Formation, *, alone: bool = False) -> None:
        """Start it, and again whenever it ends, until `stop`; it runs on return, or could not.

        Args:
            formation: The cluster, if the member has no data yet.
            alone: Go on as the only member with what is on the disk: for a cluster that has lost
                its majority for good.

        Raises:
            EngineUnavailable: There is no fit program.
        """
        await self.check()
        self._stopping = self._was_removed = False
        self._end_stale()
        self.config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.config.directory.chmod(0o700)
        launched = asyncio.Event()
        self._supervising = asyncio.get_running_loop().create_task(
            self._supervise(formation, alone=alone, launched=launched)
        )
        await launched.wait()

    def when_removed(self, told: Callable[[], None]) -> None:
        """Have somebody told when the cluster has removed this member for good.

        It is not restarted then. Who asks too late is told at once.
        """
        self._removed = told
        if self._supervising is not None and self._supervising.done() and self._was_removed:
            told()

    async def stop(self) -> None:
        """Stop it: first kindly. Idempotent."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.wait({self._supervising})
            self._supervising = None
        self._pid_file.unlink(missing_ok=True)

    def archive(self, suffix: str) -> Path | None:
        """Put the data of a member that was removed aside; where it is now."""
        directory = self.config.directory
        if not directory.exists():
            return None
        place = directory.with_name(f"{directory.name}.{suffix}")
        directory.rename(place)
        return place

    def command(self, formation: Formation, *, alone: bool = False) -> Sequence[str]:
        """The command line."""
        config = self.config
        client = f"https://127.0.0.1:{config.client_port}"
        members = ",".join(f"{name}={url}" for name, url in sorted(formation.members.items()))
        listen = f"https://{host_port(config.peer_host, config.peer_port)}"
        options = {
            "name": config.name,
            "data-dir": config.directory.absolute(),
            "listen-client-urls": f"{client},unix://{_SOCKET}" if config.socket else client,
            "advertise-client-urls": client,
            "listen-peer-urls": listen,
            "initial-advertise-peer-urls": config.peer_url,
            "initial-cluster": members,
            "initial-cluster-token": formation.token,
            "initial-cluster-state": "new" if formation.new else "existing",
            "cert-file": config.files.certificate.absolute(),
            "key-file": config.files.key.absolute(),
            "trusted-ca-file": config.files.ca.absolute(),
            "peer-cert-file": config.files.certificate.absolute(),
            "peer-key-file": config.files.key.absolute(),
            "peer-trusted-ca-file": config.files.ca.absolute(),
            "heartbeat-interval": round(config.heartbeat * 1000),
            "election-timeout": round(config.election * 1000),
            "max-txn-ops": OPERATIONS_MAX,
            "max-request-bytes": REQUEST_SIZE_MAX,
            "quota-backend-bytes": config.quota,
            # A member reads its log from the last snapshot on when it starts; one that is alone
            # also leads at once only if there is one.
            "snapshot-count": 1000,
            # Its database may be synced less often than every 100 ms: its log is what counts.
            "backend-batch-interval": "500ms",
            "auto-compaction-mode": "revision",
            "auto-compaction-retention": 10_000,
            "logger": "zap",
            "log-outputs": "stderr",
        }
        switches = [
            "client-cert-auth",
            "peer-client-cert-auth",
            "pre-vote",
            "strict-reconfig-check",
            # A machine with several addresses dials from another one than it listens on. Members
            # are told apart by an authority that signs nothing else.
            "peer-skip-client-san-verification"
            if self._number >= (3, 6)
            else "experimental-peer-skip-client-san-verification",
        ]
        if alone:
            switches.append("force-new-cluster")
        program = shutil.which(config.binary)
        setpriv = shutil.which("setpriv")
        guard = (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
        return (
            *guard,
            os.path.abspath(program) if program else config.binary,
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--{name}" for name in switches),
        )

    def environment(self, formation: Formation) -> Mapping[str, str]:
        """The environment: what etcd may use of the machine.

        Half of the processors are for the agent. On two, three members that look for work on both
        spend a third of their time with that; one that is alone is ready earlier with all of them.
        """
        count = len(os.sched_getaffinity(0))
        usable = count if len(formation.members) == 1 else max(1, count // 2)
        return {**_ENVIRONMENT, _PROCESSORS: os.environ.get(_PROCESSORS, str(usable))}

    # Supervision ------------------------------------------------------------------------------

    async def _supervise(
        self, formation: Formation, *, alone: bool, launched: asyncio.Event
    ) -> None:
        clock = asyncio.get_running_loop()
        wait = RESTART_MIN
        while True:
            started = clock.time()
            code = await self._run_once(formation, alone=alone, launched=launched)
            alone = False
            if self._stopping:
                return
            if self._was_removed:
                logger.warning("this member was removed from the cluster")
                if self._removed is not None:
                    self._removed()
                return
            if clock.time() - started > _HEALTHY_TIME:
                wait = RESTART_MIN
            logger.error(
                "etcd ended with code %s, starting it again in %g s: %s",
                code,
                wait,
                self._last_words or "no last words",
            )
            await asyncio.sleep(wait)
            wait = min(RESTART_MAX, 2 * wait)

    async def _run_once(
        self, formation: Formation, *, alone: bool, launched: asyncio.Event
    ) -> int | None:
        """Run it until it ends; its exit code, None when it could not even be started."""
        self._last_words = ""
        try:
            # One that was killed has left it, and etcd would not take its place.
            (self.config.directory / _SOCKET).unlink(missing_ok=True)
            process = await asyncio.create_subprocess_exec(
                *self.command(formation, alone=alone),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=PIPE,
                limit=_LINE_SIZE_MAX,
                cwd=self.config.directory,  # There it makes its socket.
                env=self.environment(formation),
            )
        except OSError as error:
            self._last_words = str(error)
            return None
        finally:
            launched.set()
        self._process = process
        try:
            self._pid_file.write_text(f"{process.pid}\n")
        except OSError as error:  # Of a full disk, where the member itself may live on.
            logger.warning("could not note etcd's process id: %s", error)
        assert process.stderr is not None
        await self._forward_log(process.stderr)
        code = await process.wait()
        self._process = None
        return code

    async def _forward_log(self, stream: asyncio.StreamReader) -> None:
        """Take its log lines over until it closes them."""
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # Longer than any line should be: the reader has dropped it.
                continue
            if not line:
                return
            self._receive_line(line.decode("utf-8", "replace").strip())

    def _receive_line(self, line: str) -> None:
        if _REMOVED in line:
            self._was_removed = True
        try:
            entry = json.loads(line)
            level, text = str(entry["level"]), str(entry["msg"])
        except (ValueError, KeyError, TypeError):
            level, text, entry = "warn", line, {}
        detail = entry.get("error") or entry.get("err") or ""
        number = _LEVELS.get(level, logging.INFO)
        if level == "warn" and any(words in text.lower() for words in _SOCKET_WARNINGS):
            number = logging.DEBUG
        if number >= logging.INFO:
            self._last_words = f"{text}: {detail}" if detail else text
        logger.log(number, "%s%s", text, f": {detail}" if detail else "")

    # A child of an earlier life ---------------------------------------------------------------

    @property
    def _pid_file(self) -> Path:
        return self.config.directory.with_name(self.config.directory.name + ".pid")

    def _end_stale(self) -> None:
        """Kill a member that an earlier agent left behind: it holds our data and our ports."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return
        if f"--data-dir={self.config.directory.absolute()}".encode() in command.split(b"\x00"):
            logger.warning("ending a member of an earlier agent, process %d", pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _why_absent(binary: str) -> str:
    """Why there is no such program, and what to do."""
    if os.sep in binary and os.path.exists(binary):
        return f"{binary} is no program that may be executed: name etcd's in storage.etcd.binary"
    return (
        f"{binary!r} is not installed: a datacenter of several servers keeps its data in etcd; "
        "install it (Debian and Ubuntu: apt-get install etcd-server), or name the program in "
        "storage.etcd.binary, or use an etcd of your own with storage.endpoints"
    )


def version_problem(version: tuple[int, ...]) -> str:
    """Why an etcd release is not to be used; empty when it is."""
    if version < (3, 4, 22):
        return "too old, 3.4.22 is the oldest that works; install a newer one"
    if (3, 5, 0) <= version < (3, 5, 6):
        return "these releases can corrupt data; install 3.5.6 or newer"
    if version >= (4,):
        return "not known to this release; install 3.4 to 3.6"
    return ""
