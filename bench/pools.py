"""Gossip pools of real processes, ours or Debian's serf agents, to be measured side by side."""

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from bench.figures import resident

_DEADLINE = 30.0
_SEEN = re.compile(r"(?:EventMember(Join|Failed): |^(joined|failed) )(\S+)")


@dataclass(frozen=True, slots=True)
class Sighting:
    """A member told of another: which one, when (monotonic clock)."""

    observer: str
    member: str
    at: float


class Member:
    """One process of a pool; what it prints is stamped with the time it came."""

    def __init__(self, name: str, command: list[str], told: Callable[[str, Sighting], None]):
        self.name, self._told = name, told
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = _SEEN.search(line)
            if found is not None:
                kind = (found[1] or found[2]).lower()
                self._told(
                    {"join": "joined"}.get(kind, kind),
                    Sighting(self.name, found[3], time.monotonic()),
                )

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()


class Pool:
    """So many members on ports from `port` on, all joined through the first.

    Args:
        size: How many.
        port: The first port; a pool uses two for each member.
    """

    kind: ClassVar[str]

    def __init__(self, size: int, port: int) -> None:
        self._port = port
        self.names = [f"m{number}" for number in range(size)]
        self.joined: list[Sighting] = []
        self.failed: list[Sighting] = []
        self.members: dict[str, Member] = {}
        for name in self.names:
            self.start(name)
        try:
            self.wait(self._complete)
        except BaseException:
            self.stop()
            raise

    def _complete(self) -> bool:
        """Whether everybody has seen everybody else."""
        known = {(seen.observer, seen.member) for seen in self.joined}
        return all((a, b) in known for a in self.names for b in self.names if a != b)

    def start(self, name: str) -> None:
        """Start a member at the address that belongs to its name."""
        number = self.names.index(name)
        join = [] if number == 0 else [self._address(0)]
        self.members[name] = Member(name, self.command(number, join), self._note)

    def command(self, number: int, join: list[str]) -> list[str]:
        """The command line of one member."""
        raise NotImplementedError

    def ports(self) -> set[int]:
        """Where its members speak."""
        return {self._port + number for number in range(len(self.names))}

    def seen_failing(self, victim: str, since: float) -> dict[str, float]:
        """Seconds after `since` at which each other member first declared `victim` failed."""
        found: dict[str, float] = {}
        for sighting in self.failed:
            if sighting.member == victim and sighting.at >= since:
                found.setdefault(sighting.observer, sighting.at - since)
        return found

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds."""
        until = time.monotonic() + _DEADLINE
        while not condition():
            if time.monotonic() > until:
                raise RuntimeError(f"pool of {self.kind}: not within {_DEADLINE} s")
            time.sleep(0.01)

    def resident(self) -> float:
        """Resident memory of the first member, in MiB."""
        return resident(self.members[self.names[0]].process.pid)

    def stop(self) -> None:
        """End all."""
        for member in self.members.values():
            member.process.kill()
        for member in self.members.values():
            member.process.wait()

    def _note(self, kind: str, sighting: Sighting) -> None:
        {"joined": self.joined, "failed": self.failed}[kind].append(sighting)

    def _address(self, number: int) -> str:
        return f"127.0.0.1:{self._port + number}"


class OurPool(Pool):
    """Members of ours."""

    kind = "isthmus"

    def command(self, number: int, join: list[str]) -> list[str]:
        """See `Pool.command`."""
        name = self.names[number]
        return [sys.executable, "-m", "bench.member", name, self._address(number), *join]


class SerfPool(Pool):
    """Debian's serf agents."""

    kind = "serf"

    def command(self, number: int, join: list[str]) -> list[str]:
        """See `Pool.command`."""
        rpc = f"127.0.0.1:{self._port + len(self.names) + number}"
        return [
            str(shutil.which("serf")), "agent", f"-node={self.names[number]}",
            f"-bind={self._address(number)}", f"-rpc-addr={rpc}", "-profile=lan",
            "-log-level=info", "-retry-interval=1s", *(f"-retry-join={each}" for each in join),
        ]  # fmt: skip


def kinds() -> list[type[Pool]]:
    """The pools that can run here: ours always, serf's where it is installed."""
    return [OurPool, SerfPool] if shutil.which("serf") else [OurPool]
