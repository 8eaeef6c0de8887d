"""A check that runs a program: exit code 0 is passing, 1 a warning, everything else critical.

Source: Consul 1.10, agent/checks, as Nagios plugins have it.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

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


class ProgramEnd(NamedTuple):
    """How a run of a program ended.

    Attributes:
        code: Exit code, negative for the signal that killed it; None: its time was over.
        output: The last of what it wrote.
    """

    code: int | None
    output: Tail


async def run_program(
    args: Sequence[str],
    *,
    timeout: float,
    output_size_max: int,
    data: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> ProgramEnd:
    """Run a program until it has ended and closed its output, at most so long.

    It runs in a process group of its own, which is killed when the time is over.

    Args:
        args: Program and arguments.
        timeout: Seconds for all of it.
        output_size_max: Bytes of its output that are kept.
        data: What it finds on its standard input, whether it reads that or not.
        environment: Of the program; None for ours.

    Raises:
        OSError, ValueError: It cannot be started.
    """
    loop = asyncio.get_running_loop()
    starting = loop.create_task(
        loop.subprocess_exec(
            lambda: _Run(output_size_max),
            *args,
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    )
    try:
        transport, run = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(OSError, ValueError):  # It runs before we are told that it does.
            await _end(*await starting)
        raise
    try:
        async with asyncio.timeout(timeout):
            if data is not None:
                _feed(transport, data)
            await asyncio.shield(run.over)
    except TimeoutError:
        return ProgramEnd(None, run.output)
    finally:
        await _end(transport, run)
    return ProgramEnd(transport.get_returncode() or 0, run.output)


def _feed(transport: asyncio.SubprocessTransport, data: bytes) -> None:
    """Write to a program's standard input; it need not read it."""
    pipe = transport.get_pipe_transport(0)
    assert isinstance(pipe, asyncio.WriteTransport)
    pipe.write(data)
    pipe.write_eof()


async def probe_script(args: Sequence[str], *, timeout: float, output_size_max: int) -> Result:
    """Run a program until it has ended and closed its output, at most so long."""
    try:
        end = await run_program(args, timeout=timeout, output_size_max=output_size_max)
    except OSError as error:
        return critical(f"fork/exec {args[0]}: {(error.strerror or str(error)).lower()}")
    except ValueError as error:
        return critical(f"{args[0]}: {error}")
    text = end.output.text_with_notice
    if end.code is None:
        notice = f"Timed out ({format_duration(Duration.of(timeout))}) running check"
        return Result(CRITICAL, f"{notice}\n\n{text}" if text else notice, certain=True)
    return Result(_status(end.code), text)


def _status(code: int) -> str:
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
