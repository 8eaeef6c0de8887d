"""The agent as a process: log, limits, pid file, and the way out."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.agent import logs
from isthmus.agent.limits import raise_descriptor_limit
from isthmus.agent.member import start_known_member
from isthmus.agent.memory import give_back_large_blocks
from isthmus.config.model import AgentConfig, LogConfig
from isthmus.errors import ConfigError, IsthmusError, Mistake

if TYPE_CHECKING:
    from isthmus.agent.member import LocalMember
    from isthmus.agent.node import NodeAgent


def run(config: AgentConfig, reload: Callable[[], AgentConfig]) -> int:
    """Run an agent until it is told to stop; the exit code.

    Args:
        config: Checked configuration.
        reload: Reads the configuration again, when that is asked for.
    """
    try:
        give_back_large_blocks()
        raise_descriptor_limit()
        _set_up_log(config.log)
        with _pid_file(config.pid_file):
            return asyncio.run(_run(config, reload))
    except (IsthmusError, OSError) as error:
        logging.getLogger(__name__).error("agent cannot start: %s", error)
        return 1


async def _run(config: AgentConfig, reload: Callable[[], AgentConfig]) -> int:
    member = await start_known_member(config)
    try:
        agent = _make_agent(config, member)
        _listen_to_signals(agent, reload)
        return await agent.run()
    finally:
        if member is not None:
            await member.close()


def _make_agent(config: AgentConfig, member: "LocalMember | None") -> "NodeAgent":
    # What takes the time to be loaded; our etcd starts meanwhile.
    from isthmus.agent.platform import Machine

    machine = Machine(member=member)
    if config.server:
        from isthmus.agent.agent import Agent

        return Agent(config, machine)
    from isthmus.agent.client import ClientAgent

    return ClientAgent(config, machine)


def _listen_to_signals(agent: "NodeAgent", reload: Callable[[], AgentConfig]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, agent.receive_signal, number)
    agent.reloading.read = reload
    loop.add_signal_handler(signal.SIGHUP, agent.receive_reload)


def _set_up_log(config: LogConfig) -> None:
    try:
        logs.set_up(config)
    except OSError as error:
        if not config.file or error.filename is None:
            raise
        raise ConfigError([_not_writable("log_file", error)]) from error


def _not_writable(key: str, error: OSError) -> Mistake:
    text = f"cannot write {error.filename}: {error.strerror}"
    return Mistake("", key, text, "create its directory, or name another file")


@contextlib.contextmanager
def _pid_file(path: str) -> Iterator[None]:
    if not path:
        yield
        return
    try:
        Path(path).write_text(str(os.getpid()))
    except OSError as error:
        raise ConfigError([_not_writable("pid_file", error)]) from error
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)
