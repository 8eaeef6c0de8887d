"""A folder of data belongs to one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.engine.folder_lock import FolderLock
from isthmus.store.engine import Locked

_HOLD = """
import sys
from pathlib import Path
from isthmus.engine.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.take()
print("taken", flush=True)
sys.stdin.read()
"""


def test_second_one_is_told_who_holds_it_until_it_is_released(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.take()
    with pytest.raises(Locked, match=r"in use by another process \(process id \d+\)"):
        second.take()
    first.release()
    second.take()
    second.release()


def test_release_of_what_is_not_held_does_nothing(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.take()
    second.release()
    with pytest.raises(Locked):
        second.take()
    first.release()


def test_process_that_is_killed_holds_it_no_longer(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"taken\n"
        lock = FolderLock(tmp_path)
        with pytest.raises(Locked, match=rf"process id {holder.pid}\)"):
            lock.take()
        holder.kill()
        holder.wait(timeout=30)
        lock.take()
        lock.release()
