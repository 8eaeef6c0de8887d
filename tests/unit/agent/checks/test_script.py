"""Script checks with real programs."""

import asyncio
import os
from pathlib import Path

import pytest

from isthmus.agent.checks.result import Result
from isthmus.agent.checks.script import probe_script, run_program

TIMEOUT = 30.0


async def run(*args: str, timeout: float = TIMEOUT, size: int = 4096) -> Result:
    return await probe_script(args, timeout=timeout, output_size_max=size)


@pytest.mark.parametrize(
    ("code", "status"), [(0, "passing"), (1, "warning"), (2, "critical"), (127, "critical")]
)
async def test_exit_code_decides(code: int, status: str) -> None:
    found = await run("/bin/sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert found == Result(status, "out\nerr\n")


async def test_killed_program_is_critical() -> None:
    assert (await run("/bin/sh", "-c", "kill -9 $$")).status == "critical"


async def test_last_part_of_the_output_is_kept() -> None:
    found = await run("/bin/sh", "-c", "printf 0123456789", size=4)
    assert found.output == "Captured 4 of 10 bytes\n...\n6789"


async def test_program_has_no_input() -> None:
    assert await run("/bin/cat") == Result("passing", "")


@pytest.mark.parametrize("args", [("/does/not/exist",), ("/",), ("a\x00b",)])
async def test_program_that_can_not_be_run_is_critical(args: tuple[str, ...]) -> None:
    found = await run(*args)
    assert found.status == "critical"
    assert found.output


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def _gone(pid: int) -> None:
    async with asyncio.timeout(TIMEOUT):
        while _is_alive(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # A process that is no child of ours tells nobody.


async def test_time_that_is_over_ends_the_whole_process_group(tmp_path: Path) -> None:
    """A child of the program that has its output open, too."""
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    text = f"sleep 1000 & echo started; echo $$ $! > {pids}; wait"
    reader = asyncio.get_running_loop().run_in_executor(None, pids.read_text)
    found = await run("/bin/sh", "-c", text, timeout=1.0)
    assert found.status == "critical"
    assert found.output.startswith("Timed out (1s) running check")
    assert found.certain
    for pid in (await reader).split():
        await _gone(int(pid))


async def test_cancelled_check_leaves_no_program_behind(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    reader = asyncio.get_running_loop().run_in_executor(None, pids.read_text)
    task = asyncio.get_running_loop().create_task(
        run("/bin/sh", "-c", f"echo $$ > {pids}; sleep 1000")
    )
    pid = int(await reader)
    task.cancel()
    await asyncio.wait({task})
    await _gone(pid)


async def test_program_gets_data_and_an_environment() -> None:
    end = await run_program(
        ["/bin/sh", "-c", 'cat; printf %s "$X"; exit 3'],
        timeout=60.0,
        output_size_max=100,
        data=b"in ",
        environment={"X": "1"},
    )
    assert (end.code, end.output.text) == (3, "in 1")


async def test_program_need_not_read_its_data() -> None:
    end = await run_program(["true"], timeout=60.0, output_size_max=1, data=bytes(1_000_000))
    assert end.code == 0
