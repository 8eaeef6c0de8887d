"""Debian's serf agents as peers of our pools, and what a test needs to watch both."""

import asyncio
import base64
import json
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from isthmus.net.gossip import PoolEvent

SERF = shutil.which("serf")


async def eventually(check: Callable[[], Awaitable[bool]], *, within: float) -> None:
    """Ask another process until it says yes; it has no way to tell us."""
    async with asyncio.timeout(within):
        while True:
            if await check():
                return
            await asyncio.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """TCP ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class SerfAgent:
    """A serf agent that can be stopped and started again, and its command line.

    Args:
        name: Its node name.
        log: Where its output goes.
        options: Of its command line.
        profile: Its timing.
    """

    def __init__(self, name: str, log: Path, *options: str, profile: str = "local") -> None:
        self.name, self._log, self._options = name, log, (f"-profile={profile}", *options)
        gossip, rpc = free_ports(2)
        self.port = gossip
        self.address, self._rpc = f"127.0.0.1:{gossip}", f"127.0.0.1:{rpc}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *options: str) -> None:
        """Start it, with options of this start beside its own; returns once it can be asked."""
        assert SERF is not None
        with self._log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                SERF, "agent", f"-node={self.name}", f"-bind={self.address}",
                f"-rpc-addr={self._rpc}", "-log-level=debug",
                *self._options, *options, stdout=output, stderr=output,
            )  # fmt: skip

        async def answers() -> bool:
            try:
                _, writer = await asyncio.open_connection(*self._rpc.split(":"))
            except OSError:
                return False
            writer.close()
            return True

        await eventually(answers, within=10)

    async def kill(self) -> None:
        """SIGKILL, if it runs."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @property
    def log(self) -> str:
        """All that it logged so far."""
        return self._log.read_text(errors="replace")

    async def try_command(self, *words: str) -> tuple[int, str]:
        """Exit status and output of ``serf WORDS``."""
        assert SERF is not None
        process = await asyncio.create_subprocess_exec(
            SERF, words[0], f"-rpc-addr={self._rpc}", *words[1:],
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def command(self, *words: str) -> str:
        """Output of ``serf WORDS``, which must succeed."""
        status, output = await self.try_command(*words)
        assert status == 0, output
        return output

    async def members(self) -> dict[str, dict[str, Any]]:
        """Its view of the pool, by name."""
        listing = json.loads(await self.command("members", "-format=json"))
        return {member["name"]: member for member in listing["members"]}

    async def statuses(self) -> dict[str, str]:
        """The members' statuses, by name."""
        return {name: member["status"] for name, member in (await self.members()).items()}

    async def sees(self, name: str, status: str, *, within: float) -> None:
        """Wait until it gives a member this status; an empty one: it knows it no more."""

        async def seen() -> bool:
            return (await self.statuses()).get(name, "") == status

        await eventually(seen, within=within)

    async def logs(self, text: str, *, within: float) -> None:
        """Wait until it logged this."""

        async def logged() -> bool:
            return text in self.log

        await eventually(logged, within=within)


@asynccontextmanager
async def serf_agent(name: str, log: Path, *options: str) -> AsyncIterator[SerfAgent]:
    """A running agent, killed in the end."""
    agent = SerfAgent(name, log, *options)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.kill()


def encrypt_option(key: bytes) -> str:
    """The option that gives an agent its key."""
    return f"-encrypt={base64.b64encode(key).decode()}"


class Observer:
    """Remembers a pool's events and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[PoolEvent] = []
        self._changed = asyncio.Event()

    def __call__(self, event: PoolEvent) -> None:
        """Note an event."""
        self.events.append(event)
        self._changed.set()

    def of(self, kind: type) -> list[Any]:
        """Events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def changes(self) -> None:
        """Wait for another event."""
        self._changed.clear()
        await self._changed.wait()

    async def wait_for(self, kind: type, name: str, *, within: float = 45.0, after: int = 0) -> Any:
        """The first event of this kind about `name` behind the first `after` events of all."""
        try:
            async with asyncio.timeout(within):
                while True:
                    for event in self.events[after:]:
                        subject: Any = getattr(event, "member", getattr(event, "query", event))
                        if isinstance(event, kind) and subject.name == name:
                            return event
                    await self.changes()
        except TimeoutError:
            raise TimeoutError(f"no {kind.__name__} of {name} in {self.events}") from None
