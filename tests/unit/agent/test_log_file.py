"""When a log file becomes an old one, and which old ones stay."""

import logging
import os
from pathlib import Path

import pytest

from isthmus.agent.log_file import LogFile, log_path

DAY = 86400.0


def record(text: str, at: float = 1_000_000_000.0) -> logging.LogRecord:
    made = logging.LogRecord("a", logging.INFO, "", 0, text, (), None)
    made.created = at
    return made


def write(handler: LogFile, *texts: str) -> None:
    for text in texts:
        handler.emit(record(text))
    handler.close()


def contents(folder: Path) -> list[str]:
    """What the old files hold, oldest first, and the current one last."""
    current = [path for path in folder.iterdir() if "-" not in path.name]
    old = sorted(path for path in folder.iterdir() if "-" in path.name)
    return [path.read_text() for path in (*old, *current)]


@pytest.mark.parametrize(
    ("written", "path"),
    [("/var/log/a.txt", "/var/log/a.txt"), ("/var/log/a", "/var/log/a.log"),
     ("/var/log/", "/var/log/isthmus.log")],
)  # fmt: skip
def test_path_is_completed(written: str, path: str) -> None:
    assert log_path(written) == Path(path)


def test_full_file_becomes_an_old_one(tmp_path: Path) -> None:
    write(LogFile(f"{tmp_path}/a.log", size_max=4, age_max=DAY), "one", "two", "three")
    assert contents(tmp_path) == ["one\n", "two\n", "three\n"]
    assert (tmp_path / "a.log").read_text() == "three\n"


def test_file_without_limits_goes_on(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write(LogFile(f"{tmp_path}/a.log", age_max=DAY), text)
    written = (tmp_path / "a.log").read_text()
    assert written == "one\ntwo\n"


def test_old_line_ends_a_file(tmp_path: Path) -> None:
    handler = LogFile(f"{tmp_path}/a.log", age_max=10.0)
    for text, at in (("one", 100.0), ("two", 109.0), ("three", 110.0), ("four", 119.0)):
        handler.emit(record(text, at))
    handler.close()
    assert contents(tmp_path) == ["one\ntwo\n", "three\nfour\n"]


def test_age_counts_from_the_last_line_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("before\n")
    os.utime(path, (100.0, 100.0))
    handler = LogFile(str(path), age_max=10.0)
    handler.emit(record("now", 111.0))
    handler.close()
    assert contents(tmp_path) == ["before\n", "now\n"]


@pytest.mark.parametrize(
    ("kept", "left"),
    [(0, ["1\n", "2\n", "3\n", "4\n"]), (2, ["2\n", "3\n", "4\n"]), (-1, ["4\n"])],
)
def test_so_many_old_files_stay(tmp_path: Path, kept: int, left: list[str]) -> None:
    (tmp_path / "a-note.log").write_text("not ours")
    handler = LogFile(f"{tmp_path}/a.log", size_max=1, age_max=DAY, old_files_max=kept)
    write(handler, "1", "2", "3", "4")
    assert (tmp_path / "a-note.log").read_text() == "not ours"
    (tmp_path / "a-note.log").unlink()
    assert contents(tmp_path) == left
