"""A check that runs a program: exit code 0 is passing, 1 a warning, everything else critical.

Source: Consul 1.10, agent/checks, as Nagios plugins have it.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from isthmus.agent.checks.result import Result, Tail, critical
from isthmus.model.catalog import CRITICAL, PASSING, WARNING
from isthmus.units import Duration, format_duration

SCRIPT_TIMEOUT_DEFAULT: Final = 30.0  # Consul's.
_WARNING_CODE: Final = 1


class _Run(asyncio.SubprocessProtocol):
    """A running program.

    Attributes:
        output: What it writes.
        over: Done once it has ended and its output is closed.
    """

    def __init__(self, output_size_max: int) -> None:
        self.output = Tail(output_size_max)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take a part of the output."""
        self.output.add(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if not self.over.done():
            self.over.set_result(None)


async def probe_script(args: Sequence[str], *, timeout: float, output_size_max: int) -> Result:
    """Run a program until it has ended and closed its output, at most so long.

    It runs in a process group of its own, which is killed when the time is over.
    """
    try:
        transport, run = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Run(output_size_max),
            *args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return critical(f"{args[0]}: {error}")
    try:
        async with asyncio.timeout(timeout):
            await asyncio.shield(run.over)
    except TimeoutError:
        notice = f"Timed out ({format_duration(Duration.of(timeout))}) running check"
        text = run.output.text_with_notice
        return Result(CRITICAL, f"{notice}\n\n{text}" if text else notice, certain=True)
    finally:
        await _end(transport, run)
    return Result(_status(transport.get_returncode()), run.output.text_with_notice)


def _status(code: int | None) -> str:
    if code == 0:
        return PASSING
    return WARNING if code == _WARNING_CODE else CRITICAL


async def _end(transport: asyncio.SubprocessTransport, run: _Run) -> None:
    """Kill what is left of a run that is not over, so that runs never pile up."""
    if not run.over.done():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        transport.close()
        await asyncio.shield(run.over)
    transport.close()
